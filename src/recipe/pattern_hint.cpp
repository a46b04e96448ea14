#include "recipe/pattern_hint.h"

#include <algorithm>
#include <array>

#include "aq/core/error.h"
#include "aq/core/text.h"

namespace aq {
namespace {

constexpr std::array<std::string_view, 3> kPrefixes{"re:", "+:", "-:"};  // of other quantizers

/// '.*' that fnmatch means too: a point and then any text, as in "model.layers.3.*" or
/// "*.mlp.*.up".
bool is_component(std::string_view pattern, std::size_t at) {
  const bool ends = at + 2 == pattern.size() || pattern[at + 2] == '.';
  return at > 0 && ends;
}

bool looks_like_regex(std::string_view pattern) {
  const auto starts = [&](std::string_view prefix) { return pattern.starts_with(prefix); };
  if (std::any_of(kPrefixes.begin(), kPrefixes.end(), starts)) return true;
  if (pattern.starts_with('^') || pattern.ends_with('$')) return true;
  if (pattern.find_first_of("\\(|{") != std::string_view::npos) return true;
  if (pattern.find(".+") != std::string_view::npos) return true;
  if (pattern.find("]+") != std::string_view::npos) return true;
  for (auto at = pattern.find(".*"); at != std::string_view::npos; at = pattern.find(".*", at + 1))
    if (!is_component(pattern, at)) return true;
  return false;
}

/// The pattern of fnmatch that says about the same as the regular expression.
std::string as_fnmatch(std::string_view regex) {
  for (const std::string_view prefix : kPrefixes)
    if (regex.starts_with(prefix)) regex.remove_prefix(prefix.size());
  const bool from_start = regex.starts_with('^'), to_end = regex.ends_with('$');
  std::string text =
      str(from_start ? "" : "*", regex.substr(from_start ? 1 : 0), to_end ? "" : "*");
  if (to_end) text.pop_back();
  for (const std::string_view any : {".*", ".+", "\\d+", "[0-9]+"})
    text = replace_all(text, any, "*");
  text = replace_all(text, "\\.", ".");
  while (text.find("**") != std::string::npos) text = replace_all(text, "**", "*");
  return text;
}

}  // namespace

std::string regex_hint(std::string_view pattern, const std::vector<const LinearSpec*>& linears) {
  const auto matched = [&](const std::string& text) {
    return std::any_of(linears.begin(), linears.end(), [&](const LinearSpec* linear) {
      return matches_pattern(text, linear->name);
    });
  };
  std::string better = as_fnmatch(pattern);
  // A regular expression need not match the whole name: a '*' at an end only where it is needed.
  if (!pattern.ends_with('*') && matched(better.substr(0, better.size() - 1))) better.pop_back();
  if (better.starts_with('*') && matched(better.substr(1))) better.erase(0, 1);
  const bool helps = matched(better);
  if (!looks_like_regex(pattern) && !(helps && pattern.find(".*") != std::string_view::npos))
    return {};
  return str(
      "; patterns are those of fnmatch, not regular expressions: '*' matches any text, dots "
      "included",
      helps ? str("; did you mean '", better, "'?") : "");
}

}  // namespace aq
