#pragma once
/// Arrays that files stand behind: where memory is short the kernel writes them out and reads them
/// again, and it does not count them as memory of the process.

#include <cstddef>
#include <filesystem>

#include "aq/core/index.h"

namespace aq {

/// From now on take_file_block() makes its files in this directory; empty: nothing is offloaded.
/// Error{input} unless it is a directory in which files can be made, on a disk and not in memory.
void offload_to(const std::filesystem::path& directory);
/// Whether a directory was chosen.
bool offloads();

/// Zeros, aligned to a page, in a file of their own without a name: nothing is left of it however
/// the process ends. All of its space on the disk is reserved, so that no later write is short of
/// it. Any thread may call these. Error{input} naming directory, bytes and remedy.
/// @pre offloads() && bytes > 0
void* take_file_block(std::size_t bytes);
/// @param bytes  as they were asked for
void give_file_block(void* block, std::size_t bytes) noexcept;

/// Bytes of these blocks since offload_to().
struct OffloadedBytes {
  Index used = 0, most_used = 0;
};
OffloadedBytes offloaded_bytes();

}  // namespace aq
