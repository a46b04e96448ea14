#include "io/posix_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <initializer_list>
#include <string>
#include <system_error>
#include <utility>

#include "aq/io/read_error.h"

namespace aq {
namespace {

/// Calls `call` again while a signal interrupts it.
template <class Call>
auto retried(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// Bytes of one system call: Linux transfers at most 2 GiB.
std::size_t piece(std::size_t bytes) {
  return std::min(bytes, std::size_t{1} << 30);
}

void sync_descriptor(int descriptor, const std::filesystem::path& path) {
  // Some file systems cannot sync a directory or a special file; their data needs no sync.
  if (retried([&] { return ::fsync(descriptor); }) != 0 && errno != EINVAL && errno != ENOTSUP)
    fail_file("write to the disk", path, errno);
}

}  // namespace

std::string_view remedy(std::string_view reason) {
  const std::initializer_list<std::pair<int, std::string_view>> remedies{
      {EFBIG, "raise the limit of the size of a file (`ulimit -f`)"},
      {EMFILE, "raise the limit of open files (`ulimit -n`)"},
      {ENFILE, "the machine has no more open files: raise fs.file-max"}};
  for (const auto& [error, hint] : remedies)
    if (reason.starts_with(std::generic_category().message(error))) return hint;
  return {};
}

void fail_file(std::string_view operation, const std::filesystem::path& path, int error) {
  const std::string reason = std::generic_category().message(error);
  throw Error(ErrorKind::input, operation, path.string(), reason, remedy(reason));
}

void fail_to_read(std::string_view operation, const std::filesystem::path& path, int error) {
  for (const int lasting : {ENOENT, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG})
    if (error == lasting) fail_file(operation, path, error);
  const std::string reason = std::generic_category().message(error);
  throw ReadError(operation, path.string(), str(reason, " (errno ", error, ")"), remedy(reason));
}

PosixFile PosixFile::open(const std::filesystem::path& path) {
  const int descriptor = retried([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); });
  if (descriptor < 0) fail_to_read("open the file", path, errno);
  PosixFile file(descriptor, path);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) fail_to_read("open the file", path, errno);
  if (S_ISDIR(status.st_mode)) fail_to_read("open the file", path, EISDIR);
  return file;
}

PosixFile PosixFile::create(const std::filesystem::path& path) {
  const int descriptor =
      retried([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); });
  if (descriptor < 0) fail_file("create the file", path, errno);
  return {descriptor, path};
}

PosixFile PosixFile::open_to_overwrite(const std::filesystem::path& path) {
  const int descriptor = retried([&] { return ::open(path.c_str(), O_WRONLY | O_CLOEXEC); });
  if (descriptor < 0) fail_file("open the file", path, errno);
  return {descriptor, path};
}

PosixFile::~PosixFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

PosixFile::PosixFile(PosixFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

PosixFile& PosixFile::operator=(PosixFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

Index PosixFile::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_to_read("ask for the size", path_, errno);
  return status.st_size;
}

FileState PosixFile::state() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_file("ask for the state", path_, errno);
  const auto nanoseconds = [](const timespec& time) {
    return static_cast<Index>(time.tv_sec) * 1'000'000'000 + static_cast<Index>(time.tv_nsec);
  };
  return {static_cast<Index>(status.st_ino), status.st_size, nanoseconds(status.st_mtim),
          nanoseconds(status.st_ctim)};
}

void PosixFile::read_at(Index offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const auto got =
        retried([&] { return ::pread(descriptor_, out.data(), piece(out.size()), offset); });
    if (got < 0) fail_to_read("read the file", path_, errno);
    if (got == 0)
      throw Error(ErrorKind::input, "read the file", path_.string(),
                  str("it ends at byte ", offset, ", ", out.size(), " bytes too early"),
                  "was it changed while in use?");
    out = out.subspan(got);
    offset += got;
  }
}

Index PosixFile::read_next(std::span<std::byte> out) {
  const auto got = retried([&] { return ::read(descriptor_, out.data(), piece(out.size())); });
  if (got < 0) fail_to_read("read the file", path_, errno);
  return got;
}

void PosixFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto written =
        retried([&] { return ::write(descriptor_, bytes.data(), piece(bytes.size())); });
    if (written < 0) fail_file("write the file", path_, errno);
    bytes = bytes.subspan(written);
  }
}

void PosixFile::write_at(Index offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto written =
        retried([&] { return ::pwrite(descriptor_, bytes.data(), piece(bytes.size()), offset); });
    if (written < 0) fail_file("write the file", path_, errno);
    bytes = bytes.subspan(written);
    offset += written;
  }
}

void PosixFile::sync() {
  sync_descriptor(descriptor_, path_);
}

std::filesystem::path partial_path(const std::filesystem::path& path) {
  std::filesystem::path partial = path;
  partial += ".partial";
  return partial;
}

void publish_partial(const std::filesystem::path& path) {
  const std::filesystem::path partial = partial_path(path);
  PosixFile::open(partial).sync();
  if (::rename(partial.c_str(), path.c_str()) != 0) fail_file("rename to", path, errno);
  const std::filesystem::path directory = path.has_parent_path() ? path.parent_path() : ".";
  const int descriptor =
      retried([&] { return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (descriptor < 0) return;  // a directory that may be written but not listed: nothing to sync
  const auto close = [&] { ::close(descriptor); };
  try {
    sync_descriptor(descriptor, directory);
  } catch (...) {
    close();
    throw;
  }
  close();
}

void remove_partial(const std::filesystem::path& path) noexcept {
  try {
    ::unlink(partial_path(path).c_str());
  } catch (...) {  // no memory for the name: it stays, and the next writer replaces it
  }
}

PartialFile::PartialFile(const std::filesystem::path& path)
    : place_(find_output(path)),
      file_(place_.kind == OutputPlace::Kind::regular ? PosixFile::create(partial_path(place_.path))
                                                      : PosixFile(open_in_place(place_), path)) {}

PartialFile::~PartialFile() {
  if (!committed_ && place_.kind == OutputPlace::Kind::regular) remove_partial(place_.path);
}

void PartialFile::commit() {
  if (place_.kind == OutputPlace::Kind::regular) publish_partial(place_.path);
  committed_ = true;
}

}  // namespace aq
