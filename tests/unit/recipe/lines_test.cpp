// Where a mistake stands: every error names file, line, key and the nearest valid word.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/recipe/recipe.h"

namespace aq {
namespace {

struct Mistake {
  std::string text;
  int line;
  std::string key;   ///< "" where it is of no key
  std::string hint;  ///< that the error must hold
};

/// Lines are counted from the `{` on line 1.
const std::vector<Mistake>& mistakes() {
  static const std::vector<Mistake> all{
      // no strict JSON
      {"{\n\"default\": {\"wq\": \"int4\",\n}}", 2, "", "a comma stands before '}'"},
      {"{\"default\": {},\n\"overrides\": [{\"pattern\": \"a\"},\n\n]}", 2, "",
       "a comma stands before ']'"},
      {"{\n// four bits\n\"default\": {}}", 2, "", "comments are not allowed"},
      {"{\n\"default\": {}, # four bits\n}", 2, "", "comments are not allowed"},
      {"{\n\"default\": {} /* four */}", 2, "", "comments are not allowed"},
      {"{\n\"default\": {\n\"wq\": int4}}", 3, "", "invalid literal"},
      {"{\n'default': {}}", 2, "", "string literal"},
      {"{\n\"default\": {}\n", 2, "", "unexpected end of input"},
      {"{\n\"default\": {}\n\"gptq\": {}}", 3, "", "unexpected string literal"},
      {"{\n\"default\": {\"comment\": \"one\nline\"}}", 2, "", "control character"},
      {"{\n\"default\": {}}\n}", 3, "", "end of input"},
      {"{\n\"default\": {\"group_size\": 1e999\n}}", 2, "", "number overflow"},
      // keys twice
      {"{\n\"default\": {},\n\"default\": {}}", 3, "default", "twice in one object"},
      {"{\n\"default\": {\"wq\": \"int4\",\n\"group_size\": 32,\n\"wq\": \"int3\"}}", 4, "wq",
       "default: key 'wq' stands twice"},
      {"{\"default\": {},\n\"overrides\": [{\"pattern\": \"a\"},\n{\"pattern\": \"a\",\n"
       "\"pattern\": \"b\"}]}",
       4, "pattern", "overrides[1]: key 'pattern' stands twice"},
      {"{\"default\": {\"notes\":\n{\"a\": 1, \"a\": 2}}}", 2, "a", "default.notes: key 'a'"},
      // unknown keys
      {"{\n\"default\": {},\n\"overides\": []}", 3, "overides", "did you mean 'overrides'?"},
      {"{\n\"default\": {\n\"group_sise\": 32}}", 3, "group_sise", "did you mean 'group_size'?"},
      {"{\"default\": {},\n\"overrides\": [\n{\"pattern\": \"*\"},\n{\"pattern\": \"*\",\n"
       "\"wq\": \"int4\",\n\"GROUP_SIZE\": 32}]}",
       6, "GROUP_SIZE", "overrides[1]: key 'GROUP_SIZE' is not known; did you mean 'group_size'?"},
      {"{\"default\": {},\n\"gptq\": {\"damping\": 0.1,\n\"dampening\": 0.1}}", 3, "dampening",
       "did you mean 'damping'?"},
      {"{\"default\": {},\n\"gptq\": {\n\"sweeps\": 3}}", 3, "sweeps",
       "known are 'damping', 'scale_search'"},
      {"{\"default\": {\"wq\": \"mxfp6\", \"extra\":\n{\"fromat\": \"e2m3\"}}}", 2, "fromat",
       "default.extra: key 'fromat' is not known; did you mean 'format'?"},
      {"{\"default\": {\n\"bits\": 4}}", 2, "bits", "known are 'wq', 'group_size'"},
      {"{\"default\": {\n\"group\": 4}}", 2, "group", "did you mean 'group_size'?"},
      {"{\"default\": {\n\"Sym\": true}}", 2, "Sym", "did you mean 'symmetric'?"},
      // keys that are missing
      {"{\"default\": {},\n\"overrides\": [\n\n{\"wq\": \"int4\"}]}", 4, "pattern",
       "overrides[0]: key 'pattern' is missing"},
      {"{\"default\":\n{\n\"wq\": \"mxfp6\",\n\"extra\": {}}}", 4, "format", "default.extra"},
      // wrong words
      {"{\"default\": {\n\"wq\": \"INT4\"}}", 2, "wq", "did you mean 'int4'?"},
      {"{\"default\": {\n\"wq\": \"mxpf4\"}}", 2, "wq", "did you mean 'mxfp4'?"},
      {"{\"default\": {\n\"wq\": \"awesome4bit\"}}", 2, "wq", "known are 'int2', 'int3'"},
      {"{\"default\": {\n\"aq\": \"nonne\"}}", 2, "aq", "did you mean 'none'?"},
      {"{\"default\": {\"wq\": \"fp8\", \"extra\": {\n\"format\": \"e5m3\"}}}", 2, "format",
       "did you mean 'e"},
      {"{\"default\": {\n\"scale_dtype\": \"b16\"}}", 2, "scale_dtype", "did you mean 'bf16'?"},
      {"{\"default\": {\n\"scale_rule\": \"OCP\"}}", 2, "scale_rule", "did you mean 'ocp'?"},
      {"{\"default\": {\n\"method\": \"awq\"}}", 2, "method", "known are 'gptq', 'rtn'"},
      {"{\"default\": {},\n\"gptq\": {\n\"act_order\": \"dynamic\"}}", 3, "act_order",
       "known are 'none', 'static'"},
      {"{\"default\": {},\n\"gptq\": {\n\"sequential\": \"layers\"}}", 3, "sequential",
       "did you mean 'layer'?"},
      {"{\"default\": {},\n\"gptq\": {\n\"expert_tokens\": \"everything\"}}", 3, "expert_tokens",
       "known are 'routed', 'all'"},
      // wrong types and ranges
      {"{\n\"default\": [\n]}", 2, "", "default: is [], not an object"},
      {"{\"default\": {},\n\"overrides\":\n{}}", 2, "overrides", "is {}, not a list"},
      {"{\"default\": {},\n\"overrides\": [\n{\"pattern\": \"*\"},\n3]}", 4, "",
       "overrides[1]: is 3, not an object"},
      {"{\"default\": {\n\"wq\":\n4}}", 2, "wq", "is 4, not a text; known are 'int2'"},
      {"{\"default\": {\n\"group_size\": 0}}", 2, "group_size", "\"channel\" or \"tensor\""},
      {"{\"default\": {\n\"aq_group_size\": -3}}", 2, "aq_group_size", "\"token\""},
      {"{\"default\": {\n\"symmetric\": \"no\"}}", 2, "symmetric", "not true or false"},
      {"{\"default\": {\n\"extra\": \"e2m3\"}}", 2, "",
       "default.extra: is \"e2m3\", not an object"},
      {"{\"default\": {},\n\"gptq\": {\n\"refine\": 65}}", 3, "refine",
       "not a whole number in [0, 64]"},
      {"{\"default\": {},\n\"gptq\": {\n\"refine\": 1.0}}", 3, "refine", "whole number"},
      {"{\"default\": {},\n\"gptq\": {\n\"routing_exponent\":\n17}}", 3, "routing_exponent",
       "a number in [0, 16]"},
      // keys of one rule that contradict each other
      {"{\"default\": {\n\"wq\": \"mxfp4\",\n\"group_size\": 16}}", 3, "group_size",
       "multiples of 32"},
      {"{\"default\": {\n\"wq\": \"mxfp4\",\n\"symmetric\": false}}", 3, "symmetric",
       "mxfp4 has no zeros"},
      {"{\"default\": {\n\"wq\": \"fp6\",\n\"extra\": {\"format\": \"e4m3\"}}}", 3, "extra",
       "no element of fp6"},
      {"{\"default\": {},\n\"overrides\": [{\"pattern\": \"*\",\n\"wq\": \"int4\",\n"
       "\"scale_rule\": \"ocp\"}]}",
       4, "scale_rule", "overrides[0]: key 'scale_rule' is only of MX formats"},
  };
  return all;
}

TEST(RecipeLines, EveryMistakeIsNamedWithItsLine) {
  EXPECT_GE(mistakes().size(), 30u);
  for (const Mistake& mistake : mistakes()) {
    SCOPED_TRACE(mistake.text);
    try {
      parse_recipe(mistake.text, "my.json");
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      const std::string what = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(what, testing::StartsWith(str("read the recipe: my.json:", mistake.line, ": ")));
      EXPECT_THAT(what, testing::HasSubstr(mistake.hint));
      if (!mistake.key.empty()) {
        EXPECT_THAT(what, testing::HasSubstr(str("key '", mistake.key, "' ")));
      }
      EXPECT_EQ(what.find('\n'), std::string::npos) << "one line";
      EXPECT_LT(what.size(), 400u);
    }
  }
}

TEST(RecipeLines, TheWholeText) {
  try {
    parse_recipe(
        "{\n  \"default\": {\"wq\": \"int4\"},\n  \"overrides\": [\n    {\"pattern\": "
        "\"a\"},\n    {\"pattern\": \"b\"},\n    {\"pattern\": \"c\",\n     "
        "\"group_sise\": 32}\n  ]\n}\n",
        "my.json");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "read the recipe: my.json:7: overrides[2]: key 'group_sise' is not known; did you "
                 "mean 'group_size'?");
  }
}

TEST(RecipeLines, OddKeysAndLongValuesStayOnOneLine) {
  const std::string item = std::string(5000, 'x') + "\xc3\xa4";
  for (const std::string& text :
       {std::string("{\"default\": {\"a\\nb\": 1}}"), std::string("{\"default\": {\"\": 1}}"),
        "{\"default\": {\"wq\": \"" + item + "\"}}", "{\"default\": {\"" + item + "\": 1}}",
        "{\"default\": [\"" + item + "\"]}",
        "{\"default\": {\"group_size\": \"\xe2\x80\xa8" + item + "\"}}",
        std::string("{\"default\": {\"wq\": \"int4\\r\\n\"}}")}) {
    SCOPED_TRACE(text.substr(0, 60));
    try {
      parse_recipe(text, "my.json");
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("my.json:1: default: "));
      EXPECT_EQ(std::string(error.what()).find_first_of("\r\n"), std::string::npos);
      EXPECT_LT(std::string(error.what()).size(), 500u);
    }
  }
}

TEST(RecipeLines, DeepNestingIsRefused) {
  for (const char bracket : {'[', '{'}) {
    std::string text = "{\"default\": {\"notes\": ";
    for (int i = 0; i < 100000; ++i) text += bracket == '[' ? "[" : "{\"a\":";
    EXPECT_THROW(parse_recipe(text, "my.json"), Error);
  }
  const std::string notes = std::string(62, '[') + std::string(62, ']');
  parse_recipe("{\"default\": {\"notes\": " + notes + "}}", "my.json");
  EXPECT_THROW(parse_recipe("{\"default\": {\"notes\": [" + notes + "]}}", "my.json"), Error);
}

TEST(RecipeLines, WindowsLineEndsAndAByteOrderMark) {
  const std::string text = "\xef\xbb\xbf{\r\n\"default\": {\r\n\"wq\": \"int44\"}}\r\n";
  try {
    parse_recipe(text, "my.json");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("my.json:3: default: key 'wq'"));
  }
}

}  // namespace
}  // namespace aq
