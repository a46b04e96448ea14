#pragma once
/// What is scored on one rank: models, and its share of the windows.

#include <string_view>

#include "aq/eval/evaluate.h"
#include "aq/forward/batch.h"
#include "aq/io/matrix_file.h"
#include "aq/io/model_files.h"
#include "eval/windows.h"

namespace aq {

struct Inputs {
  ModelFiles files;
  std::optional<MatrixReader> quantized = std::nullopt;
  std::optional<ModelFiles> reference = std::nullopt;  ///< with Against::checkpoint
  Windows windows = {};                                ///< of all ranks
  Batch batch = {};
  Index first_window = 0;  ///< the batch's first sequence

  const MatrixReader* matrices() const { return quantized ? &*quantized : nullptr; }
};

/// Before any work: all ranks were told the same by `command`. Collective.
void start_scoring(std::string_view command, const EvaluateOptions& options, Communicator& comm);
/// Opens and compares all that the options name. Collective.
Inputs open_inputs(const EvaluateOptions& options, Communicator& comm);

}  // namespace aq
