#pragma once
/// JSON in C++ strings, readable.

#include <string>

#include "aq/core/text.h"

namespace aq::test {

/// `text` with '"' for every backtick.
inline std::string quoted(std::string text) {
  return replace_all(std::move(text), "`", "\"");
}

}  // namespace aq::test
