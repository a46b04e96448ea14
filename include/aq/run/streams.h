#pragma once

#include "aq/runtime/tensor.h"

namespace aq {

/// The tokens between two layers `[rows of the batch, hidden]`.
struct Streams {
  Tensor own;       ///< behind quantized layers, or original ones where the settings say so
  Tensor original;  ///< behind original layers, where targets come from there; else no columns
};

}  // namespace aq
