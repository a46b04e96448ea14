#include "plan/sum_traffic.h"

namespace aq {

const SumTraffic& SumTraffics::of(Index values) {
  const auto known = sums_.find(values);
  if (known != sums_.end()) return known->second;
  const std::vector<bool> present(leaves_.size(), true);
  return sums_.emplace(values, traffic_of_sum(leaves_, present, ranks_, values)).first->second;
}

}  // namespace aq
