#include "io/hdf5.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

#include "io/hdf5_library.h"
#include "io/posix_file.h"

namespace aq::hdf5 {
namespace {

std::vector<hsize_t> sizes(const std::vector<Index>& shape) {
  return {shape.begin(), shape.end()};
}

void track_order(hid_t properties, bool many_members) {
  H5Pset_link_creation_order(properties, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
  H5Pset_obj_track_times(properties, 0);
  if (many_members) H5Pset_link_phase_change(properties, 0, 0);
}

Id access_properties() {
  const hid_t properties = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(properties, H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Pset_file_locking(properties, 0, 1);  // some parallel file systems have no locks
  return {properties, "prepare HDF5 properties", "HDF5"};
}

/// Whether the content of an object is written, if it is a file. If not (a full disk), it must stay
/// open: the library frees such a file half when it is closed and crashes later.
bool flushed(hid_t id) {
  return H5Iget_type(id) != H5I_FILE || H5Fflush(id, H5F_SCOPE_LOCAL) >= 0;
}

}  // namespace

Object::~Object() {
  if (id_ < 0) return;
  const Lock lock;
  if (flushed(id_)) H5Idec_ref(id_);
}

Object::Object(Object&& other) noexcept
    : id_(std::exchange(other.id_, -1)),
      file_(std::move(other.file_)),
      path_(std::move(other.path_)) {}

Object& Object::operator=(Object&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(file_, other.file_);
  std::swap(path_, other.path_);
  return *this;
}

std::string Object::child_path(const std::string& child) const {
  if (child.empty()) return path_;
  return str(path_ == "/" ? "" : path_, "/", child);
}

std::string Object::text(const std::string& child) const {
  const std::string path = child_path(child);
  return path == "/" ? file_ : str(file_, ": ", path);
}

void Object::close() {
  const Lock lock;
  if (id_ < 0) return;
  const hid_t id = std::exchange(id_, -1);
  if (!flushed(id)) fail("write", text(), library_reason());
  check(H5Idec_ref(id), "close", text());
}

std::string version() {
  unsigned major = 0, minor = 0, release = 0;
  const Lock lock;
  H5get_libversion(&major, &minor, &release);
  return str(major, ".", minor, ".", release);
}

Object create_file(const std::filesystem::path& path) {
  const Lock lock;
  const Id access = access_properties();
  H5Pset_fclose_degree(access, H5F_CLOSE_SEMI);  // closed means closed: it is renamed next
  H5Pset_meta_block_size(access, hsize_t{1} << 14);
  const Id creation = property_list(H5P_FILE_CREATE);
  track_order(creation, false);
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access);
  if (id < 0) fail("create the HDF5 file", path.string(), library_reason());
  return {id, path.string(), "/"};
}

Object open_file(const std::filesystem::path& path) {
  if (::faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS) != 0)
    fail_to_read("open the HDF5 file", path, errno);
  const Lock lock;
  const Id access = access_properties();
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  return {check(id, "open the HDF5 file", path.string()), path.string(), "/"};
}

Object open_own_file(const std::filesystem::path& path) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  constexpr int kVersion = 3;  // of the superblock, which follows the signature
  std::array<char, 9> begin{};
  PosixFile::open(path).read_next(std::as_writable_bytes(std::span(begin)));
  const std::string_view text(begin.data(), begin.size());
  if (text.starts_with(kSignature) && text.back() != kVersion)
    fail("open the HDF5 file", path.string(),
         str("its superblock is of version ", static_cast<int>(text.back()), ", not ", kVersion,
             ": it was not written by aq-dist"));
  return open_file(path);
}

Object create_group(const Object& parent, const std::string& name, bool many_members) {
  const Lock lock;
  const Id creation = property_list(H5P_GROUP_CREATE);
  track_order(creation, many_members);
  const hid_t id = H5Gcreate2(parent.id(), name.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT);
  return {check(id, "create the group", parent.text(name)), parent.file(), parent.child_path(name)};
}

Object open_group(const Object& parent, const std::string& name) {
  const Lock lock;
  if (!exists(parent, name)) fail("open the group", parent.text(name), "it is missing");
  const hid_t id = H5Gopen2(parent.id(), name.c_str(), H5P_DEFAULT);
  return {check(id, "open the group", parent.text(name)), parent.file(), parent.child_path(name)};
}

bool exists(const Object& parent, const std::string& name) {
  const Lock lock;
  return check(H5Lexists(parent.id(), name.c_str(), H5P_DEFAULT), "look up", parent.text(name)) > 0;
}

std::vector<std::string> members(const Object& group) {
  using Link = std::pair<std::int64_t, std::string>;  // number in order of creation, name
  const Lock lock;
  std::vector<Link> links;
  const auto add = [](hid_t, const char* name, const H5L_info_t* info, void* data) -> herr_t {
    static_cast<std::vector<Link>*>(data)->emplace_back(info->corder_valid ? info->corder : 0,
                                                        name);
    return 0;
  };
  // In the order of the library's own storage: for another order it builds a table, and release
  // 1.10 crashes when that fails on a damaged file.
  check(H5Literate(group.id(), H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &links),
        "list the members", group.text());
  std::sort(links.begin(), links.end());
  std::vector<std::string> names;
  for (Link& link : links) names.push_back(std::move(link.second));
  return names;
}

Object write_dataset(const Object& parent, const std::string& name, Type type,
                     const std::vector<Index>& shape, const void* values) {
  constexpr const char* operation = "write the dataset";
  const Lock lock;
  const std::string object = parent.text(name);
  const std::vector<hsize_t> dimensions = sizes(shape);
  const Id space(H5Screate_simple(static_cast<int>(shape.size()), dimensions.data(), nullptr),
                 operation, object);
  const Id element = type_id(type);
  const Id creation = property_list(H5P_DATASET_CREATE);
  H5Pset_obj_track_times(creation, 0);
  H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER);
  Object dataset(check(H5Dcreate2(parent.id(), name.c_str(), element, space, H5P_DEFAULT, creation,
                                  H5P_DEFAULT),
                       operation, object),
                 parent.file(), parent.child_path(name));
  check(H5Dwrite(dataset.id(), element, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), operation, object);
  return dataset;
}

namespace {

/// Registered filters (the HDF Group's list) that files may use without naming them.
constexpr std::array<std::pair<int, const char*>, 9> kFilters{{{4, "szip"},
                                                               {32000, "lzf"},
                                                               {32001, "blosc"},
                                                               {32004, "lz4"},
                                                               {32008, "bitshuffle"},
                                                               {32013, "zfp"},
                                                               {32015, "zstd"},
                                                               {32017, "sz"},
                                                               {32026, "blosc2"}}};

/// Bytes of all elements, as the dataset's dimensions and type say.
Index claimed_bytes(hid_t dataset, const std::string& object) {
  const Id space(H5Dget_space(dataset), "open the dataset", object);
  const Id type(H5Dget_type(dataset), "open the dataset", object);
  const hssize_t elements = check(H5Sget_simple_extent_npoints(space), "open the dataset", object);
  return checked_multiply(elements, static_cast<Index>(H5Tget_size(type)), object);
}

/// Refuses data that were compressed by what this library lacks and finds no plugin of.
void check_filters(hid_t creation, const std::string& object) {
  const int count = check(H5Pget_nfilters(creation), "open the dataset", object);
  for (unsigned i = 0; i < static_cast<unsigned>(count); ++i) {
    unsigned flags = 0;
    std::size_t values = 0;
    std::array<char, 100> name{};
    const H5Z_filter_t filter =
        H5Pget_filter2(creation, i, &flags, &values, nullptr, name.size(), name.data(), nullptr);
    if (filter < 0 || H5Zfilter_avail(filter) > 0) continue;
    const auto known = std::find_if(kFilters.begin(), kFilters.end(),
                                    [&](const auto& entry) { return entry.first == filter; });
    std::string said = name.front() != '\0' ? name.data() : "";
    if (said.empty()) said = known != kFilters.end() ? known->second : "unknown";
    throw Error(ErrorKind::input, "open the dataset", object,
                str("it is compressed with filter ", filter, " (", said,
                    "), which the HDF5 library lacks here"),
                "write it again with gzip or uncompressed, or name the directory of the filter's "
                "plugin in HDF5_PLUGIN_PATH");
  }
}

/// Refuses data that the library would invent (zeros for a missing file or an unwritten block) and
/// dimensions that are longer than what is stored.
void check_stored(hid_t dataset, const std::string& object) {
  constexpr const char* operation = "open the dataset";
  constexpr Index kMaximalCompression = 2000;  // DEFLATE reaches 1032
  const Id creation(H5Dget_create_plist(dataset), operation, object);
  const H5D_layout_t layout = check(H5Pget_layout(creation), operation, object);
  if (layout == H5D_VIRTUAL || H5Pget_external_count(creation) > 0)
    fail(operation, object, "its data lie in other files, which is not supported");
  check_filters(creation, object);
  if (layout == H5D_COMPACT) return;
  const Index claimed = claimed_bytes(dataset, object);
  const bool filtered = H5Pget_nfilters(creation) > 0;
  const auto stored = static_cast<Index>(H5Dget_storage_size(dataset));
  if (claimed / (filtered ? kMaximalCompression : 1) > stored)
    fail(operation, object,
         str("its dimensions need ", claimed, " bytes, but only ", stored, " were written"));
  const Id file(H5Iget_file_id(dataset), operation, object);
  hsize_t file_bytes = 0;
  check(H5Fget_filesize(file, &file_bytes), operation, object);
  if (stored > static_cast<Index>(file_bytes))
    fail(operation, object, "it is longer than the file");
}

}  // namespace

Object open_dataset(const Object& parent, const std::string& name) {
  const Lock lock;
  const std::string object = parent.text(name);
  if (!exists(parent, name)) fail("open the dataset", object, "it is missing");
  const hid_t id = H5Dopen2(parent.id(), name.c_str(), H5P_DEFAULT);
  Object dataset(check(id, "open the dataset", object), parent.file(), parent.child_path(name));
  check_stored(id, object);
  return dataset;
}

std::vector<Index> shape(const Object& dataset) {
  const Lock lock;
  const Id space(H5Dget_space(dataset.id()), "read the shape", dataset.text());
  const int rank = check(H5Sget_simple_extent_ndims(space), "read the shape", dataset.text());
  std::vector<hsize_t> dimensions(rank);
  if (rank > 0)
    check(H5Sget_simple_extent_dims(space, dimensions.data(), nullptr), "read the shape",
          dataset.text());
  std::vector<Index> result;
  for (const hsize_t size : dimensions) {
    if (size >> 62 != 0) fail("read the shape", dataset.text(), "a dimension is too large");
    result.push_back(static_cast<Index>(size));
  }
  return result;
}

std::optional<Type> stored_type(const Object& dataset) {
  const Lock lock;
  const Id stored(H5Dget_type(dataset.id()), "read the type", dataset.text());
  for (const Type type :
       {Type::u8, Type::u16, Type::u32, Type::i32, Type::i64, Type::f16, Type::f32, Type::f64})
    if (H5Tequal(stored, type_id(type)) > 0) return type;
  return std::nullopt;
}

bool is_integer(const Object& dataset) {
  const Lock lock;
  const Id stored(H5Dget_type(dataset.id()), "read the type", dataset.text());
  return H5Tget_class(stored) == H5T_INTEGER;
}

void read_dataset(const Object& dataset, Type memory_type, void* out) {
  const Lock lock;
  check(H5Dread(dataset.id(), type_id(memory_type), H5S_ALL, H5S_ALL, H5P_DEFAULT, out),
        "read the dataset", dataset.text());
}

void read_block(const Object& dataset, Type memory_type, const std::vector<Index>& begin,
                const std::vector<Index>& count, void* out) {
  constexpr const char* operation = "read the dataset";
  const Lock lock;
  const std::vector<hsize_t> from = sizes(begin), size = sizes(count);
  const Id file(H5Dget_space(dataset.id()), operation, dataset.text());
  check(H5Sselect_hyperslab(file, H5S_SELECT_SET, from.data(), nullptr, size.data(), nullptr),
        operation, dataset.text());
  const Id memory(H5Screate_simple(static_cast<int>(size.size()), size.data(), nullptr), operation,
                  dataset.text());
  check(H5Dread(dataset.id(), type_id(memory_type), memory, file, H5P_DEFAULT, out), operation,
        dataset.text());
}

}  // namespace aq::hdf5
