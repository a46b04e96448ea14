#pragma once
/// Signs of life: a small file a rank in a directory that all ranks share.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace aq {

struct Heartbeat {
  std::int64_t beat = 0;    ///< another number each time
  bool waiting = false;     ///< in a message or a collective call
  double waited = 0;        ///< seconds in that one
  std::int64_t memory = 0;  ///< bytes that the process has
  double busy = 1;          ///< share of its time in which it did not wait
  std::string host{};
  std::string activity{};  ///< "layer 3/16: experts 0..15: receive rank 2"
};

std::filesystem::path heartbeat_file(const std::filesystem::path& directory, int rank);
/// False when it cannot be written. In place, in one call: files stay where they are.
bool write_heartbeat(const std::filesystem::path& file, const Heartbeat& heartbeat);
/// Nothing when there is none yet, or when it is being written.
std::optional<Heartbeat> read_heartbeat(const std::filesystem::path& file);

}  // namespace aq
