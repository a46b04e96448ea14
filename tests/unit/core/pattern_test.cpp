#include <gtest/gtest.h>

#include "aq/core/text.h"

namespace aq {
namespace {

struct Case {
  const char* pattern;
  const char* text;
  bool matches;
};

constexpr const char* kExpert = "model.layers.12.mlp.experts.7.down_proj";

/// The answers of Python's fnmatch.fnmatchcase(text, pattern), but for '[^a]': the C library of GNU
/// takes '^' for '!' there.
constexpr Case kCases[] = {
    // clang-format off
    {"", "", true},
    {"", "a", false},
    {"*", "", true},
    {"*", kExpert, true},
    {"**", kExpert, true},
    {"***", "a", true},
    {"?", "", false},
    {"?", "a", true},
    {"?", ".", true},
    {"?", "ab", false},
    {"??", "ab", true},
    {"*.down_proj", kExpert, true},
    {"*down_proj", kExpert, true},
    {"*.up_proj", kExpert, false},
    {"model.layers.*.mlp.experts.*", kExpert, true},
    {"model.layers.?.mlp.*", kExpert, false},
    {"model.layers.??.mlp.*", kExpert, true},
    {"model.layers.1?.*", kExpert, true},
    {"model.layers.[0-9].*", kExpert, false},
    {"model.layers.1[0-5].*", kExpert, true},
    {"model.layers.1[3-5].*", kExpert, false},
    {"model.layers.1[!0-1].*", kExpert, true},
    {"model.layers.1[!2].*", kExpert, false},
    {"*experts.[!0-6].*", kExpert, true},
    {"*.experts.[7].*", kExpert, true},
    {"layers.*", kExpert, false},
    {"model.*.7.*_proj", kExpert, true},
    {"model.*.8.*_proj", kExpert, false},
    {"*.*.*.*.*.*.*.*", kExpert, false},
    {"*.*.*.*.*.*.*.*.*", kExpert, false},
    {"model**down_proj", kExpert, true},
    {"*layers*12*7*down*", kExpert, true},
    {"*12*12*", kExpert, false},
    {"Model.*", kExpert, false},
    {"*.DOWN_PROJ", kExpert, false},
    {"modelxlayers*", kExpert, false},
    {"model.layers", kExpert, false},
    {"model.layers.12.mlp.experts.7.down_proj", kExpert, true},
    {"model.layers.12.mlp.experts.7.down_proj*", kExpert, true},
    {"model.layers.12.mlp.experts.7.down_proj?", kExpert, false},
    {"?odel.layers.12.mlp.experts.7.down_proj", kExpert, true},
    {"[a-c]", "a", true},
    {"[a-c]", "c", true},
    {"[a-c]", "d", false},
    {"[a-c]", "", false},
    {"[a-c]", "ab", false},
    {"[!a-c]", "a", false},
    {"[!a-c]", "d", true},
    {"[!a-c]", ".", true},
    {"[abc]", "b", true},
    {"[a.c]", ".", true},
    {"[c-a]", "b", false},
    {"[c-a]", "c", false},
    {"[c-a]", "-", false},
    {"[!c-a]", "b", true},
    {"[a-c-e]", "d", false},
    {"[a-c-e]", "-", true},
    {"[a-c-e]", "e", true},
    {"[a-c-e]", "b", true},
    {"[-a]", "-", true},
    {"[a-]", "-", true},
    {"[a-]", "a", true},
    {"[a-]", "b", false},
    {"[!-a]", "-", false},
    {"[!-a]", "b", true},
    {"[--a]", "A", true},
    {"[a--]", "a", false},
    {"[", "[", true},
    {"[a", "[a", true},
    {"[a", "a", false},
    {"a[", "a[", true},
    {"[!", "[!", true},
    {"[!a", "[!a", true},
    {"[]", "[]", true},
    {"[]", "", false},
    {"[]a]", "]", true},
    {"[]a]", "a", true},
    {"[]a]", "b", false},
    {"[!]a]", "]", false},
    {"[!]a]", "b", true},
    {"[!]", "[!]", true},
    {"[!]", "a", false},
    {"[[]", "[", true},
    {"[[]a", "[a", true},
    {"[[a]", "a", true},
    {"[]]", "]", true},
    {"]", "]", true},
    {"a]", "a]", true},
    {"[a]]", "a]", true},
    {"[a]]", "a", false},
    {"[*]", "*", true},
    {"[*]", "a", false},
    {"[?]", "?", true},
    {"[?]", "a", false},
    {"*[", "a[", true},
    {"*[a", "x[a", true},
    {"*[ab]", "xb", true},
    {"*[ab]", "xc", false},
    {"[^a]", "a", false},
    {"[^a]", "^", true},
    {"[^a]", "b", true},
    {"\\*", "\\x", true},
    {"\\*", "*", false},
    {"a\\?", "a\\b", true},
    {"[\\]", "\\", true},
    {"[a\\]", "a", true},
    {"a.b", "axb", false},
    {"a+b", "a+b", true},
    {"a+b", "aab", false},
    {"(a|b)", "a", false},
    {"{a,b}", "a", false},
    {"{a,b}", "{a,b}", true},
    {"*a*b", "aXbXb", true},
    {"*ab", "aab", true},
    {"*aab*", "aaab", true},
    {"a*a", "a", false},
    {"a*a", "aa", true},
    {"a?*c", "abc", true},
    {"a?*c", "ac", false},
    {"a*?c", "abc", true},
    {"*?", "", false},
    {"*?", "a", true},
    {"?*?", "a", false},
    {"?*?", "ab", true},
    {"[0-9][0-9]", "12", true},
    {"[0-9][0-9]", "1a", false},
    {"*[0-9]", "experts.7", true},
    {"*[!0-9]", "experts.7", false},
    {"[a-cx-z]", "y", true},
    {"[a-cx-z]", "m", false},
    {"[a-cx-z]", "-", false},
    {"[]-a]", "_", true},
    {"[]-a]", "]", true},
    {"[!]-a]", "_", false},
    {"[]-]", "-", true},
    {"[]-]", "]", true},
    {"[]-]", "a", false},
    {"[a-]b]", "-b]", true},
    {"[a-]b]", "ab]", true},
    {"[!!]", "!", false},
    {"[!!]", "a", true},
    {"[a!]", "!", true},
    {"[&&]", "&", true},
    {"[a||b]", "|", true},
    {"[~~]", "~", true},
    {"*", "a\nb", true},
    {"a*b", "a\nb", true},
    {"?", "\n", true},
    // clang-format on
};

TEST(MatchesPattern, AsPythonsFnmatch) {
  for (const Case& expected : kCases)
    EXPECT_EQ(matches_pattern(expected.pattern, expected.text), expected.matches)
        << "pattern '" << expected.pattern << "', text '" << expected.text << "'";
}

/// A pattern of many stars must not take exponential time.
TEST(MatchesPattern, ManyStarsOnALongText) {
  std::string pattern;
  for (int i = 0; i < 50; ++i) pattern += "*a";
  const std::string text(5000, 'a');
  EXPECT_TRUE(matches_pattern(pattern, text));
  EXPECT_FALSE(matches_pattern(pattern + "b", text));
  EXPECT_FALSE(matches_pattern(std::string("*\0b", 3), "a"));
}

}  // namespace
}  // namespace aq
