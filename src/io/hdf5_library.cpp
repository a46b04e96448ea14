#include "io/hdf5_library.h"

#include <bit>
#include <mutex>
#include <type_traits>

#include "aq/io/read_error.h"
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

/// Where an error began.
struct Cause {
  std::string text;
  hid_t major = -1, minor = -1;
};

Cause innermost() {
  Cause cause;
  const auto keep_first = [](unsigned number, const H5E_error2_t* error, void* data) -> herr_t {
    if (number == 0)
      *static_cast<Cause*>(data) = {error->desc == nullptr ? "" : error->desc, error->maj_num,
                                    error->min_num};
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &cause);
  return cause;
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

namespace {

std::string shown(const std::string& reason) {
  const auto value_of = [&](const std::string& marker, char end) {
    const auto at = reason.find(marker);
    if (at == std::string::npos) return std::string();
    const auto begin = at + marker.size();
    return reason.substr(begin, reason.find(end, begin) - begin);
  };
  // Of a system call.
  if (const std::string message = value_of("error message = '", '\''); !message.empty())
    return str(message, " (errno ", value_of("errno = ", ','), ")");
  return reason.empty() ? "the HDF5 library gives no reason" : reason.substr(0, 300);
}

}  // namespace

std::string library_reason() {
  return shown(innermost().text);
}

void fail_in_library(const char* operation, const std::string& object) {
  const Cause cause = innermost();
  const bool refused = cause.minor == H5E_READERROR && cause.major == H5E_IO;
  const bool no_memory = cause.major == H5E_RESOURCE;
  const bool held = cause.minor == H5E_CANTOPENFILE || cause.minor == H5E_CANTLOCKFILE;
  if (refused || no_memory || held)
    throw ReadError(operation, object, shown(cause.text), remedy(shown(cause.text)));
  fail(operation, object, shown(cause.text));
}

Id property_list(hid_t kind) {
  return {H5Pcreate(kind), "prepare HDF5 properties", "HDF5"};
}

Id type_id(Type type) {
  return {copy_type(type), "make an HDF5 type", "HDF5"};
}

}  // namespace aq::hdf5
