#pragma once
/// Shapes and positions for messages. Private to src/io.

#include <string>
#include <vector>

#include "aq/core/error.h"
#include "aq/core/index.h"

namespace aq {

/// "[2, 3]"
inline std::string shape_text(const std::vector<Index>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += str(i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

}  // namespace aq
