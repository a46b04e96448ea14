#include <algorithm>

#include "aq/core/error.h"
#include "aq/plan/plan.h"

namespace aq {
namespace {

/// Tokens that a lane should have: an expert gets 512 of them where routing is even. With fewer,
/// adding sums up takes as long as making them.
Index lane_tokens(const Model& model) {
  constexpr Index kExpertTokens = 512, kLeast = 2048;
  Index tokens = kLeast;
  for (const LayerSpec& layer : model.layers)
    if (layer.moe)
      tokens =
          std::max(tokens, kExpertTokens * layer.moe->routing.experts / layer.moe->routing.top_k);
  return tokens;
}

}  // namespace

Workload make_workload(const Model& model, Index sequences, Index length,
                       const WorkloadChoice& choice, const std::string& object) {
  constexpr std::string_view kOperation = "read the calibration tokens";
  if (choice.samples > sequences)
    throw Error(
        ErrorKind::input, kOperation, object,
        str("--nsamples ", choice.samples, ", but the file holds ", sequences, " sequences"));
  Workload workload;
  workload.lanes.sequences = choice.samples > 0 ? choice.samples : sequences;
  workload.sequence_length =
      choice.sequence_length > 0 ? std::min(choice.sequence_length, length) : length;
  if (workload.sequence_length > model.max_positions)
    throw Error(ErrorKind::input, kOperation, object,
                str("sequences of ", workload.sequence_length, " tokens, but the model takes ",
                    model.max_positions),
                "use --seqlen");
  const Index lanes =
      choice.lanes > 0 ? choice.lanes
                       : default_lane_count(workload.lanes.sequences,
                                            ceil_div(lane_tokens(model),
                                                     std::max<Index>(workload.sequence_length, 1)));
  if ((lanes & (lanes - 1)) != 0 || lanes > workload.lanes.sequences)
    throw Error(ErrorKind::usage, "deal the sequences to lanes", "--lanes",
                str(lanes, " is not a power of two of at most ", workload.lanes.sequences,
                    " (the number of sequences)"));
  workload.lanes.lanes = lanes;
  return workload;
}

}  // namespace aq
