#pragma once
/// A hint for patterns that were meant as regular expressions.

#include <string>
#include <string_view>
#include <vector>

#include "aq/model/model.h"

namespace aq {

/// For a pattern that matches no linear: "; patterns are of fnmatch, not regular expressions ...;
/// did you mean '*.down_proj'?" when it looks like a regular expression, else nothing.
std::string regex_hint(std::string_view pattern, const std::vector<const LinearSpec*>& linears);

}  // namespace aq
