#pragma once
/// Checksums of what a matrix file holds: each matrix and each kept Hessian has one over its
/// attributes and datasets. Private to src/io and its tests.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/hash.h"
#include "aq/io/hessian_file.h"
#include "io/hdf5.h"
#include "io/posix_file.h"

namespace aq {

/// Checksum of one group: of its name, then of each attribute but `checksum` by name, then of each
/// dataset by name, followed by its own attributes. The XXH64 of every name and every value is the
/// seed of the next one, beginning with 0.
class Checksum {
 public:
  explicit Checksum(std::string_view group) { add(group); }

  /// Integers and floats as they lie in memory (little-endian), texts without padding, lists of
  /// texts joined by line breaks.
  void add(std::string_view name, std::span<const std::byte> value) {
    add(name);
    value_ = xxh64(value, value_);
  }
  void add(std::string_view name, std::string_view value) {
    add(name);
    add(value);
  }
  std::string text() const;  ///< 16 hex digits

 private:
  void add(std::string_view text) { value_ = xxh64(text, value_); }

  std::uint64_t value_ = 0;
};

/// Of bytes as they are stored, in order: h = XXH64(piece of 4 MiB, seed h).
class StoredChecksum {
 public:
  void add(std::span<const std::byte> bytes);
  std::string text() const;  ///< 16 hex digits

 private:
  std::vector<std::byte> begun_;  // a piece that is not full yet
  std::uint64_t value_ = 0;
};
/// The same of bytes that lie in a file.
std::string stored_checksum(const PosixFile& file, Index offset, Index bytes);

Checksum checksum_of(const NamedHessian& hessian);

/// Names of the members of `matrices` or `hessians`, in the order in which they were written.
/// Throws Error{input} unless they are as many as the attribute `count` says.
std::vector<std::string> counted_members(const hdf5::Object& group, const char* operation);

/// Writes the attribute `checksum`.
void write_checksum(const hdf5::Object& group, const Checksum& checksum);
/// Throws Error{input, operation} naming file and group unless the attribute is `checksum`.
void check_checksum(const hdf5::Object& group, const Checksum& checksum, const char* operation,
                    const char* hint);

}  // namespace aq
