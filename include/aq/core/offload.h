#pragma once
/// Arrays that files stand behind: where memory is short the kernel writes them out and reads them
/// again. Plan and measured memory (RssAnon and RssShmem) leave them out; VmRSS, and the job's
/// control group until they are written out, have what is cached of them.

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
/// it: by writing where the file system cannot reserve (NFSv3), which takes time; where each write
/// takes new space (btrfs, ZFS), a disk that others fill is a SIGBUS nevertheless. Any thread may
/// call these. Error{input} naming directory, bytes and remedy.
/// @pre offloads() && bytes > 0
void* take_file_block(std::size_t bytes);
/// @param bytes  as they were asked for
void give_file_block(void* block, std::size_t bytes) noexcept;

/// Bytes of these blocks, and the most since offload_to() or count_offloaded_anew().
struct OffloadedBytes {
  Index used = 0, most_used = 0;
};
OffloadedBytes offloaded_bytes();
void count_offloaded_anew();

}  // namespace aq
