#include "io/hdf5_library.h"

#include <bit>
#include <mutex>
#include <type_traits>

#include "io/posix_file.h"

namespace aq::hdf5 {
namespace {

static_assert(std::is_same_v<hid_t, std::int64_t>);
static_assert(std::endian::native == std::endian::little);

std::recursive_mutex& library_mutex() {
  static std::recursive_mutex instance;
  return instance;
}

/// IEEE 754 binary16.
hid_t half_type() {
  const hid_t half = H5Tcopy(H5T_IEEE_F32LE);
  H5Tset_fields(half, 15, 10, 5, 0, 10);
  H5Tset_size(half, 2);
  H5Tset_ebias(half, 15);
  return half;
}

/// A new id, which the caller releases.
hid_t copy_type(Type type) {
  switch (type) {
    case Type::u8:
      return H5Tcopy(H5T_STD_U8LE);
    case Type::u16:
      return H5Tcopy(H5T_STD_U16LE);
    case Type::u32:
      return H5Tcopy(H5T_STD_U32LE);
    case Type::i32:
      return H5Tcopy(H5T_STD_I32LE);
    case Type::i64:
      return H5Tcopy(H5T_STD_I64LE);
    case Type::f16:
      return half_type();
    case Type::f32:
      return H5Tcopy(H5T_IEEE_F32LE);
    case Type::f64:
      return H5Tcopy(H5T_IEEE_F64LE);
  }
  return -1;
}

}  // namespace

Lock::Lock() {
  library_mutex().lock();
  // Nothing is left to the library's work at exit: every object closes itself.
  static const herr_t no_exit_handler = H5dont_atexit();
  (void)no_exit_handler;
  thread_local const herr_t quiet = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  (void)quiet;
}

Lock::~Lock() {
  library_mutex().unlock();
}

void fail(const char* operation, const std::string& object, const std::string& reason) {
  throw Error(ErrorKind::input, operation, object, reason, remedy(reason));
}

std::string library_reason() {
  std::string reason;
  const auto keep_first = [](unsigned, const H5E_error2_t* error, void* data) -> herr_t {
    auto& text = *static_cast<std::string*>(data);
    if (text.empty() && error->desc != nullptr) text = error->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &reason);
  const std::string marker = "error message = '";  // of a system call
  if (const auto at = reason.find(marker); at != std::string::npos) {
    const auto begin = at + marker.size();
    return reason.substr(begin, reason.find('\'', begin) - begin);
  }
  return reason.empty() ? "the HDF5 library gives no reason" : reason.substr(0, 300);
}

Id property_list(hid_t kind) {
  return {H5Pcreate(kind), "prepare HDF5 properties", "HDF5"};
}

Id type_id(Type type) {
  return {copy_type(type), "make an HDF5 type", "HDF5"};
}

}  // namespace aq::hdf5
