#include "aq/comm/heartbeat.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "aq/core/error.h"
#include "aq/core/host.h"

namespace aq {
namespace {

constexpr std::size_t kFileBytes = 512;  // always: a rewrite never changes the size

}  // namespace

std::filesystem::path heartbeat_file(const std::filesystem::path& directory, int rank) {
  return directory / str("rank-", rank);
}

bool write_heartbeat(const std::filesystem::path& file, const Heartbeat& heartbeat) {
  std::string text =
      str(heartbeat.beat, " ", heartbeat.waiting ? 1 : 0, " ", heartbeat.waited, " ",
          heartbeat.memory, " ", heartbeat.busy, " ", heartbeat.host, " ", heartbeat.activity);
  text.resize(std::min(text.size(), kFileBytes - 1));
  text += '\n';
  text.resize(kFileBytes, ' ');
  // Opened each time: on NFS a file's content is sent when it is closed, and read anew when opened.
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) return false;
  const bool written = ::pwrite(descriptor, text.data(), text.size(), 0) == std::ssize(text);
  return ::close(descriptor) == 0 && written;
}

std::optional<Heartbeat> read_heartbeat(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return std::nullopt;
  std::array<char, kFileBytes> text{};
  const ssize_t got = ::pread(descriptor, text.data(), text.size(), 0);
  ::close(descriptor);
  if (got <= 0) return std::nullopt;
  std::istringstream stream(std::string(text.data(), static_cast<std::size_t>(got)));
  Heartbeat beat;
  if (!(stream >> beat.beat >> beat.waiting >> beat.waited >> beat.memory >> beat.busy >>
        beat.host))
    return std::nullopt;
  std::getline(stream >> std::ws, beat.activity);
  return beat;
}

}  // namespace aq
