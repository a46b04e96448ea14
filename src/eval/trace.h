#pragma once
/// `eval --trace`: logits and router choices of every window, for comparison with other programs.

#include "aq/eval/evaluate.h"
#include "aq/forward/routing.h"

namespace aq {

/// One rank's share, gathered while the model runs.
struct Trace {
  std::vector<float> logits;                            ///< [tokens, vocabulary]
  std::vector<std::vector<std::int32_t>> router_index;  ///< per MoE layer [tokens, top_k]
  std::vector<std::vector<float>> router_weight;
  std::vector<std::int32_t> moe_layers;
};

/// Brings the shares of all ranks to the first one, which writes the file. `lengths` are the tokens
/// of each window. Collective.
void write_trace(const std::filesystem::path& path, const Trace& trace, const Model& model,
                 const std::vector<Index>& lengths, Communicator& comm);

}  // namespace aq
