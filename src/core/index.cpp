#include "aq/core/index.h"

namespace aq {

Index checked_multiply(Index a, Index b, std::string_view object) {
  Index result = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &result))
    throw Error(ErrorKind::input, "compute a size", object, str(a, " x ", b, " is no valid size"));
  return result;
}

Index checked_add(Index a, Index b, std::string_view object) {
  Index result = 0;
  if (__builtin_add_overflow(a, b, &result))
    throw Error(ErrorKind::input, "compute a size", object, str(a, " + ", b, " is no valid size"));
  return result;
}

}  // namespace aq
