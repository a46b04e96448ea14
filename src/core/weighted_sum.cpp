#include "aq/core/weighted_sum.h"

#include "aq/core/error.h"

namespace aq {

void WeightedSum::make_room(Index size) {
  if (values.empty()) values.assign(static_cast<std::size_t>(size), 0.0F);
  AQ_CHECK(std::ssize(values) == size, values.size(), " and ", size);
}

void WeightedSum::add(const WeightedSum& other) {
  if (other.empty()) return;
  if (empty()) {
    *this = other;
    return;
  }
  AQ_CHECK(values.size() == other.values.size(), values.size(), " and ", other.values.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += other.values[i];
  weight_sum += other.weight_sum;
  tokens += other.tokens;
}

}  // namespace aq
