#pragma once
/// Tokens travel to the owners of their experts, and outputs come back. A lane's tokens of an
/// expert stay together in their order, so that what the owner computes from them is, bit for bit,
/// what every rank would compute from its own.

#include "aq/forward/forward.h"
#include "aq/plan/dispatch.h"

namespace aq {

/// One exchange of some routed experts of a layer.
class Dispatch {
 public:
  /// Sends the lists of tokens: experts[i] (ascending) lives at owners[i]. Collective.
  Dispatch(Communicator& comm, const LaneLayout& layout, const Batch& batch, const Routing& routing,
           std::vector<Index> experts, std::vector<int> owners);

  /// In ascending order.
  const std::vector<Index>& experts() const { return experts_; }
  Communicator& communicator() const { return comm_; }
  /// Tokens of all ranks.
  Index all_tokens() const { return all_tokens_; }
  /// The lanes of all ranks, with the gathered rows of each.
  const Batch& batch() const { return gathered_batch_; }
  /// Gathered rows and weights of the experts that live here, by their number in the layer; those
  /// of all others are empty.
  const Routing& routing() const { return gathered_routing_; }
  /// The rows of x that experts here need, from all ranks `[gathered rows, columns]`; a token that
  /// several of them need comes once. Rows on the way are at most those of x. Collective.
  Matrix gather(const Matrix& x);
  /// outputs[i] of experts()[some.begin + i] where it lives, a row for each gathered token;
  /// afterwards on every rank a row for each token of its own list. Collective.
  std::vector<Matrix> bring_back(Range some, std::vector<Matrix> outputs, Index columns);

 private:
  void choose_rows();
  std::vector<std::int32_t> list_for(int owner) const;
  void exchange_lists();
  void read_list(int from, std::span<const std::int32_t> list);
  Range gathered_rows_of(int rank) const;

  Communicator& comm_;
  const LaneLayout& layout_;
  const Batch& batch_;
  const Routing& routing_;
  std::vector<Index> experts_;
  std::vector<int> owners_;
  std::vector<std::vector<std::int32_t>>
      rows_for_;                       ///< per rank: own rows that it needs, ascending
  std::vector<Index> gathered_begin_;  ///< [ranks + 1] rows that came from each rank
  Index all_tokens_ = 0;
  Batch gathered_batch_;
  Routing gathered_routing_;
};

}  // namespace aq
