#pragma once
/// Small text files: whole or not at all.

#include <filesystem>
#include <string>
#include <string_view>

#include "aq/core/index.h"

namespace aq {

/// Whole file as text; Error{input} naming the path when it cannot be read or is longer than
/// `limit` bytes.
std::string read_text_file(const std::filesystem::path& path, Index limit = Index{1} << 30);
/// Writes `path` + ".partial", syncs, renames over `path`, syncs the directory. Error{input} naming
/// path and reason (full disk, permission) leaves an existing file as it was. A link stays: the
/// file that it names is replaced. A device, a pipe and a descriptor such as /dev/stdout are
/// written straight; a pipe that nobody reads is an error after some seconds.
void write_text_file(const std::filesystem::path& path, std::string_view text);
/// Whether something is there. Throws a ReadError when that cannot be found out now.
bool file_exists(const std::filesystem::path& path);
/// Writes `text` over the begin of an existing file, which needs no space on the disk;
/// Error{input}.
void overwrite_file(const std::filesystem::path& path, std::string_view text);
/// Creates the directory and its parents; Error{input} when it cannot or when it is not writable.
void make_directory(const std::filesystem::path& path);
/// Throws Error{input} when the file system of `directory` (or of its nearest parent that exists)
/// has less than `bytes` free for this user.
void check_free_space(const std::filesystem::path& directory, Index bytes);
/// Bytes of the regular files below; 0 when there is no such directory.
Index bytes_below(const std::filesystem::path& directory);

}  // namespace aq
