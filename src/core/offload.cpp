#include "aq/core/offload.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <string>
#include <system_error>

#include "aq/core/error.h"
#include "aq/core/text.h"

namespace aq {
namespace {

struct Offload {
  std::filesystem::path directory;
  std::mutex mutex;
  OffloadedBytes bytes;
};

/// Never destroyed: arrays may outlive any static object.
Offload& offload() {
  static Offload& one = *new Offload;
  return one;
}

void count(Index bytes) {
  Offload& all = offload();
  const std::lock_guard lock(all.mutex);
  all.bytes.used += bytes;
  all.bytes.most_used = std::max(all.bytes.most_used, all.bytes.used);
}

[[noreturn]] void fail(const std::string& reason, std::string_view hint) {
  throw Error(ErrorKind::input, "offload activations", offload().directory.string(), reason, hint);
}

std::string text_of(int error) {
  return std::generic_category().message(error);
}

/// A file without a name. A kill between the two calls of file systems that cannot make one leaves
/// an empty file.
class NamelessFile {
 public:
  NamelessFile() {
    const std::filesystem::path& directory = offload().directory;
    descriptor_ = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (descriptor_ >= 0) return;
    std::string name = (directory / "aq-dist-XXXXXX").string();
    descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
    if (descriptor_ < 0)
      fail(str("no file can be made there: ", text_of(errno)),
           errno == EMFILE || errno == ENFILE
               ? "raise the limit of open files (`ulimit -n`)"
               : "--offload names a directory that is there and may be written");
    ::unlink(name.c_str());
  }
  ~NamelessFile() { ::close(descriptor_); }
  NamelessFile(const NamelessFile&) = delete;
  NamelessFile& operator=(const NamelessFile&) = delete;

  void* map(std::size_t bytes) const {
    const std::string size = bytes_text(static_cast<Index>(bytes));
    constexpr std::string_view kRemedy = "free some, or name another directory in --offload";
    struct statfs status {};  // or the disk would be filled before that fails
    if (::fstatfs(descriptor_, &status) == 0 &&
        static_cast<Index>(status.f_bavail) < static_cast<Index>(bytes) / status.f_frsize)
      fail(str(size, " are needed, but only ",
               bytes_text(static_cast<Index>(status.f_bavail) * status.f_frsize), " are free"),
           kRemedy);
    int error = EINTR;
    while (error == EINTR) error = ::posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes));
    if (error != 0)
      fail(str(size, " cannot be reserved: ", text_of(error)),
           error == EFBIG ? "raise the limit of the size of a file (`ulimit -f`)" : kRemedy);
    void* block = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (block == MAP_FAILED)
      fail(str(size, " cannot be mapped: ", text_of(errno)),
           errno == ENOMEM ? "raise the limit of address space (`ulimit -v`) or vm.max_map_count"
                           : "name another directory in --offload");
    return block;
  }

  bool in_memory() const {
    struct statfs status {};
    return ::fstatfs(descriptor_, &status) == 0 &&
           (status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC);
  }

 private:
  int descriptor_;
};

}  // namespace

void offload_to(const std::filesystem::path& directory) {
  Offload& all = offload();
  all.directory = directory;
  count_offloaded_anew();
  try {
    if (offloads() && NamelessFile().in_memory())
      fail("its files lie in memory (tmpfs), which they are to spare",
           "name a directory on a disk");
  } catch (...) {
    all.directory.clear();
    throw;
  }
}

void count_offloaded_anew() {
  Offload& all = offload();
  const std::lock_guard lock(all.mutex);
  all.bytes.most_used = all.bytes.used;
}

bool offloads() {
  return !offload().directory.empty();
}

void* take_file_block(std::size_t bytes) {
  AQ_CHECK(offloads() && bytes > 0, bytes, " bytes");
  void* block = NamelessFile().map(bytes);
  count(static_cast<Index>(bytes));
  return block;
}

void give_file_block(void* block, std::size_t bytes) noexcept {
  ::munmap(block, bytes);
  count(-static_cast<Index>(bytes));
}

OffloadedBytes offloaded_bytes() {
  Offload& all = offload();
  const std::lock_guard lock(all.mutex);
  return all.bytes;
}

}  // namespace aq
