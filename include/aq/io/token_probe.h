#pragma once
/// Token files that the HDF5 library itself does not survive.

#include <filesystem>

#include "aq/core/index.h"

namespace aq {

/// Reads the first `rows` rows (0: all), each cut to `length` tokens (0: whole), in a process of
/// its own: HDF5 1.10 may crash on metadata that are made to harm it. Throws Error{input} when that
/// process is ended by a signal, or computes for a minute. Nothing for what cannot be read in an
/// orderly way: TokenFile says why. Forks: for processes that have started neither MPI nor threads
/// that use HDF5.
void probe_token_file(const std::filesystem::path& path, Index rows = 0, Index length = 0);

}  // namespace aq
