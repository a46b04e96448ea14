#pragma once
/// What both ways of reduce_to_owners go by.

#include "aq/comm/tree_schedule.h"

namespace aq {

inline constexpr int kReduceTag = 7001;

/// What every rank knows about a partial before any sum travels.
struct PartialHeader {
  std::int64_t tokens = 0;
  double weight_sum = 0;
};

/// The partials of all ranks, and headers[leaf][reduction] of each.
struct Exchange {
  std::vector<Leaf> leaves;
  std::vector<std::vector<PartialHeader>> headers;

  const PartialHeader& at(std::size_t reduction, std::size_t leaf) const {
    return headers[leaf][reduction];
  }
  /// Which leaves have tokens.
  std::vector<bool> present(std::size_t reduction) const;
};

/// The reductions, one of each owner in turn, so that no owner is everybody's target at once.
std::vector<std::size_t> alternate_owners(const std::vector<Reduction>& reductions);

void reduce_direct(Transport& transport, std::vector<Reduction>& reductions,
                   const Exchange& exchange, Index window_bytes);
void reduce_along_tree(Transport& transport, std::vector<Reduction>& reductions,
                       const Exchange& exchange, const ReduceLimits& limits);

}  // namespace aq
