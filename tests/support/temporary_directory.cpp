#include "support/temporary_directory.h"

#include <stdlib.h>
#include <unistd.h>

#include <stdexcept>
#include <system_error>

namespace aq::test {
namespace {

/// $TMPDIR, or memory: every file that is written whole is synced, which a busy disk makes slow.
std::filesystem::path parent_directory() {
  const char* memory = "/dev/shm";
  if (::getenv("TMPDIR") == nullptr && ::access(memory, W_OK | X_OK) == 0) return memory;
  return std::filesystem::temp_directory_path();
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (parent_directory() / "aq-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr)
    throw std::runtime_error("cannot make a temporary directory like " + name);
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace aq::test
