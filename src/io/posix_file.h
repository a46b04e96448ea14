#pragma once
/// Files through POSIX calls: exact reads at an offset, and writes that appear whole or not at all.

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include "aq/core/index.h"
#include "io/output_place.h"

namespace aq {

/// What the file system says of a file; times in nanoseconds since the epoch. A file that was moved
/// keeps all but `changed`.
struct FileState {
  Index inode = 0, size = 0, modified = 0, changed = 0;
};

/// An open file; closes itself. Failures are Error{input} with operation, path and reason;
/// those of open and read that may pass are a ReadError.
class PosixFile {
 public:
  static PosixFile open(const std::filesystem::path& path);
  static PosixFile create(const std::filesystem::path& path);
  /// Takes over a descriptor; `path` is for messages.
  PosixFile(int descriptor, std::filesystem::path path)
      : descriptor_(descriptor), path_(std::move(path)) {}
  /// An existing file whose content stays but for what is written.
  static PosixFile open_to_overwrite(const std::filesystem::path& path);
  ~PosixFile();
  PosixFile(PosixFile&& other) noexcept;
  PosixFile& operator=(PosixFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  /// Bytes in the file now.
  Index size() const;
  FileState state() const;
  /// Fills `out` from `offset`; an end of file before that is an error. Any thread may call it.
  void read_at(Index offset, std::span<std::byte> out) const;
  /// Reads up to `out.size()` bytes from where the last call ended; 0 at the end.
  Index read_next(std::span<std::byte> out);
  void write(std::span<const std::byte> bytes);
  void write_at(Index offset, std::span<const std::byte> bytes);
  /// Waits until the content is on the disk.
  void sync();

 private:
  int descriptor_ = -1;
  std::filesystem::path path_;
};

/// Throws Error{input} with the system's reason `error` (errno) and, where there is one, its
/// remedy.
[[noreturn]] void fail_file(std::string_view operation, const std::filesystem::path& path,
                            int error);
/// What the user can do about a limit of the system that `reason`, the system's text for an error,
/// tells of; empty for other errors.
std::string_view remedy(std::string_view reason);
/// Throws what a failed open or read means: Error{input} when something else than a file of that
/// name is there (or nothing), ReadError when it may be read another time.
[[noreturn]] void fail_to_read(std::string_view operation, const std::filesystem::path& path,
                               int error);

/// Name under which `path` is written until it is whole.
std::filesystem::path partial_path(const std::filesystem::path& path);
/// Syncs `partial_path(path)`, renames it to `path` and syncs the directory.
void publish_partial(const std::filesystem::path& path);
/// Removes `partial_path(path)` if it is there; never throws.
void remove_partial(const std::filesystem::path& path) noexcept;

/// A file that is written under its partial name and appears with commit(); otherwise it is
/// removed. Links are followed; what is no regular file is written straight (output_place.h).
class PartialFile {
 public:
  explicit PartialFile(const std::filesystem::path& path);
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void write(std::span<const std::byte> bytes) { file_.write(bytes); }
  void write(std::string_view text) { file_.write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  OutputPlace place_;
  PosixFile file_;
  bool committed_ = false;
};

}  // namespace aq
