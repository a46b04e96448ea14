#pragma once
/// A sum over tokens that travels between ranks: Σ s^p x xᵀ with Σ s^p and the token count.

#include <cstdint>

#include "aq/core/block_array.h"
#include "aq/core/index.h"

namespace aq {

/// Raw sums, never means. Empty `values` is a sum over no token.
struct WeightedSum {
  FloatArray values;        ///< a flat array; its layout belongs to whoever fills it
  double weight_sum = 0;    ///< Σ s^p
  std::int64_t tokens = 0;  ///< number of tokens

  bool empty() const { return tokens == 0; }
  /// Makes `values` that many zeros on first use; from then on it has to be as long.
  void make_room(Index size);
  /// Adds `other`, element by element in fp32. Adding an empty sum changes nothing.
  void add(const WeightedSum& other);
  bool operator==(const WeightedSum&) const = default;
};

}  // namespace aq
