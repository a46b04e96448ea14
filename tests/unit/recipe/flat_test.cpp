// Flat plans, and the annotations that recipes carry into them.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "aq/recipe/recipe.h"
#include "support/small_models.h"

namespace aq {
namespace {

using Json = nlohmann::json;

LinearSpec linear(std::string name, Role role = Role::down) {
  return {std::move(name), 64, 96, role, 0, -1};
}

std::string said(const Recipe& recipe, const std::string& name, Role role = Role::down) {
  return to_string(resolve(recipe, linear(name, role)));
}

constexpr const char* kFlat = R"({
  "comment": "of a search",
  "gptq": {"refine": 2, "notes": ["kept"]},
  "b.down_proj": {"wq": "int3", "group_size": 32, "symmetric": false, "alpha_hill": 2.5},
  "a.down_proj": "mxfp4",
  "b.up_proj": {"wq": "mxfp6", "extra": {"format": "e2m3"}, "method": "rtn", "aq": "mxfp8"},
  "b.gate": {"wq": "int8", "group_size": -1},
  "b.[k]_proj": "int4",
  "b.q_proj": "bf16",
  "b.o_proj": {"skip": true, "dtype": "bf16"}
})";

TEST(FlatPlan, EveryNameIsExact) {
  const Recipe plan = parse_recipe(kFlat, "plan.json");
  EXPECT_TRUE(plan.flat);
  EXPECT_EQ(said(plan, "a.down_proj"), "gptq mxfp4 g32, scales e8m0 (best)");
  EXPECT_EQ(said(plan, "b.down_proj"), "gptq int3 g32 asymmetric, scales bf16");
  EXPECT_EQ(said(plan, "b.up_proj"), "rtn mxfp6_e2m3 g32, scales e8m0 (best), inputs mxfp8 g32");
  EXPECT_EQ(said(plan, "b.gate", Role::router), "gptq int8 per-channel, scales bf16");
  EXPECT_EQ(said(plan, "b.q_proj"), "untouched");
  EXPECT_EQ(said(plan, "b.o_proj"), "untouched");
  for (const char* name : {"b.k_proj", "a", "c", "a.down_proj.x", "a.down_pro", "", "b.w"})
    EXPECT_EQ(said(plan, name), "untouched") << name;
  EXPECT_EQ(plan.settings.gptq.refine, 2);
  EXPECT_EQ(plan.annotations, (Annotations{{"comment", "\"of a search\""}}));
}

TEST(FlatPlan, NamesThatAreNoLinearAreCountedInOneRemark) {
  const Recipe plan = parse_recipe(R"({"lm_head": "int8",
      "model.layers.0.self_attn.qproj": "int4",
      "model.layers.9.mlp.gate": "int4"})",
                                   "plan.json");
  const std::vector<std::string> remarks = unmatched_patterns(plan, test::small_moe());
  ASSERT_EQ(remarks.size(), 1u);
  EXPECT_EQ(remarks[0],
            "2 of 3 names are no linear of the model, first 'model.layers.0.self_attn.qproj'; did "
            "you mean 'model.layers.0.self_attn.q_proj'?");
  EXPECT_TRUE(
      unmatched_patterns(parse_recipe(R"({"lm_head": "int8"})", "plan.json"), test::small_moe())
          .empty());
}

/// `recipe` as a flat plan, read back.
void expect_same_when_flat(const Recipe& recipe, const Model& model) {
  const Recipe flat = parse_recipe(flat_plan(recipe, assign(recipe, model), model), "flat.json");
  EXPECT_TRUE(flat.flat);
  EXPECT_EQ(flat.settings, recipe.settings);
  EXPECT_EQ(flat.annotations, recipe.annotations);
  EXPECT_EQ(flat.settings_annotations, recipe.settings_annotations);
  EXPECT_TRUE(unmatched_patterns(flat, model).empty());
  for (const LinearSpec* each : all_linears(model))
    ASSERT_EQ(resolve(flat, *each), resolve(recipe, *each)) << each->name;
  EXPECT_EQ(flat_plan(flat, assign(flat, model), model),
            flat_plan(recipe, assign(recipe, model), model))
      << "written again it is the same";
}

constexpr const char* kFull = R"({
  "summary": {"who": "nobody \"at\" all", "list": [1, 2.5, null]},
  "default": {"wq": "int4", "group_size": "tensor", "aq": "int8", "aq_group_size": -1, "category": "rest"},
  "overrides": [
    {"pattern": "*.experts.*", "wq": "mxfp6", "extra": {"format": "e2m3"}, "scale_rule": "ceil",
     "alpha_hill": 3.25, "category": ["expert", {"deep": true}]},
    {"pattern": "*.experts.1.*", "alpha_hill": -1, "wq": "nvfp4", "aq": "nvfp4"},
    {"pattern": "*.experts.2.*", "wq": "fp8_e5m2", "scale_dtype": "fp32", "method": "rtn", "aq": "none"},
    {"pattern": "*.mlp.gate", "wq": "int8", "group_size": -1, "symmetric": false, "dtype": "x"},
    {"pattern": "*.o_proj", "skip": true, "notes": "kept"}],
  "gptq": {"damping": 0.3, "act_order": "static", "comment": "settings"}})";

TEST(FlatPlan, ReadBackItIsTheSameRecipe) {
  for (const Model& model : {test::small_moe(), test::small_mixtral(), test::small_dense()}) {
    SCOPED_TRACE(model.architecture);
    expect_same_when_flat(parse_recipe(kFull, "r.json"), model);
  }
}

TEST(FlatPlan, HoldsEveryLinearAndTheAnnotationsOfItsRules) {
  const Model model = test::small_moe();
  const Recipe recipe = parse_recipe(kFull, "r.json");
  const Json plan = Json::parse(flat_plan(recipe, assign(recipe, model), model));
  EXPECT_EQ(plan.size(), all_linears(model).size() + 2);  // and "summary", "gptq"
  EXPECT_EQ(plan["summary"],
            Json::parse(R"({"who": "nobody \"at\" all", "list": [1, 2.5, null]})"));
  EXPECT_EQ(plan["gptq"]["comment"], "settings");
  EXPECT_EQ(plan["gptq"]["damping"], 0.3);
  EXPECT_EQ(plan["lm_head"], Json::parse(R"({"wq": "bf16", "category": "rest"})"));
  EXPECT_EQ(plan["model.layers.1.self_attn.o_proj"],
            Json::parse(R"({"wq": "bf16", "category": "rest", "notes": "kept"})"));
  EXPECT_EQ(plan["model.layers.1.mlp.experts.1.up_proj"], Json::parse(R"({"wq": "nvfp4",
      "group_size": 16, "method": "gptq", "scale_dtype": "e4m3", "aq": "nvfp4",
      "aq_group_size": 16, "alpha_hill": -1, "category": ["expert", {"deep": true}]})"));
  EXPECT_EQ(plan["model.layers.0.mlp.experts.3.up_proj"], Json::parse(R"({"wq": "mxfp6_e2m3",
      "group_size": 32, "method": "gptq", "scale_dtype": "e8m0", "scale_rule": "ceil",
      "aq": "int8", "aq_group_size": -1, "alpha_hill": 3.25,
      "category": ["expert", {"deep": true}]})"));
  EXPECT_EQ(plan["model.layers.0.self_attn.q_proj"], Json::parse(R"({"wq": "int4",
      "group_size": "tensor", "method": "gptq", "scale_dtype": "bf16", "symmetric": true,
      "aq": "int8", "aq_group_size": -1, "category": "rest"})"));
}

TEST(FlatPlan, UntouchedLinearsAreOneWord) {
  const Recipe recipe = parse_recipe(R"({"default": {"wq": "int4"}})", "r.json");
  const Model model = test::small_dense();
  const Json plan = Json::parse(flat_plan(recipe, assign(recipe, model), model));
  EXPECT_EQ(plan["lm_head"], "bf16");
  EXPECT_EQ(plan["model.layers.0.mlp.up_proj"]["wq"], "int4");
}

TEST(Annotations, AreCarriedAndNotObeyed) {
  const Recipe recipe = parse_recipe(R"({"description": "x", "notes": [1, {"a": 2}],
      "default": {"wq": "int4", "comment": 3},
      "overrides": [{"pattern": "*", "category": "experts", "alpha_hill": 3.5, "dtype": "fp8",
                     "wq": "int3"}],
      "gptq": {"comment": null}})",
                                     "r.json");
  EXPECT_EQ(said(recipe, "any"), "gptq int3 g128, scales bf16");
  EXPECT_EQ(recipe.annotations,
            (Annotations{{"description", "\"x\""}, {"notes", "[1,{\"a\":2}]"}}));
  EXPECT_EQ(recipe.rules[0].annotations, (Annotations{{"comment", "3"}}));
  EXPECT_EQ(
      recipe.rules[1].annotations,
      (Annotations{{"alpha_hill", "3.5"}, {"category", "\"experts\""}, {"dtype", "\"fp8\""}}));
  EXPECT_EQ(recipe.settings_annotations, (Annotations{{"comment", "null"}}));
}

}  // namespace
}  // namespace aq
