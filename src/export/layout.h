#pragma once
/// What an exported checkpoint holds, piece by piece, in the order of the source.

#include <functional>

#include "aq/io/quantized_run.h"
#include "export/served_format.h"

namespace aq {

/// The source of an export.
struct ExportSource {
  const ModelFiles& files;
  const MatrixReader& matrices;
};

/// Tensors that are written together.
struct ExportPiece {
  std::vector<TensorEntry> entries;
  std::function<void(SafetensorsWriter&)> write;  ///< reads what it writes when it is called

  Index bytes() const;
};

/// Every tensor of the export. A quantized linear takes the place of its weight; weights that the
/// source encodes (FP8 with block scales, MXFP4) and the run left are written as bf16, since their
/// encoding belongs to the source's quantization_config, which goes; all other tensors are carried
/// over as they are. Experts that the source has in one tensor get tensors of their own under the
/// names of their linears, unless the format is plain or fused. `source` must outlive the pieces.
/// `matrices`: stored_matrices(source).
std::vector<ExportPiece> export_pieces(const ExportSource& source,
                                       const std::vector<StoredMatrix>& matrices,
                                       const ServedFormat& format);

/// The run's matrices, in the order of the model.
std::vector<StoredMatrix> stored_matrices(const ExportSource& source);
/// Names of the modules with a two-dimensional weight that the run did not quantize, embeddings
/// excepted, of other towers and MTP layers as well.
std::vector<std::string> modules_left(const ExportSource& source);

}  // namespace aq
