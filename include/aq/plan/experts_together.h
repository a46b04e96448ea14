#pragma once
/// How the experts of a pass are worked on, for the forward pass and for those who plan its memory.

#include <algorithm>

#include "aq/core/index.h"

namespace aq {

/// Of so few experts each is worked on by all threads, so that nothing of it is kept for later.
constexpr bool one_after_the_other(Index experts, Index threads) {
  return threads == 1 || experts < threads;
}

/// Most rows that `count` of a layer's experts may have that are worked on at one time: twice those
/// that an even routing gives them, or every token once.
constexpr Index most_rows_together(Index count, Index experts, Index top_k, Index tokens) {
  return std::max(tokens, 2 * count * top_k * tokens / experts);
}

}  // namespace aq
