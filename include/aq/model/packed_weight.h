#pragma once
/// How a checkpoint that other programs quantized stores a linear: compressed-tensors
/// (vllm-project/compressed-tensors, compressors/) and GPTQ (ModelCloud/GPTQModel, nn_modules).

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/index.h"

namespace aq {

enum class PackedForm {
  words,    ///< "weight_packed" I32 `[rows, words]`: a row's codes, least significant bit first
  gptq,     ///< "qweight" I32 `[words, rows]`, "qzeros" `[groups, words]`, "scales", "g_idx"
  scaled,   ///< "weight" I8 or F8_E4M3 `[rows, columns]` with "weight_scale"
  nibbles,  ///< "weight_packed" U8 `[rows, columns / 2]` of FP4, the first code in the low half
};

/// A tensor of a linear.
struct PackedTensor {
  std::string suffix;  ///< "weight_scale"
  std::vector<Index> shape;
};

struct PackedWeight {
  PackedForm form = PackedForm::words;
  int bits = 0;  ///< of `words` and `gptq`
  bool whole_codes =
      false;            ///< `words`: a code lies in one word, as before compressed-tensors 0.18
  int zero_offset = 0;  ///< `gptq`: what is added to a stored zero; 1 in version 1
  std::vector<PackedTensor> tensors;  ///< the codes first

  /// Nothing when the linear has no such tensor.
  const PackedTensor* find(std::string_view suffix) const;
};

}  // namespace aq
