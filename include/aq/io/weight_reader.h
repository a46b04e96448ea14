#pragma once
/// Weights of linears as floats, from whatever form the checkpoint stores them in: plain, FP8 with
/// block scales (DeepSeek-V3, Qwen3-FP8), fused 3-D experts, MXFP4 blocks (gpt-oss), and what
/// compressed-tensors and GPTQ checkpoints hold.

#include "aq/io/checkpoint.h"
#include "aq/model/storage.h"

namespace aq {

/// Rows [begin, begin + count) of the linear's weight, `[count, columns]`. Only their bytes are
/// read, but for transposed tensors. FP8: value times its block's factor, in fp32; MXFP4: exact.
/// Throws as Checkpoint's reads do.
Matrix read_weight_rows(const Checkpoint& checkpoint, const Model& model, const LinearSpec& linear,
                        Index begin, Index count);
/// `[rows]`; empty for a linear without bias.
std::vector<float> read_bias(const Checkpoint& checkpoint, const Model& model,
                             const LinearSpec& linear);

}  // namespace aq
