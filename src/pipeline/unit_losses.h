#pragma once
/// What each unit of a model loses in each format.

#include <filesystem>
#include <vector>

#include "aq/io/model_files.h"
#include "aq/pipeline/allocate.h"

namespace aq {

struct LossQuestion {
  const AllocateOptions& options;
  const ModelFiles& files;
  const std::vector<AllocationUnit>& units;
  std::vector<std::filesystem::path> runs;  ///< by format; empty: the units stay as they are
};

/// Sets the losses of all formats. Collective.
void set_losses(const LossQuestion& question, std::vector<AllocatedUnit>& units,
                Communicator& comm);

}  // namespace aq
