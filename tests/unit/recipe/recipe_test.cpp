#include "aq/recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "aq/core/error.h"
#include "support/small_models.h"

namespace aq {
namespace {

LinearSpec linear(std::string name, Role role = Role::down) {
  return {std::move(name), 64, 96, role, 0, -1};
}
const LinearSpec kDown = linear("model.layers.3.mlp.experts.12.down_proj");
const LinearSpec kQ = linear("model.layers.3.self_attn.q_proj", Role::q);
const LinearSpec kRouter = linear("model.layers.3.mlp.gate", Role::router);
const LinearSpec kHead = linear("lm_head", Role::head);

/// "copy", or method and scheme: "gptq int4 g32 bf16".
std::string said(const std::string& recipe, const LinearSpec& spec) {
  const Assignment assignment = resolve(parse_recipe(recipe, "recipe.json"), spec);
  if (assignment.method == Method::copy) return "copy";
  return str(method_name(assignment.method), " ", to_string(assignment.scheme), " ",
             scale_type_name(assignment.scheme.scale_type));
}

/// A recipe with this "default" and these "overrides".
std::string recipe(const std::string& base, const std::string& overrides = "") {
  return str("{\"default\": {", base, "}, \"overrides\": [", overrides, "]}");
}

TEST(Resolve, TheDefault) {
  EXPECT_EQ(said(recipe(R"("wq": "int4")"), kDown), "gptq int4 g128 bf16");
  EXPECT_EQ(said(recipe(R"("wq": "int3", "group_size": 32)"), kDown), "gptq int3 g32 bf16");
  EXPECT_EQ(said(recipe(R"("group_size": 32, "wq": "int3")"), kDown), "gptq int3 g32 bf16")
      << "the order of keys in one rule means nothing";
  EXPECT_EQ(said(recipe(R"("wq": "int8", "symmetric": false)"), kDown),
            "gptq int8 g128 asymmetric bf16");
  EXPECT_EQ(said(recipe(R"("wq": "int2", "scale_dtype": "fp16")"), kDown), "gptq int2 g128 fp16");
  EXPECT_EQ(said(recipe(R"("wq": "int4", "method": "rtn")"), kDown), "rtn int4 g128 bf16");
  EXPECT_EQ(said(recipe(R"("wq": "bf16")"), kDown), "copy");
  EXPECT_EQ(said(recipe(R"("group_size": 32)"), kDown), "copy") << "no format named";
  EXPECT_EQ(said(recipe(""), kDown), "copy");
  EXPECT_EQ(said(R"({"default": {"wq": "int4"}})", kDown), "gptq int4 g128 bf16");
}

TEST(Resolve, EveryFormat) {
  for (const std::string_view name : format_names()) {
    const std::string text = recipe(str("\"wq\": \"", name, "\""));
    EXPECT_THAT(said(text, kDown), testing::StartsWith(str("gptq ", name, " ")));
  }
}

TEST(Resolve, GroupSizes) {
  EXPECT_EQ(said(recipe(R"("wq": "int4", "group_size": -1)"), kDown), "gptq int4 per-channel bf16");
  EXPECT_EQ(said(recipe(R"("wq": "int4", "group_size": "channel")"), kDown),
            "gptq int4 per-channel bf16");
  EXPECT_EQ(said(recipe(R"("wq": "int4", "group_size": "tensor")"), kDown),
            "gptq int4 per-tensor bf16");
  EXPECT_EQ(said(recipe(R"("wq": "int4", "group_size": 1)"), kDown), "gptq int4 g1 bf16");
  EXPECT_EQ(said(recipe(R"("wq": "int4", "group_size": 1048576)"), kDown),
            "gptq int4 g1048576 bf16");
}

TEST(Resolve, RulesAreMergedKeyByKeyAndLaterWins) {
  const std::string text = recipe(R"("wq": "int4", "group_size": 32, "method": "gptq")",
                                  R"({"pattern": "*experts*", "symmetric": false},
                                     {"pattern": "*down_proj", "group_size": 64},
                                     {"pattern": "*.12.*", "method": "rtn", "scale_dtype": "fp32"},
                                     {"pattern": "*experts.12*", "group_size": 16})");
  EXPECT_EQ(said(text, kDown), "rtn int4 g16 asymmetric fp32");
  EXPECT_EQ(said(text, linear("model.layers.3.mlp.experts.2.down_proj")),
            "gptq int4 g64 asymmetric bf16");
  EXPECT_EQ(said(text, linear("model.layers.3.mlp.experts.2.up_proj")),
            "gptq int4 g32 asymmetric bf16");
  EXPECT_EQ(said(text, kQ), "gptq int4 g32 bf16");
}

TEST(Resolve, FileOrderDecides) {
  const std::string wide = R"({"pattern": "*", "wq": "int3"})";
  const std::string narrow = R"({"pattern": "*down_proj", "wq": "int8"})";
  EXPECT_EQ(said(recipe(R"("wq": "int4")", wide + "," + narrow), kDown), "gptq int8 g128 bf16");
  EXPECT_EQ(said(recipe(R"("wq": "int4")", narrow + "," + wide), kDown), "gptq int3 g128 bf16");
}

TEST(Resolve, SkipSticksUntilItIsLifted) {
  const std::string skip = R"({"pattern": "*experts*", "skip": true})";
  const std::string format = R"({"pattern": "*down_proj", "wq": "int8", "method": "rtn"})";
  const std::string lift = R"({"pattern": "*.12.*", "skip": false})";
  const std::string base = R"("wq": "int4", "group_size": 32)";
  EXPECT_EQ(said(recipe(base, skip), kDown), "copy");
  EXPECT_EQ(said(recipe(base, skip + "," + format), kDown), "copy");
  EXPECT_EQ(said(recipe(base, skip + "," + format + "," + lift), kDown), "rtn int8 g128 bf16");
  EXPECT_EQ(said(recipe(base, lift + "," + skip), kDown), "copy");
  EXPECT_EQ(said(recipe(base, skip + "," + lift + "," + skip), kDown), "copy");
  EXPECT_EQ(said(recipe(base, skip), kQ), "gptq int4 g32 bf16");
  EXPECT_EQ(said(recipe(base + R"(, "skip": true)"), kQ), "copy");
  EXPECT_EQ(said(recipe(base + R"(, "skip": true)", lift), kDown), "gptq int4 g32 bf16");
}

TEST(Resolve, ANewFormatTakesItsDefaultGroup) {
  const std::string base = R"("wq": "int4", "group_size": 32)";
  EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "wq": "int3"})"), kDown), "gptq int3 g128 bf16");
  EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "wq": "int3", "group_size": 64})"), kDown),
            "gptq int3 g64 bf16");
  EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "group_size": 64, "wq": "int3"})"), kDown),
            "gptq int3 g64 bf16");
  EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "wq": "int4"})"), kDown), "gptq int4 g32 bf16")
      << "the same format again changes nothing";
  EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "group_size": 16}, {"pattern": "*", "wq": "int3"},
                                 {"pattern": "*", "wq": "int4"})"),
                 kDown),
            "gptq int4 g128 bf16");
}

TEST(Resolve, Bf16TakesTheFormatAway) {
  const std::string base = R"("wq": "int4")";
  const std::string none = R"({"pattern": "*experts*", "wq": "bf16"})";
  EXPECT_EQ(said(recipe(base, none), kDown), "copy");
  EXPECT_EQ(said(recipe(base, none), kQ), "gptq int4 g128 bf16");
  EXPECT_EQ(said(recipe(base, none + R"(, {"pattern": "*", "group_size": 32})"), kDown), "copy");
  EXPECT_EQ(said(recipe(base, none + R"(, {"pattern": "*", "wq": "int8"})"), kDown),
            "gptq int8 g128 bf16");
  EXPECT_EQ(said(recipe(R"("wq": "bf16")", R"({"pattern": "*12*", "wq": "int2"})"), kDown),
            "gptq int2 g128 bf16");
}

TEST(Resolve, RoutersAndTheHeadStayUnlessAnOverrideNamesAFormat) {
  const std::string base = R"("wq": "int4", "group_size": 32)";
  for (const LinearSpec& kept : {kRouter, kHead}) {
    EXPECT_EQ(said(recipe(base), kept), "copy");
    EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "group_size": 16, "method": "rtn"})"), kept),
              "copy");
    EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "skip": false})"), kept), "copy");
    EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "wq": "bf16"})"), kept), "copy");
    EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "wq": "int8"})"), kept), "gptq int8 g128 bf16");
    EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "wq": "int4"})"), kept), "gptq int4 g32 bf16");
    EXPECT_EQ(said(recipe(base, R"({"pattern": "*", "wq": "int8", "skip": true})"), kept), "copy");
  }
  const std::string named = recipe(base, R"({"pattern": "*.mlp.gate", "wq": "int8"})");
  EXPECT_EQ(said(named, kRouter), "gptq int8 g128 bf16");
  EXPECT_EQ(said(named, kHead), "copy");
  EXPECT_EQ(said(named, kDown), "gptq int4 g32 bf16");
}

/// Every linear has what the recipe says of it, whether it is looked up in the model or in a copy.
TEST(Assign, ResolvesEveryLinearOnce) {
  const Recipe parsed =
      parse_recipe(recipe(R"("wq": "int4")", R"({"pattern": "*experts.3.*", "wq": "int8"},
                                   {"pattern": "*.o_proj", "skip": true})"),
                   "recipe.json");
  const Model model = test::small_moe();
  const Assignments assignments = assign(parsed, model);
  EXPECT_EQ(assignments.settings, parsed.settings);
  ASSERT_EQ(assignments.linears.size(), all_linears(model).size());
  for (const LinearSpec* each : all_linears(model)) {
    const LinearSpec copy = *each;
    EXPECT_EQ(assignments.of(copy), resolve(parsed, *each)) << each->name;
  }
  EXPECT_THROW(assignments.of(kDown), Error) << "a linear of no model";
}

TEST(UnmatchedPatterns, AreListedInFileOrder) {
  const Recipe parsed =
      parse_recipe(recipe(R"("wq": "int4")", R"({"pattern": "*shared*", "wq": "int8"},
                {"pattern": "*.experts.16.*", "wq": "int8"},
                {"pattern": "model.layers.2.*"},
                {"pattern": "lm_head", "wq": "int8"}, {"pattern": "*.experts.17.*"})"),
                   "r.json");
  std::vector<std::string> places, texts;
  for (const RecipeRemark& remark : unmatched_patterns(parsed, test::small_moe())) {
    places.push_back(remark.place);
    texts.push_back(remark.text);
  }
  EXPECT_THAT(places, testing::ElementsAre("r.json:1", "r.json:3", "r.json:4"));
  EXPECT_THAT(
      texts, testing::ElementsAre("overrides[0]: pattern '*shared*' matches no linear of the model",
                                  "overrides[2]: pattern 'model.layers.2.*' matches no linear of "
                                  "the model",
                                  "overrides[4]: pattern '*.experts.17.*' matches no linear of "
                                  "the model"));
}

TEST(UnmatchedPatterns, RegularExpressionsGetAHint) {
  const auto remark = [](const std::string& pattern) {
    const nlohmann::json rule{{"pattern", pattern}, {"wq", "int8"}};
    const Recipe parsed = parse_recipe(recipe(R"("wq": "int4")", rule.dump()), "r.json");
    const std::vector<RecipeRemark> remarks = unmatched_patterns(parsed, test::small_moe());
    return remarks.size() == 1 ? remarks[0].text : std::string("none");
  };
  // What is meant, where fnmatch can say it: the right side is tried on the model.
  const std::pair<const char*, const char*> meant[] = {
      {R"(re:.*down_proj)", "*down_proj"},
      {R"(+:.*\.down_proj)", "*.down_proj"},
      {R"(-:^model\.layers\.0\..*$)", "model.layers.0.*"},
      {R"(.*\.down_proj$)", "*.down_proj"},
      {R"(model.layers.\d+.self_attn.*)", "model.layers.*.self_attn*"},
      {R"(layers\.[0-9]+\.self_attn)", "*layers.*.self_attn*"},
      {R"(self_attn.*q_proj)", "*self_attn*q_proj"},
      {R"(^lm_head)", "lm_head"},
      {R"(lm_head$)", "lm_head"},
      {R"(.+q_proj)", "*q_proj"}};
  for (const auto& [pattern, better] : meant) {
    const std::string text = remark(pattern);
    EXPECT_THAT(text, testing::HasSubstr("not regular expressions")) << pattern;
    EXPECT_THAT(text, testing::EndsWith(str("did you mean '", better, "'?"))) << pattern;
    EXPECT_EQ(remark(better), "none") << pattern;
  }
  for (const char* pattern : {"(.*gate_proj|.*up_proj)", "re:nowhere", "^nowhere", "nowhere$",
                              ".*nowhere", "layers.*nowhere", R"(nowhere\.)", "(?:nowhere)"}) {
    EXPECT_THAT(remark(pattern), testing::EndsWith("dots included")) << pattern;
  }
  for (const char* pattern :
       {"nowhere", "*.nowhere", "nowhere.*", "*.layers.7.*", "*.layers.*.nowhere"})
    EXPECT_THAT(remark(pattern), testing::EndsWith("of the model")) << pattern;
}

}  // namespace
}  // namespace aq
