// Mistakes in recipes: every error names file, line, key and the nearest valid word.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/recipe/recipe.h"
#include "quoted.h"

namespace aq {
namespace {

/// The error, one line of it.
std::string refused(const std::string& text) {
  try {
    parse_recipe(text, "my.json");
    return "accepted";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_EQ(what.find_first_of("\r\n"), std::string::npos) << what;
    EXPECT_LT(what.size(), 500U);
    return what;
  }
}

struct Mistake {
  std::string text;
  int line;
  std::string hint;  ///< what the error holds
};

void check(const std::vector<Mistake>& mistakes) {
  for (const Mistake& mistake : mistakes) {
    const std::string what = refused(test::quoted(mistake.text));
    EXPECT_THAT(what, testing::StartsWith(str("read the recipe: my.json:", mistake.line, ": ")))
        << mistake.text;
    EXPECT_THAT(what, testing::HasSubstr(mistake.hint)) << mistake.text;
  }
}

TEST(WrongRecipe, NoStrictJson) {
  check({
      {"", 1, "valid JSON"},
      {"wq: int4", 1, "valid JSON"},
      {"{\n`default`: {`wq`: `int4`,\n}}", 2, "a comma stands before '}'"},
      {"{`default`: {},\n`overrides`: [{`pattern`: `a`},\n\n]}", 2, "a comma stands before ']'"},
      {"{\n// four bits\n`default`: {}}", 2, "comments are not allowed"},
      {"{\n`default`: {}, # four bits\n}", 2, "comments are not allowed"},
      {"{\n`default`: {} /* four */}", 2, "comments are not allowed"},
      {"{\n`default`: {\n`wq`: int4}}", 3, "invalid literal"},
      {"{\n'default': {}}", 2, "string literal"},
      {"{\n`default`: {}\n", 2, "unexpected end of input"},
      {"{\n`default`: {}\n`gptq`: {}}", 3, "unexpected string literal"},
      {"{\n`default`: {`comment`: `one\nline`}}", 2, "control character"},
      {"{\n`default`: {}}\n}", 3, "end of input"},
      {"{\n`default`: {`group_size`: 1e999\n}}", 2, "number overflow"},
      {"{`default`: {`wq`: `\xff`}}", 1, "valid JSON"},
      {"\xef\xbb\xbf{\r\n`default`: {\r\n`wq`: `int44`}}\r\n", 3, "default: key 'wq'"},
      {"[]", 1, "is [], not a JSON object"},
      {"null", 1, "not a JSON object"},
  });
}

TEST(WrongRecipe, Keys) {
  check({
      // twice
      {"{\n`default`: {},\n`default`: {}}", 3, "key 'default' stands twice in one object"},
      {"{\n`default`: {`wq`: `int4`,\n`group_size`: 32,\n`wq`: `int3`}}", 4,
       "default: key 'wq' stands twice"},
      {"{`default`: {},\n`overrides`: [{`pattern`: `a`},\n{`pattern`: `a`,\n`pattern`: `b`}]}", 4,
       "overrides[1]: key 'pattern' stands twice"},
      {"{`default`: {`notes`:\n{`a`: 1, `a`: 2}}}", 2, "default.notes: key 'a' stands twice"},
      // unknown
      {"{\n`default`: {},\n`overides`: []}", 3,
       "'overides' is not known; did you mean 'overrides'?"},
      {"{`default`: {}, `gtpq`: {}}", 1, "key 'gtpq' is not known; did you mean 'gptq'?"},
      {"{`default`: {},\n`overrides`: [\n{`pattern`: `*`},\n{`pattern`: `*`,\n`GROUP_SIZE`: 32}]}",
       5, "overrides[1]: key 'GROUP_SIZE' is not known; did you mean 'group_size'?"},
      {"{`default`: {},\n`overrides`: [{`patern`: `*`}]}", 2, "did you mean 'pattern'?"},
      {"{`default`: {\n`group`: 4}}", 2, "key 'group' is not known; did you mean 'group_size'?"},
      {"{`default`: {\n`Sym`: true}}", 2, "did you mean 'symmetric'?"},
      {"{`default`: {\n`bits`: 4}}", 2, "known are 'wq', 'group_size'"},
      {"{`default`: {\n`pattern`: `*`}}", 2, "default: key 'pattern' is not known"},
      {"{`default`: {`wq`: `mxfp6`, `extra`:\n{`fromat`: `e2m3`}}}", 2,
       "default.extra: key 'fromat' is not known; did you mean 'format'?"},
      {"{`default`: {},\n`gptq`: {`damping`: 0.1,\n`dampening`: 0.1}}", 3,
       "gptq: key 'dampening' is not known; did you mean 'damping'?"},
      {"{`default`: {},\n`gptq`: {\n`sweeps`: 3}}", 3, "known are 'damping', 'scale_search'"},
      // missing
      {"{}", 1, "key 'default' is missing"},
      {"{`overrides`: []}", 1, "key 'default' is missing"},
      {"{`default`: {},\n`overrides`: [\n\n{`wq`: `int4`}]}", 4,
       "overrides[0]: key 'pattern' is missing"},
      {"{`default`:\n{\n`wq`: `mxfp6`,\n`extra`: {}}}", 4,
       "default.extra: key 'format' is missing"},
  });
}

TEST(WrongRecipe, Objects) {
  check({
      {"{\n`default`: [\n]}", 2, "default: is [], not an object"},
      {"{`default`: null}", 1, "default: is null, not an object"},
      {"{`default`: {},\n`overrides`:\n{}}", 2, "key 'overrides' is {}, not a list"},
      {"{`default`: {},\n`overrides`: [\n{`pattern`: `*`},\n3]}", 4,
       "overrides[1]: is 3, not an object"},
      {"{`default`: {},\n`overrides`: [{\n`pattern`: ``}]}", 3,
       "overrides[0]: key 'pattern' is \"\""},
      {"{`default`: {},\n`overrides`: [{\n`pattern`: 3}]}", 3, "overrides[0]: key 'pattern' is 3"},
      {"{`default`: {\n`extra`: `e2m3`}}", 2, "default.extra: is \"e2m3\", not an object"},
      {"{`default`: {}, `gptq`: 3}", 1, "gptq: is 3, not an object"},
  });
}

/// Values of keys: of rules, wherever they stand, and of "gptq".
TEST(WrongRecipe, Values) {
  const std::vector<std::pair<std::string, std::string>> of_rules{
      {"`wq`: `INT4`", "'INT4', which is not known; did you mean 'int4'?"},
      {"`wq`: `mxpf4`", "did you mean 'mxfp4'?"},
      {"`wq`: `awesome4bit`", "known are 'int2', 'int3'"},
      {"`wq`: 4", "is 4, not a text; known are 'int2'"},
      {"`wq`: null", "is null, not a text"},
      {"`aq`: `nonne`", "did you mean 'none'?"},
      {"`scale_dtype`: `b16`", "did you mean 'bf16'?"},
      {"`scale_rule`: `OCP`", "did you mean 'ocp'?"},
      {"`method`: `gtpq`", "did you mean 'gptq'?"},
      {"`method`: `copy`", "known are 'gptq', 'rtn'"},
      {"`group_size`: 0", "is 0, not a number of columns (1 to 1048576), -1 or \"channel\" or"},
      {"`group_size`: -2", "is -2"},
      {"`group_size`: 32.0", "is 32.0"},
      {"`group_size`: 1048577", "is 1048577"},
      {"`group_size`: 18446744073709551615", "is 18446744073709551615"},
      {"`group_size`: true", "is true"},
      {"`group_size`: `32`", "'32', which is not known"},
      {"`group_size`: `chanel`", "did you mean 'channel'?"},
      {"`aq_group_size`: -3", "or \"token\""},
      {"`symmetric`: `no`", "not true or false"},
      {"`skip`: 1", "not true or false"},
  };
  for (const auto& [keys, hint] : of_rules)
    check({{"{`default`: {\n" + keys + "}}", 2,
            "default: key '" + keys.substr(1, keys.find('`', 1) - 1)},
           {"{`default`: {\n" + keys + "}}", 2, hint},
           {"{`default`: {}, `overrides`: [{`pattern`: `*`}, {`pattern`: `*`,\n" + keys + "}]}", 2,
            "overrides[1]: key '"}});
  check({{"{`default`: {`wq`: `fp8`, `extra`: {\n`format`: `e5m3`}}}", 2, "did you mean 'e"}});
  const std::vector<std::pair<std::string, std::string>> of_settings{
      {"`damping`: -0.01", "key 'damping' is -0.01, not a number in [0, 100]"},
      {"`damping`: `0.01`", "key 'damping' is \"0.01\""},
      {"`damping`: null", "key 'damping' is null"},
      {"`refine`: 65", "key 'refine' is 65, not a whole number in [0, 64]"},
      {"`refine`: 1.0", "whole number"},
      {"`routing_exponent`:\n17", "a number in [0, 16]"},
      {"`routing_exponent`: true", "key 'routing_exponent' is true"},
      {"`min_tokens`: 18446744073709551615", "is 18446744073709551615"},
      {"`act_order`: `dynamic`", "known are 'none', 'static'"},
      {"`sequential`: `layers`", "did you mean 'layer'?"},
      {"`starved`: 0", "key 'starved' is 0, not a text"},
  };
  for (const auto& [keys, hint] : of_settings)
    check({{"{`default`: {},\n`gptq`: {\n" + keys + "}}", 3, hint}});
}

TEST(WrongRecipe, KeysThatContradictEachOther) {
  check({
      {"{`default`: {\n`wq`: `mxfp4`,\n`group_size`: 16}}", 3, "multiples of 32"},
      {"{`default`: {\n`wq`: `mxfp4`,\n`symmetric`: false}}", 3, "mxfp4 has no zeros"},
      {"{`default`: {\n`wq`: `fp6`,\n`extra`: {`format`: `e4m3`}}}", 3, "no element of fp6"},
      {"{`default`: {},\n`overrides`: [{`pattern`: `*`,\n`wq`: `int4`,\n`scale_rule`: `ocp`}]}", 4,
       "overrides[0]: key 'scale_rule' is only of MX formats"},
  });
}

TEST(WrongRecipe, FlatPlans) {
  check({
      {"{`gptq`: {}, `comment`: 1}", 1, "key 'default' is missing"},
      {"{`defualt`: {`wq`: `int4`}}", 1, "key 'defualt' is not known; did you mean 'default'?"},
      {"{`a.b`: `int4`, `gtpq`: {}}", 1, "key 'gtpq' is not known; did you mean 'gptq'?"},
      {"{`a.b`: `int4`,\n`a.c`: `int44`}", 2, "key 'a.c' is 'int44', which is not known; did you"},
      {"{`a.b`: `int4`,\n`a.c`: 4}", 2, "key 'a.c' is 4, neither a format nor an object"},
      {"{`a.b`:\n{`wq`: `int4`,\n`group`: 4}}", 3, "a.b: key 'group' is not known; did you mean"},
      {"{`a.b`:\n{`pattern`: `*`, `wq`: `int4`}}", 2, "a.b: key 'pattern' is not known"},
      {"{\n`a.b`:\n{`group_size`: 32}}", 2, "a.b: key 'wq' is missing"},
      {"{`a.b`: `int4`,\n`a.b`: `int3`}", 2, "key 'a.b' stands twice"},
      {"{`a.b`:\n{`wq`: `mxfp4`,\n`group_size`: 8}}", 3, "a.b: key 'group_size' does not fit"},
  });
}

TEST(WrongRecipe, TheWholeText) {
  EXPECT_EQ(
      refused(test::quoted("{`default`: {},\n`overrides`: [{`pattern`: `a`},\n{`pattern`: `c`,\n"
                           "`group_sise`: 32}]}")),
      "read the recipe: my.json:4: overrides[1]: key 'group_sise' is not known; did you mean "
      "'group_size'?");
}

TEST(WrongRecipe, OddKeysAndLongValuesStayOnOneLine) {
  const std::string item = std::string(5000, 'x') + "\xc3\xa4";
  for (const std::string& inner :
       {std::string("{`a\\nb`: 1}"), std::string("{``: 1}"), "{`wq`: `" + item + "`}",
        "{`" + item + "`: 1}", "[`" + item + "`]", "{`group_size`: `\xe2\x80\xa8" + item + "`}",
        std::string("{`wq`: `int4\\r\\n`}")})
    check({{"{`default`: " + inner + "}", 1, "default: "}});
}

TEST(WrongRecipe, DeepNesting) {
  for (const std::string bracket : {"[", "{`a`:"}) {
    std::string text = "{`default`: {`notes`: ";
    for (int i = 0; i < 100000; ++i) text += bracket;
    EXPECT_THROW(parse_recipe(test::quoted(text), "my.json"), Error);
  }
  const std::string notes = std::string(62, '[') + std::string(62, ']');
  parse_recipe("{\"default\": {\"notes\": " + notes + "}}", "my.json");
  EXPECT_THROW(parse_recipe("{\"default\": {\"notes\": [" + notes + "]}}", "my.json"), Error);
}

}  // namespace
}  // namespace aq
