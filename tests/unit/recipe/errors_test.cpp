#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/recipe/recipe.h"

namespace aq {
namespace {

using Words = std::vector<std::string>;

constexpr const char* kFile = "configs/wrong.json";

void expect_refused(const std::string& text, const Words& words) {
  SCOPED_TRACE(text.substr(0, 200));
  try {
    parse_recipe(text, kFile);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_THAT(error.what(), testing::HasSubstr(kFile));
    for (const std::string& word : words) EXPECT_THAT(error.what(), testing::HasSubstr(word));
    EXPECT_THAT(error.what(), testing::Not(testing::HasSubstr("''")));
    EXPECT_LT(std::string(error.what()).size(), 600u);
  }
}

struct Case {
  std::string text;
  Words words;  ///< that the error must hold besides the file
};

TEST(WrongRecipe, NoJsonObject) {
  for (const char* text :
       {"", "{", "wq: int4", "{\"default\": {},}", "{\"default\": {\"wq\": int4}}",
        "// comment\n{\"default\": {}}", "{\"default\": {\"group_size\": 1e999}}",
        "{\"default\": {\"wq\": \"\xff\"}}"})
    expect_refused(text, {"valid JSON"});
  for (const char* text : {"[]", "\"int4\"", "null", "4"}) expect_refused(text, {"JSON object"});
  expect_refused(std::string(100000, '['), {"valid JSON"});
}

TEST(WrongRecipe, KeysOfTheTop) {
  const std::vector<Case> cases{
      {R"({})", {"'default'", "missing"}},
      {R"({"defaults": {"wq": "int4"}})", {"'defaults'", "not known", "'default'"}},
      {R"({"default": {}, "override": []})", {"'override'", "not known", "'overrides'"}},
      {R"({"default": {}, "gtpq": {}})", {"'gtpq'", "'gptq'"}},
      {R"({"default": {}, "something": 1})", {"'something'", "not known"}},
      {R"({"default": []})", {"default", "[]", "not an object"}},
      {R"({"default": "int4"})", {"default", "\"int4\"", "not an object"}},
      {R"({"default": null})", {"default", "not an object"}},
      {R"({"default": {}, "overrides": {}})", {"'overrides'", "not a list"}},
      {R"({"default": {}, "overrides": null})", {"'overrides'", "not a list"}},
      {R"({"default": {}, "overrides": [{"pattern": "a"}, 3]})", {"overrides[1]", "not an object"}},
      {R"({"default": {}, "gptq": 3})", {"gptq", "not an object"}},
      {R"({"default": {}, "default": {}})", {"'default'", "twice"}},
  };
  for (const Case& wrong : cases) expect_refused(wrong.text, wrong.words);
}

TEST(WrongRecipe, KeysAndValuesOfARule) {
  const std::vector<Case> cases{
      {R"("wQ": "int4")", {"'wQ'", "not known", "'wq'"}},
      {R"("groupsize": 32)", {"'groupsize'", "'group_size'"}},
      {R"("group-size": 32)", {"'group-size'", "'group_size'"}},
      {R"("sym": true)", {"'sym'", "not known"}},
      {R"("symetric": true)", {"'symetric'", "'symmetric'"}},
      {R"("scale_dtyp": "bf16")", {"'scale_dtyp'", "'scale_dtype'"}},
      {R"("wq": "int44")", {"'wq'", "'int44'", "'int4'"}},
      {R"("wq": "Int4")", {"'wq'", "'Int4'", "'int4'"}},
      {R"("wq": "int9")", {"'wq'", "'int9'", "did you mean 'int"}},
      {R"("wq": "bf15")", {"'wq'", "'bf15'", "'bf16'"}},
      {R"("wq": "something")", {"'wq'", "'something'", "not known"}},
      {R"("wq": 4)", {"'wq'", "4", "not a text"}},
      {R"("wq": null)", {"'wq'", "null", "not a text"}},
      {R"("wq": ["int4"])", {"'wq'", "not a text"}},
      {R"("group_size": 0)", {"'group_size'", "0", "\"tensor\""}},
      {R"("group_size": -2)", {"'group_size'", "-2"}},
      {R"("group_size": 32.0)", {"'group_size'", "32.0"}},
      {R"("group_size": "32")", {"'group_size'", "'32'", "not known"}},
      {R"("group_size": "chanel")", {"'group_size'", "'chanel'", "'channel'"}},
      {R"("group_size": 1048577)", {"'group_size'", "1048577"}},
      {R"("group_size": 18446744073709551615)", {"'group_size'", "18446744073709551615"}},
      {R"("group_size": true)", {"'group_size'", "true"}},
      {R"("group_size": null)", {"'group_size'", "null"}},
      {R"("symmetric": "yes")", {"'symmetric'", "\"yes\"", "true or false"}},
      {R"("symmetric": 1)", {"'symmetric'", "1", "true or false"}},
      {R"("skip": "false")", {"'skip'", "true or false"}},
      {R"("method": "gtpq")", {"'method'", "'gtpq'", "'gptq'"}},
      {R"("method": "awq")", {"'method'", "'awq'", "not known"}},
      {R"("method": "copy")", {"'method'", "'copy'", "not known"}},
      {R"("method": true)", {"'method'", "not a text"}},
      {R"("scale_dtype": "f16")", {"'scale_dtype'", "'f16'", "'fp16'"}},
      {R"("scale_dtype": 16)", {"'scale_dtype'", "not a text"}},
      {R"("wq": "int4", "wq": "int3")", {"'wq'", "twice"}},
  };
  for (const Case& wrong : cases) {
    Words words = wrong.words;
    const bool twice = words.back() == "twice";
    if (!twice) words.emplace_back("default");
    expect_refused("{\"default\": {" + wrong.text + "}}", words);
    words = wrong.words;
    if (!twice) words.emplace_back("overrides[1]");
    expect_refused("{\"default\": {}, \"overrides\": [{\"pattern\": \"*\"}, {\"pattern\": \"*\", " +
                       wrong.text + "}]}",
                   words);
  }
}

TEST(WrongRecipe, Patterns) {
  const std::vector<Case> cases{
      {R"({"default": {"pattern": "*"}})", {"default", "'pattern'", "not known"}},
      {R"({"default": {}, "overrides": [{"wq": "int4"}]})",
       {"overrides[0]", "'pattern'", "missing"}},
      {R"({"default": {}, "overrides": [{"patern": "*"}]})", {"'patern'", "'pattern'"}},
      {R"({"default": {}, "overrides": [{"pattern": ""}]})", {"overrides[0]", "'pattern'", "\"\""}},
      {R"({"default": {}, "overrides": [{"pattern": 3}]})", {"overrides[0]", "'pattern'", "3"}},
      {R"({"default": {}, "overrides": [{"pattern": ["*"]}]})", {"overrides[0]", "'pattern'"}},
  };
  for (const Case& wrong : cases) expect_refused(wrong.text, wrong.words);
}

TEST(WrongRecipe, Settings) {
  const std::vector<Case> cases{
      {R"("dampening": 0.01)", {"'dampening'", "not known", "'damping'"}},
      {R"("percdamp": 0.01)", {"'percdamp'", "not known"}},
      {R"("min_token": 3)", {"'min_token'", "'min_tokens'"}},
      {R"("damping": -0.01)", {"'damping'", "-0.01", "[0, 100]"}},
      {R"("damping": 101)", {"'damping'", "101"}},
      {R"("damping": "0.01")", {"'damping'", "\"0.01\""}},
      {R"("damping": null)", {"'damping'", "null"}},
      {R"("block": 0)", {"'block'", "0", "whole number"}},
      {R"("block": 128.0)", {"'block'", "128.0", "whole number"}},
      {R"("block": 2097152)", {"'block'", "2097152"}},
      {R"("routing_exponent": -1)", {"'routing_exponent'", "-1"}},
      {R"("routing_exponent": true)", {"'routing_exponent'", "true"}},
      {R"("min_tokens": -1)", {"'min_tokens'", "-1"}},
      {R"("min_tokens": 1.5)", {"'min_tokens'", "1.5"}},
      {R"("min_tokens": 18446744073709551615)", {"'min_tokens'", "18446744073709551615"}},
      {R"("starved": "all-tokens")", {"'starved'", "'all-tokens'", "'all_tokens'"}},
      {R"("starved": 0)", {"'starved'", "not a text"}},
  };
  for (const Case& wrong : cases) {
    Words words = wrong.words;
    words.emplace_back("gptq");
    expect_refused("{\"default\": {}, \"gptq\": {" + wrong.text + "}}", words);
  }
}

}  // namespace
}  // namespace aq
