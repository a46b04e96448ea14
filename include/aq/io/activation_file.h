#pragma once
/// Activations between two layers, kept so that a resumed run need not repeat the layers before:
/// `/lanes/<number>` float32 `[rows, hidden]` with an attribute `checksum`, and where tokens go
/// through the original model too, `/original_lanes/<number>`. One file a rank.

#include <filesystem>
#include <vector>

#include "aq/core/matrix_view.h"

namespace aq {

/// Whose activations they are.
enum class ActivationsOf { quantized, original };

/// The rows of one lane, one after the other in memory of the caller's.
struct LaneActivations {
  Index lane = 0;
  MatrixView<float> rows;
  ActivationsOf model = ActivationsOf::quantized;
};

/// Writes the file under a temporary name and renames it.
void write_activations(const std::filesystem::path& path,
                       const std::vector<LaneActivations>& lanes);

/// Fills the rows of the lanes out of the files that hold them. Throws Error{input} naming the file
/// when a lane is missing, twice there, of another size, or not what was written.
void read_activations(const std::vector<std::filesystem::path>& files,
                      const std::vector<LaneActivations>& lanes);

}  // namespace aq
