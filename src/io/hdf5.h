#pragma once
/// Every HDF5 call of this program, wrapped once: handles that close themselves, and errors that
/// name operation, file and object (Error{input}). One mutex guards the library, which is not
/// thread-safe. What is written has no object times, fixed-length strings and contiguous datasets:
/// equal calls give equal bytes. Private to src/io and its tests.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "aq/core/index.h"

namespace aq::hdf5 {

/// Element types of datasets and numeric attributes; little-endian in the file.
enum class Type { u8, u16, u32, i32, i64, f16, f32, f64 };

/// An open file, group or dataset.
class Object {
 public:
  Object() = default;
  Object(std::int64_t id, std::string file, std::string path)
      : id_(id), file_(std::move(file)), path_(std::move(path)) {}
  ~Object();
  Object(Object&& other) noexcept;
  Object& operator=(Object&& other) noexcept;

  std::int64_t id() const { return id_; }
  const std::string& file() const { return file_; }
  /// "file.h5: /path/of/object", for messages; with `child`, of that member.
  std::string text(const std::string& child = {}) const;
  std::string child_path(const std::string& child) const;
  /// Closes now and reports what goes wrong, a full disk for instance.
  void close();

 private:
  std::int64_t id_ = -1;
  std::string file_;
  std::string path_;
};

std::string version();

/// A new file, or an empty one in the place of an old one; as an Object its root group.
Object create_file(const std::filesystem::path& path);
Object open_file(const std::filesystem::path& path);
/// A file that this program wrote: all of its metadata have checksums, which the library verifies
/// before it uses them. Older formats, in which damage crashes the library, are refused.
Object open_own_file(const std::filesystem::path& path);

/// `many_members`: links are stored in a B-tree from the first on.
Object create_group(const Object& parent, const std::string& name, bool many_members = false);
Object open_group(const Object& parent, const std::string& name);
bool exists(const Object& parent, const std::string& name);
/// Names of the members in the order in which they were made (by name where that is not known).
std::vector<std::string> members(const Object& group);

/// Writes a whole contiguous dataset.
Object write_dataset(const Object& parent, const std::string& name, Type type,
                     const std::vector<Index>& shape, const void* values);
/// Opens a dataset whose data are really in the file: not virtual, not external, not longer than
/// what is stored.
Object open_dataset(const Object& parent, const std::string& name);
std::vector<Index> shape(const Object& dataset);
/// The stored element type when it is one of Type.
std::optional<Type> stored_type(const Object& dataset);
/// Whether the elements are integers of any size.
bool is_integer(const Object& dataset);
/// Reads all elements, converted to `memory_type`.
void read_dataset(const Object& dataset, Type memory_type, void* out);
/// Reads a block of a dataset of the same rank: `count` elements from `begin` in each dimension.
void read_block(const Object& dataset, Type memory_type, const std::vector<Index>& begin,
                const std::vector<Index>& count, void* out);

/// String attribute of fixed length; replaces an older one.
void write_text(const Object& object, const std::string& name, const std::string& text);
/// One-dimensional attribute of fixed-length strings.
void write_texts(const Object& object, const std::string& name,
                 const std::vector<std::string>& texts);
/// One-dimensional attribute of `count` numbers; scalar when `count` is -1.
void write_numbers(const Object& object, const std::string& name, Type type, Index count,
                   const void* values);
/// Nothing when there is no such attribute; an error when it is not a scalar string.
std::optional<std::string> read_text(const Object& object, const std::string& name);
/// The integers of a one-dimensional attribute; an error when it is missing or something else.
std::vector<Index> read_integers(const Object& object, const std::string& name);
/// A scalar number; an error when it is missing or something else. `memory_type` is f64 or i64, and
/// the stored number must be a float or an integer like it.
void read_number(const Object& object, const std::string& name, Type memory_type, void* value);
/// The texts of a one-dimensional attribute of fixed-length strings; an error as above.
std::vector<std::string> read_texts(const Object& object, const std::string& name);

}  // namespace aq::hdf5
