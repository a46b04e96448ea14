#include "plan/sum_traffic.h"

#include "aq/quant/hessian.h"

namespace aq {

const SumTraffic& SumTraffics::of(Index columns) {
  const auto known = sums_.find(columns);
  if (known != sums_.end()) return known->second;
  const std::vector<bool> present(leaves_.size(), true);
  return sums_.emplace(columns, traffic_of_sum(leaves_, present, ranks_, hessian_size(columns)))
      .first->second;
}

}  // namespace aq
