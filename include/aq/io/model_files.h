#pragma once
/// A checkpoint together with what its configuration says it is.

#include "aq/io/checkpoint.h"
#include "aq/model/model.h"

namespace aq {

struct ModelFiles {
  Checkpoint checkpoint;
  Model model;
  std::vector<std::string> extra_tensors;  ///< in the files, but not needed by the forward pass
};

/// Opens the directory and checks that every tensor the model needs is there in its shape:
/// Error{input} names config.json and the tensor. Weights are not read.
ModelFiles open_model(const std::filesystem::path& directory);

}  // namespace aq
