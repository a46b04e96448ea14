// Mistakes in recipes: every error names file, place and the nearest valid word.

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
  std::string hint;  ///< what the error holds
};

void check(const std::vector<Mistake>& mistakes) {
  for (const Mistake& mistake : mistakes) {
    const std::string what = refused(test::quoted(mistake.text));
    EXPECT_THAT(what, testing::StartsWith("read the recipe: my.json: ")) << mistake.text;
    EXPECT_THAT(what, testing::HasSubstr(mistake.hint)) << mistake.text;
  }
}

TEST(WrongRecipe, NoStrictJson) {
  check({
      {"", "not valid JSON: line 1, column 1: "},
      {"wq: int4", "not valid JSON: line 1, column 1: "},
      {"{\n`default`: {`wq`: `int4`,\n}}", "JSON: line 3, column 1: "},
      {"{\n`default`: {`wq`: `int4`,\n}}",
       "unexpected '}'; expected string literal; a comma stands before it"},
      {"{`default`: {},\n`overrides`: [{`pattern`: `a`},\n\n]}", "a comma stands before it"},
      {"{\n// four bits\n`default`: {}}", "comments are not allowed"},
      {"{\n`default`: {}, # four bits\n}", "comments are not allowed"},
      {"{\n`default`: {} /* four */}", "comments are not allowed"},
      {"{\n`default`: {\n`wq`: int4}}",
       "JSON: line 3, column 7: syntax error while parsing value - invalid literal"},
      {"{\n'default': {}}", "JSON: line 2, column 1: "},
      {"{\n'default': {}}", "string literal"},
      {"{\n`default`: {}\n", "unexpected end of input"},
      {"{\n`default`: {}\n`gptq`: {}}", "JSON: line 3, column 6: "},
      {"{\n`default`: {}\n`gptq`: {}}", "unexpected string literal"},
      {"{\n`default`: {`comment`: `one\nline`}}", "control character"},
      {"{\n`default`: {}}\n}", "end of input"},
      {"{\n`default`: {`group_size`: 1e999\n}}", "not valid JSON: number overflow"},
      {"{`default`: {`wq`: `\xff`}}", "not valid JSON"},
      {"\xef\xbb\xbf{\r\n`default`: {\r\n`wq`: `int44`}}\r\n", "'default.wq' is"},
      {"[]", "it is not a JSON object"},
      {"null", "it is not a JSON object"},
  });
}

TEST(WrongRecipe, Keys) {
  check({
      // twice
      {"{\n`default`: {},\n`default`: {}}", "'default' appears twice"},
      {"{\n`default`: {`wq`: `int4`,\n`group_size`: 32,\n`wq`: `int3`}}",
       "'default.wq' appears twice"},
      {"{`default`: {},\n`overrides`: [{`pattern`: `a`},\n{`pattern`: `a`,\n`pattern`: `b`}]}",
       "'overrides[1].pattern' appears twice"},
      {"{`default`: {`notes`:\n{`a`: 1, `a`: 2}}}", "'default.notes.a' appears twice"},
      // unknown
      {"{\n`default`: {},\n`overides`: []}", "'overides' is not known; did you mean 'overrides'?"},
      {"{`default`: {}, `gtpq`: {}}", "'gtpq' is not known; did you mean 'gptq'?"},
      {"{`default`: {},\n`overrides`: [\n{`pattern`: `*`},\n{`pattern`: `*`,\n`GROUP_SIZE`: 32}]}",
       "'overrides[1].GROUP_SIZE' is not known; did you mean 'group_size'?"},
      {"{`default`: {},\n`overrides`: [{`patern`: `*`}]}", "did you mean 'pattern'?"},
      {"{`default`: {\n`group`: 4}}", "'default.group' is not known; did you mean 'group_size'?"},
      {"{`default`: {\n`Sym`: true}}", "did you mean 'symmetric'?"},
      {"{`default`: {\n`bits`: 4}}", "known are 'wq', 'group_size'"},
      {"{`default`: {\n`pattern`: `*`}}", "'default.pattern' is not known"},
      {"{`default`: {`wq`: `mxfp6`, `extra`:\n{`fromat`: `e2m3`}}}",
       "'default.extra.fromat' is not known; did you mean 'format'?"},
      {"{`default`: {},\n`gptq`: {`damping`: 0.1,\n`dampening`: 0.1}}",
       "'gptq.dampening' is not known; did you mean 'damping'?"},
      {"{`default`: {},\n`gptq`: {\n`sweeps`: 3}}", "known are 'damping', 'few_tokens_damping'"},
      // missing
      {"{}", "'default' is missing"},
      {"{`overrides`: []}", "'default' is missing"},
      {"{`default`: {},\n`overrides`: [\n\n{`wq`: `int4`}]}", "'overrides[0].pattern' is missing"},
      {"{`default`:\n{\n`wq`: `mxfp6`,\n`extra`: {}}}", "'default.extra.format' is missing"},
  });
}

TEST(WrongRecipe, Objects) {
  check({
      {"{\n`default`: [\n]}", "'default' is [], not an object"},
      {"{`default`: null}", "'default' is null, not an object"},
      {"{`default`: {},\n`overrides`:\n{}}", "'overrides' is {}, not a list"},
      {"{`default`: {},\n`overrides`: [\n{`pattern`: `*`},\n3]}",
       "'overrides[1]' is 3, not an object"},
      {"{`default`: {},\n`overrides`: [{\n`pattern`: ``}]}", "'overrides[0].pattern' is \"\""},
      {"{`default`: {},\n`overrides`: [{\n`pattern`: 3}]}", "'overrides[0].pattern' is 3"},
      {"{`default`: {\n`extra`: `e2m3`}}", "'default.extra' is \"e2m3\", not an object"},
      {"{`default`: {}, `gptq`: 3}", "'gptq' is 3, not an object"},
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
    check({{"{`default`: {\n" + keys + "}}", "'default." + keys.substr(1, keys.find('`', 1) - 1)},
           {"{`default`: {\n" + keys + "}}", hint},
           {"{`default`: {}, `overrides`: [{`pattern`: `*`}, {`pattern`: `*`,\n" + keys + "}]}",
            "'overrides[1]."}});
  check({{"{`default`: {`wq`: `fp8`, `extra`: {\n`format`: `e5m3`}}}", "did you mean 'e"}});
  const std::vector<std::pair<std::string, std::string>> of_settings{
      {"`damping`: -0.01", "'gptq.damping' is -0.01, not a number in [0, 100]"},
      {"`damping`: `0.01`", "'gptq.damping' is \"0.01\""},
      {"`damping`: null", "'gptq.damping' is null"},
      {"`refine`: 65", "'gptq.refine' is 65, not a whole number in [0, 64]"},
      {"`refine`: 1.0", "whole number"},
      {"`routing_exponent`:\n17", "a number in [0, 16]"},
      {"`routing_exponent`: true", "'gptq.routing_exponent' is true"},
      {"`min_tokens`: 18446744073709551615", "is 18446744073709551615"},
      {"`act_order`: `dynamic`", "known are 'none', 'static'"},
      {"`sequential`: `layers`", "did you mean 'layer'?"},
      {"`starved`: 0", "'gptq.starved' is 0, not a text"},
  };
  for (const auto& [keys, hint] : of_settings)
    check({{"{`default`: {},\n`gptq`: {\n" + keys + "}}", hint}});
}

TEST(WrongRecipe, KeysThatContradictEachOther) {
  check({
      {"{`default`: {\n`wq`: `mxfp4`,\n`group_size`: 16}}",
       "'default.group_size' does not fit: groups of mxfp4 are multiples of 32"},
      {"{`default`: {\n`wq`: `mxfp4`,\n`symmetric`: false}}",
       "'default.symmetric' is false, but mxfp4 has no zeros"},
      {"{`default`: {\n`wq`: `fp6`,\n`extra`: {`format`: `e4m3`}}}",
       "'default.extra' asks for e4m3, which is no element of fp6"},
      {"{`default`: {},\n`overrides`: [{`pattern`: `*`,\n`wq`: `int4`,\n`scale_rule`: `ocp`}]}",
       "'overrides[0].scale_rule' is only of MX formats"},
  });
}

TEST(WrongRecipe, FlatPlans) {
  check({
      {"{`gptq`: {}, `comment`: 1}", "'default' is missing"},
      {"{`defualt`: {`wq`: `int4`}}", "'defualt' is not known; did you mean 'default'?"},
      {"{`a.b`: `int4`, `gtpq`: {}}", "'gtpq' is not known; did you mean 'gptq'?"},
      {"{`a.b`: `int4`,\n`a.c`: `int44`}", "'a.c' is 'int44', which is not known; did you"},
      {"{`a.b`: `int4`,\n`a.c`: 4}", "'a.c' is 4, neither a format nor an object"},
      {"{`a.b`:\n{`wq`: `int4`,\n`group`: 4}}", "'a.b.group' is not known; did you mean"},
      {"{`a.b`:\n{`pattern`: `*`, `wq`: `int4`}}", "'a.b.pattern' is not known"},
      {"{\n`a.b`:\n{`group_size`: 32}}", "'a.b.wq' is missing"},
      {"{`a.b`: `int4`,\n`a.b`: `int3`}", "'a.b' appears twice"},
      {"{`a.b`:\n{`wq`: `mxfp4`,\n`group_size`: 8}}", "'a.b.group_size' does not fit"},
  });
}

TEST(WrongRecipe, TheWholeText) {
  EXPECT_EQ(
      refused(test::quoted("{`default`: {},\n`overrides`: [{`pattern`: `a`},\n{`pattern`: `c`,\n"
                           "`group_sise`: 32}]}")),
      "read the recipe: my.json: 'overrides[1].group_sise' is not known; did you mean "
      "'group_size'?");
}

TEST(WrongRecipe, OddKeysAndLongValuesStayOnOneLine) {
  const std::string item = std::string(5000, 'x') + "\xc3\xa4";
  for (const std::string& inner :
       {std::string("{`a\\nb`: 1}"), std::string("{``: 1}"), "{`wq`: `" + item + "`}",
        "{`" + item + "`: 1}", "[`" + item + "`]", "{`group_size`: `\xe2\x80\xa8" + item + "`}",
        std::string("{`wq`: `int4\\r\\n`}")})
    check({{"{`default`: " + inner + "}", "'default"}});
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
