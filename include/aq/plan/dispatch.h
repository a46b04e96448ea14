#pragma once
/// How tokens and routed experts are brought together: every rank runs its own tokens through all
/// experts and Hessian sums travel to their owners (reduce), or tokens travel to the expert's owner
/// and outputs come back (dispatch). Bytes of the result are the same.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "aq/plan/plan.h"

namespace aq {

enum class TokensToExperts { automatic, reduce, dispatch };
std::string_view tokens_to_experts_name(TokensToExperts way);
std::optional<TokensToExperts> tokens_to_experts_from_name(std::string_view name);

/// What one rank sends and receives for the routed experts of one layer, in bytes; of a rank with
/// its fair share of tokens and experts.
struct ExpertTraffic {
  double reduce = 0;    ///< partial sums, packed weights of all experts
  double dispatch = 0;  ///< inputs and outputs of tokens
  double weights = 0;   ///< of all experts as fp32, which every rank unpacks with reduce
};
ExpertTraffic expert_traffic(const Model& model, const LayerSpec& layer, double packed_bits,
                             const Workload& workload, int ranks);

/// The way for a whole run, with the reason in words.
struct ChosenWay {
  bool dispatch = false;
  std::string reason;
};
/// `packed_bits`: stored bits a weight of the experts. Dispatch needs an expert for every rank.
ChosenWay choose_way(TokensToExperts asked, const Model& model, double packed_bits,
                     const Workload& workload, int ranks);

/// Tasks of some experts of a wave; tasks[i] are those of experts[i].
struct ExpertTasks {
  std::vector<Index> experts;
  StagePlan gate_up, down;
};

/// A wave whose token counts are known.
struct WaveSplit {
  ExpertTasks dispatched;  ///< both tasks of an expert have one owner, rows are not split
  ExpertTasks reduced;     ///< placed as always: few of them are split by rows
};

/// An expert with more than this share of a rank's mean work is hot: its tokens stay where they
/// are, so that all ranks sum and solve for it.
inline constexpr double kHotShare = 1.5;

/// Which experts of the wave are dispatched, and to whom. `tokens` are those of every expert of the
/// layer on all ranks; `stays` those that need tokens from everywhere (starved). Pure.
WaveSplit split_wave(const WavePlan& wave, std::span<const std::int64_t> tokens,
                     const std::vector<bool>& stays, int ranks);
/// Every expert of the wave in `reduced`, placed as the plan says.
WaveSplit reduce_wave(const WavePlan& wave);

}  // namespace aq
