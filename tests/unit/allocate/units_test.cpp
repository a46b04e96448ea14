#include "aq/allocate/units.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "aq/export/servability.h"
#include "support/small_models.h"
#include "unit/allocate/usage_error.h"

namespace aq {
namespace {

using test::published_moe;
using test::small_dense;
using test::small_mixtral;
using test::small_moe;
using test::usage_error;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Recipe everything() {
  return parse_recipe(R"({"default": {"wq": "int4", "group_size": 64}, "gptq": {"damping": 0.02}})",
                      "all.json");
}

std::vector<std::string> names_of(const std::vector<AllocationUnit>& units) {
  std::vector<std::string> names;
  for (const AllocationUnit& unit : units) names.push_back(unit.name);
  return names;
}

TEST(AllocationUnits, AreThePartsOfLayers) {
  const Model moe = small_moe(), dense = small_dense();
  EXPECT_THAT(
      names_of(allocation_units(moe, assign(everything(), moe), "")),
      ElementsAre("layer 0 attention", "layer 0 experts", "layer 1 attention", "layer 1 experts"));
  EXPECT_THAT(names_of(allocation_units(dense, assign(everything(), dense), "")),
              ElementsAre("layer 0 attention", "layer 0 MLP", "layer 1 attention", "layer 1 MLP",
                          "layer 2 attention", "layer 2 MLP"));
}

TEST(AllocationUnits, LeaveOutWhatTheRecipeLeaves) {
  const Model model = small_moe();
  const Recipe recipe = parse_recipe(
      R"({"default": {"wq": "int4"}, "overrides": [{"pattern": "*.layers.0.self_attn.*", "skip": true},
          {"pattern": "*.layers.1.*.q_proj", "skip": true}, {"pattern": "lm_head", "wq": "int8"},
          {"pattern": "*.layers.1.mlp.gate", "wq": "int8"}]})",
      "some.json");
  const auto units = allocation_units(model, assign(recipe, model), "");
  ASSERT_THAT(names_of(units), ElementsAre("layer 0 experts", "layer 1 attention", "layer 1 router",
                                           "layer 1 experts", "head"));
  EXPECT_EQ(units[0].linears.size(), 3U * 17);
  EXPECT_EQ(units[1].linears.size(), 3U);
  EXPECT_EQ(units[4].linears.size(), 1U);
}

TEST(AllocationUnits, AreOneWhereAServerWantsThemAlike) {
  const Model model = small_moe();
  EXPECT_THAT(names_of(allocation_units(model, assign(everything(), model), "transformers")),
              ElementsAre("layer 0 attention", "layers 0 to 1 experts", "layer 1 attention"));
  EXPECT_THAT(usage_error([&] { allocation_units(model, assign(everything(), model), "vlm"); }),
              HasSubstr("did you mean 'vllm'?"));
}

/// For every target and model: units hold each quantized linear once, no set that the target wants
/// alike is torn apart, and the rules of a unit change its linears and no other.
TEST(AllocationUnits, RulesReachTheirLinearsAlone) {
  std::vector<std::string_view> targets = serving_targets();
  targets.push_back("");
  for (const Model& model : {small_moe(), small_mixtral(), small_dense(), published_moe()})
    for (const std::string_view target : targets) {
      const Recipe recipe = everything();
      const Assignments base = assign(recipe, model);
      const auto units = allocation_units(model, base, target);
      std::map<const LinearSpec*, std::size_t> unit_of;
      for (std::size_t unit = 0; unit < units.size(); ++unit)
        for (const LinearSpec* linear : units[unit].linears)
          EXPECT_TRUE(unit_of.emplace(linear, unit).second) << linear->name;
      for (const LinearSpec* linear : all_linears(model))
        EXPECT_EQ(unit_of.contains(linear), base.of(*linear).method != Method::copy);
      if (!target.empty()) {
        for (const auto& alike : alike_linears(target, model))
          for (const LinearSpec* linear : alike)
            EXPECT_EQ(unit_of.at(linear), unit_of.at(alike.front())) << target << linear->name;
      }

      // Formats in turn; every linear gets that of its unit.
      const UnitFormat formats[] = {parse_unit_format("int2:32", "--formats"),
                                    parse_unit_format("mxfp4", "--formats"),
                                    parse_unit_format("bf16", "--formats")};
      const auto patterns = unit_patterns(units, model);
      std::vector<UnitRule> rules;
      for (std::size_t unit = 0; unit < units.size(); ++unit)
        for (const std::string& pattern : patterns[unit])
          rules.push_back({pattern, &formats[unit % 3], ""});
      const Assignments given =
          assign(parse_recipe(recipe_with(recipe, rules), "with.json"), model);
      EXPECT_EQ(given.settings, base.settings);
      const std::string texts[] = {"gptq int2 g32, scales bf16",
                                   "gptq mxfp4 g32, scales e8m0 (best)", "untouched"};
      for (const LinearSpec* linear : all_linears(model)) {
        const auto unit = unit_of.find(linear);
        EXPECT_EQ(to_string(given.of(*linear)),
                  unit == unit_of.end() ? "untouched" : texts[unit->second % 3])
            << linear->name;
      }
    }
}

TEST(AllocationUnits, OnePatternWhereThatIsPossible) {
  const Model model = small_moe();
  const auto patterns =
      unit_patterns(allocation_units(model, assign(everything(), model), ""), model);
  EXPECT_THAT(patterns[0], ElementsAre("model.layers.0.self_attn.*"));
  EXPECT_THAT(patterns[1], ElementsAre("model.layers.0.mlp.experts.*"));
}

TEST(UnitFormat, OfFormatsAndGroups) {
  EXPECT_EQ(parse_unit_format("int3", "--formats").group, 128);
  EXPECT_EQ(parse_unit_format("nvfp4", "--formats").group, 16);
  EXPECT_EQ(parse_unit_format("bf16", "--formats").group, std::nullopt);
  EXPECT_EQ(parse_unit_format("int3:96", "--formats").group, 96);
  EXPECT_EQ(parse_unit_format("int8:channel", "--formats").group, kPerChannel);
  EXPECT_EQ(parse_unit_format("fp8:tensor", "--formats").group, kPerTensor);
  const std::pair<const char*, const char*> mistakes[] = {
      {"in4", "did you mean 'int4'?"},     {"", "'' is no format"},
      {"int4:", "'' is no group"},         {"int4:3x", "'3x' is no group"},
      {"int4:-1", "'-1' is no group"},     {"int4:0", "'0' is no group"},
      {"mxfp4:48", "multiples of 32"},     {"nvfp4:32", "16"},
      {"bf16:32", "bf16 leaves a linear"}, {"int4:99999999999999999999", "is no group"}};
  for (const std::pair<const char*, const char*>& mistake : mistakes)
    EXPECT_THAT(usage_error([&] { parse_unit_format(mistake.first, "--formats"); }),
                testing::AllOf(HasSubstr("--formats"), HasSubstr(mistake.second)));
}

TEST(RecipeWith, KeepsWhatTheRecipeSays) {
  const UnitFormat format = parse_unit_format("fp8:tensor", "--formats");
  const std::string text = recipe_with(
      parse_recipe(
          R"({"default": {"wq": "int4"}, "notes": [1], "overrides": [{"pattern": "a.*", "skip": true}]})",
          "one.json"),
      {{"b.*", &format, "why"}}, "what it is");
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json,
            nlohmann::json::parse(
                R"({"default": {"wq": "int4"}, "notes": [1], "summary": "what it is", "overrides":
                          [{"pattern": "a.*", "skip": true}, {"pattern": "b.*", "wq": "fp8",
                            "group_size": "tensor", "comment": "why"}]})"));
  EXPECT_THAT(usage_error([] { recipe_with(parse_recipe(R"({"a": "int4"})", "flat.json"), {}); }),
              HasSubstr("flat.json"));
}

}  // namespace
}  // namespace aq
