#pragma once
/// Activations between two layers, kept so that a resumed run need not repeat the layers before:
/// `/lanes/<number>` float32 `[rows, hidden]` with an attribute `checksum`. One file a rank.

#include <filesystem>
#include <vector>

#include "aq/core/matrix_view.h"

namespace aq {

/// The rows of one lane.
struct LaneActivations {
  Index lane = 0;
  Matrix rows;
};

/// Writes the file under a temporary name and renames it.
void write_activations(const std::filesystem::path& path,
                       const std::vector<LaneActivations>& lanes);

/// The lanes [first, first + count) out of the files that hold them, in order. Throws Error{input}
/// naming the file when a lane is missing, twice there, of another width than `columns`, or not
/// what was written.
std::vector<LaneActivations> read_activations(const std::vector<std::filesystem::path>& files,
                                              Index first, Index count, Index columns);

}  // namespace aq
