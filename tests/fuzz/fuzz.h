#pragma once
/// What the fuzz targets share. A target hands its input to the library as the content of a file;
/// an aq::Error is the right answer to a bad one, anything else that leaves the library is a bug.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include "aq/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace aq::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Runs `call`, which may throw an aq::Error of any kind but `internal`: that one is a bug.
template <class Call>
void expect_error_or_success(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
  }
}

/// A directory in memory (/dev/shm where there is one) that goes away with the process.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Replaces the file's content; its path.
  std::filesystem::path write(std::string_view name, std::string_view content) const;

 private:
  std::filesystem::path path_;
};

}  // namespace aq::fuzz
