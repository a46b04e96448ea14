#include "io/output_place.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <iostream>
#include <string>
#include <thread>

#include "aq/core/log.h"
#include "io/posix_file.h"

namespace aq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOperation = "write the file";

/// N of /proc/self/fd/N, however it is spelled; -1 for other paths.
int own_descriptor(const fs::path& path) {
  std::error_code error;
  const fs::path folder = fs::canonical(path.parent_path(), error);
  if (error || folder != fs::canonical("/proc/self/fd", error)) return -1;
  const std::string name = path.filename();
  int number = -1;
  const auto [end, failure] = std::from_chars(name.data(), name.data() + name.size(), number);
  return failure == std::errc{} && end == name.data() + name.size() ? number : -1;
}

[[noreturn]] void refuse(const fs::path& path, std::string_view reason,
                         std::string_view hint = "") {
  throw Error(ErrorKind::input, kOperation, path.string(), reason, hint);
}

/// Waits for a process that reads the pipe; a descriptor, or -1 with errno.
int open_pipe(const fs::path& path, int flags, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  log_info(str(path.string(), ": waiting up to ", seconds, " s for a process that reads the pipe"));
  int descriptor = -1;
  do {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    descriptor = ::open(path.c_str(), flags);
  } while (descriptor < 0 && errno == ENXIO && std::chrono::steady_clock::now() < end);
  return descriptor;
}

}  // namespace

OutputPlace find_output(const fs::path& path) {
  constexpr int kLinks = 40;  // as the system follows
  OutputPlace place{.path = path};
  std::error_code error;
  for (int links = 0;; ++links) {
    place.descriptor = own_descriptor(place.path);
    if (place.descriptor >= 0) {
      place.kind = OutputPlace::Kind::descriptor;
      return place;
    }
    if (!fs::is_symlink(fs::symlink_status(place.path, error))) break;
    if (links == kLinks) fail_file(kOperation, path, ELOOP);
    const fs::path target = fs::read_symlink(place.path, error);
    if (error) fail_file("follow the link", place.path, error.value());
    place.path = place.path.parent_path() / target;
  }
  const fs::file_status status = fs::status(place.path, error);
  if (fs::is_directory(status)) fail_file(kOperation, path, EISDIR);
  if (fs::is_block_file(status)) refuse(path, "it is a block device", "name a file");
  if (fs::is_other(status)) place.kind = OutputPlace::Kind::special;
  return place;
}

fs::path find_regular_output(const fs::path& path) {
  const OutputPlace place = find_output(path);
  if (place.kind != OutputPlace::Kind::regular)
    refuse(path, "it is no regular file, and HDF5 cannot be written to anything else",
           "name a file");
  return place.path;
}

int open_in_place(const OutputPlace& place, double pipe_seconds) {
  if (place.kind == OutputPlace::Kind::descriptor) {
    std::cout.flush();  // what was printed before comes first
    const int copy = ::fcntl(place.descriptor, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) fail_file(kOperation, place.path, errno);
    return copy;
  }
  constexpr int kFlags = O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  int descriptor = ::open(place.path.c_str(), kFlags);
  std::error_code error;
  const bool unread = descriptor < 0 && errno == ENXIO && fs::is_fifo(place.path, error);
  if (unread) {
    descriptor = open_pipe(place.path, kFlags, pipe_seconds);
    if (descriptor < 0 && errno == ENXIO)
      refuse(place.path, "it is a pipe that no process reads", "start its reader first");
  }
  if (descriptor < 0) fail_file(kOperation, place.path, errno);
  ::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) & ~O_NONBLOCK);
  return descriptor;
}

}  // namespace aq
