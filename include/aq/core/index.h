#pragma once
/// Sizes are signed 64-bit; arithmetic on sizes that come from a file is checked.

#include <cstdint>
#include <limits>
#include <type_traits>

#include "aq/core/error.h"

namespace aq {

using Index = std::int64_t;

/// A half-open range [begin, end).
struct Range {
  Index begin = 0;
  Index end = 0;
  Index size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// `value` as another integer type.  @pre the value fits
template <class To, class From>
To checked_cast(From value) {
  static_assert(std::is_integral_v<To> && std::is_integral_v<From>);
  To result{};
  AQ_CHECK(!__builtin_add_overflow(value, From{0}, &result), "value ", value);
  return result;
}

/// a * b; throws Error{input} naming `object` when it does not fit 63 bits or a factor is negative.
Index checked_multiply(Index a, Index b, std::string_view object);
/// a + b; throws Error{input} naming `object` when it does not fit 63 bits.
Index checked_add(Index a, Index b, std::string_view object);

constexpr Index ceil_div(Index a, Index b) {
  return (a + b - 1) / b;
}
constexpr Index round_up(Index a, Index multiple) {
  return ceil_div(a, multiple) * multiple;
}

}  // namespace aq
