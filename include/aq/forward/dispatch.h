#pragma once
/// Tokens travel to the owners of their experts, and outputs come back. A lane's tokens of an
/// expert stay together in their order, so that what the owner computes from them is, bit for bit,
/// what every rank would compute from its own.

#include <optional>

#include "aq/comm/transport.h"
#include "aq/forward/expert_pass.h"
#include "aq/plan/dispatch.h"

namespace aq {

/// One exchange of some routed experts of a layer.
class Dispatch {
 public:
  /// Sends the lists of tokens: experts[i] (ascending) lives at owners[i]. Collective.
  /// What `home` refers to must outlive this.
  Dispatch(Transport& transport, const LaneLayout& layout, const ExpertPass& home,
           std::vector<Index> experts, std::vector<int> owners);
  Dispatch(const Dispatch&) = delete;
  Dispatch& operator=(const Dispatch&) = delete;

  /// In ascending order.
  const std::vector<Index>& experts() const { return experts_; }
  Communicator& communicator() const { return comm_; }
  /// Tokens of all ranks.
  Index all_tokens() const { return all_tokens_; }
  /// The tokens of this rank.
  const ExpertPass& home() const { return home_; }
  /// The tokens that came here, in the lanes of all ranks. Experts that live elsewhere have none.
  const ExpertPass& owner() const { return owner_; }

  /// Fetches the inputs of owner(), and the drift where home() has one: a token that several
  /// experts here need comes once. Rows on the way are at most those of this rank. Collective.
  void gather();
  /// Frees them.
  void forget_inputs() {
    for (Tensor* tensor : {&gathered_, &drift_input_, &drift_output_}) *tensor = {};
  }
  /// Of the experts()[some], outputs where these live become outputs where their tokens are.
  /// Collective.
  ByExpert combine(Range some, ByExpert outputs);

 private:
  void choose_rows();
  std::vector<std::byte> list_for(int owner) const;
  void exchange_lists();
  void read_list(int from, std::span<const std::byte> bytes);
  Range gathered_rows_of(int rank) const;
  Tensor gather(const Tensor& x) const;

  Transport& transport_;
  Communicator& comm_;
  const LaneLayout& layout_;
  ExpertPass home_;
  std::vector<Index> experts_;
  std::vector<int> owners_;
  std::vector<std::vector<std::int32_t>>
      rows_for_;                       ///< per rank: own rows that it needs, ascending
  std::vector<Index> gathered_begin_;  ///< [ranks + 1] rows that came from each rank
  Index all_tokens_ = 0;
  Batch gathered_batch_;
  Tensor gathered_, drift_input_, drift_output_;
  std::optional<Drift> drift_;
  Routing gathered_routing_;
  ExpertPass owner_;
};

}  // namespace aq
