/// gpt-oss as OpenAI publishes it: the experts of a layer in MXFP4, one tensor of codes and one of
/// scales for all gate and up projections, rows alternating, and for all down projections
/// (transformers integrations/mxfp4.py, vLLM and SGLang models/gpt_oss.py).

#include "aq/core/text.h"
#include "aq/model/storage.h"
#include "export/bits.h"
#include "export/served_format.h"

namespace aq {
namespace {

std::string problem(const StoredMatrix& matrix) {
  const Scheme& scheme = matrix.scheme;
  if (!matrix.routed) return "it holds routed experts alone";
  if (!scheme.is_mx() || scheme.element != Element::e2m1 || scheme.group_size != kMxfp4Group)
    return str("it has no ", to_string(scheme));
  if (matrix.activation) return "it has no quantized activations";
  if (matrix.columns % kMxfp4Group != 0)
    return str("groups of ", kMxfp4Group, " do not divide its ", matrix.columns, " columns");
  return {};
}

std::vector<TensorEntry> entries(const StoredMatrix& matrix) {
  const Index groups = matrix.columns / kMxfp4Group;
  return {{mxfp4_blocks_name(matrix.name), "U8", {matrix.rows, groups, kMxfp4Group / 2}},
          {mxfp4_scales_name(matrix.name), "U8", {matrix.rows, groups}}};
}

/// Two codes a byte, the first one low: our words as they are, since rows are whole words.
std::vector<std::vector<std::byte>> pack(const QuantizedMatrix& matrix,
                                         const std::optional<Scheme>&) {
  return {bytes_of<std::uint32_t>(matrix.codes), scale_bytes(matrix)};
}

/// What it leaves is the same in every checkpoint, and no server asks for more.
OrderedJson configuration(const std::vector<StoredMatrix>&, const std::vector<std::string>&) {
  return {
      {"modules_to_not_convert",
       {"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}},
      {"quant_method", "mxfp4"}};
}

}  // namespace

ServedFormat gpt_oss_format() {
  return {.name = kGptOss,
          .fused = true,
          .problem = problem,
          .remedy =
              "a recipe with \"default\": {\"wq\": \"bf16\"}, \"overrides\": [{\"pattern\": "
              "\"*.mlp.experts.*\", \"wq\": \"mxfp4\"}] fits (configs/gpt_oss_mxfp4.json)",
          .entries = entries,
          .pack = pack,
          .configuration = configuration};
}

}  // namespace aq
