#include "aq/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "aq/core/text.h"
#include "io/posix_file.h"

namespace aq {

std::string read_text_file(const std::filesystem::path& path, Index limit) {
  PosixFile file = PosixFile::open(path);
  std::string text;
  std::array<char, 1 << 16> block;
  while (true) {
    const Index got = file.read_next(std::as_writable_bytes(std::span(block)));
    if (got == 0) return text;
    text.append(block.data(), static_cast<std::size_t>(got));
    if (static_cast<Index>(text.size()) > limit)
      throw Error(ErrorKind::input, "read the file", path.string(),
                  str("it is longer than the limit of ", limit, " bytes"));
  }
}

void write_text_file(const std::filesystem::path& path, std::string_view text) {
  PartialFile file(path);
  file.write(text);
  file.commit();
}

void overwrite_file(const std::filesystem::path& path, std::string_view text) {
  PosixFile file = PosixFile::open_to_overwrite(path);
  file.write(std::as_bytes(std::span(text)));
  file.sync();
}

bool file_exists(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  fail_to_read("look for the file", path, errno);
}

void make_directory(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error) && !error)
    error = std::make_error_code(std::errc::not_a_directory);
  if (error) throw Error(ErrorKind::input, "create the directory", path.string(), error.message());
  if (::faccessat(AT_FDCWD, path.c_str(), W_OK | X_OK, AT_EACCESS) != 0)
    throw Error(ErrorKind::input, "create files in the directory", path.string(),
                std::generic_category().message(errno));
}

void check_free_space(const std::filesystem::path& directory, Index bytes) {
  std::error_code error;
  std::filesystem::path place = std::filesystem::absolute(directory);
  while (!std::filesystem::exists(place, error) && place.has_relative_path())
    place = place.parent_path();
  struct statvfs status {};
  if (::statvfs(place.c_str(), &status) != 0) return;  // then the first write tells
  const Index free = checked_multiply(static_cast<Index>(status.f_bavail),
                                      static_cast<Index>(status.f_frsize), place.string());
  if (free < bytes)
    throw Error(ErrorKind::input, "check the free disk space", directory.string(),
                str(bytes_text(bytes), " are needed, but only ", bytes_text(free), " are free"),
                "free some, or choose another --save directory");
}

Index bytes_below(const std::filesystem::path& directory) {
  Index bytes = 0;
  std::error_code error;
  for (auto entry = std::filesystem::recursive_directory_iterator(directory, error);
       !error && entry != std::filesystem::recursive_directory_iterator(); entry.increment(error)) {
    std::error_code ignored;
    if (!entry->is_regular_file(ignored)) continue;
    const std::uintmax_t size = entry->file_size(ignored);  // -1: it went away meanwhile
    if (!ignored) bytes += static_cast<Index>(size);
  }
  return bytes;
}

}  // namespace aq
