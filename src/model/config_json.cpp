#include "aq/model/config_json.h"

#include <algorithm>
#include <array>

namespace aq {
namespace {

constexpr std::array<std::string_view, 3> kNotFinite{"NaN", "Infinity", "-Infinity"};

/// Length of the text in quotes that `text` starts with; all of it when the end is missing.
std::size_t quoted_length(std::string_view text) {
  std::size_t i = 1;
  while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
  return std::min(i + 1, text.size());
}

}  // namespace

std::string standard_json(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const auto word = std::find_if(kNotFinite.begin(), kNotFinite.end(),
                                   [&](std::string_view w) { return text.starts_with(w); });
    const bool is_word = word != kNotFinite.end();
    const std::size_t length = is_word ? word->size() : text[0] == '"' ? quoted_length(text) : 1;
    if (is_word) result += '"';
    result += text.substr(0, length);
    if (is_word) result += '"';
    text.remove_prefix(length);
  }
  return result;
}

}  // namespace aq
