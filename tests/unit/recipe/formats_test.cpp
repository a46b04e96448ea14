// Which keys fit which formats, within one rule and from rule to rule.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/recipe/recipe.h"

namespace aq {
namespace {

const LinearSpec kUp{.name = "model.layers.0.mlp.experts.1.up_proj",
                     .rows = 64,
                     .columns = 256,
                     .role = Role::up,
                     .layer = 0,
                     .expert = 1};

std::string recipe(const std::string& base, const std::string& overrides = "") {
  return str("{\"default\": {", base, "},\n\"overrides\": [\n", overrides, "]}");
}

std::string said(const std::string& base, const std::string& overrides = "") {
  return to_string(resolve(parse_recipe(recipe(base, overrides), "r.json"), kUp));
}

/// An override of every linear with these keys.
std::string all(const std::string& keys) {
  return str("{\"pattern\": \"*\", ", keys, "}");
}

/// The text of the error when the recipe is read or applied.
std::string refused(const std::string& base, const std::string& overrides = "") {
  try {
    return "accepted: " + said(base, overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
}

TEST(Formats, TheirDefaults) {
  EXPECT_EQ(said(R"("wq": "int4")"), "gptq int4 g128, scales bf16");
  EXPECT_EQ(said(R"("wq": "fp4")"), "gptq fp4 g128, scales bf16");
  EXPECT_EQ(said(R"("wq": "fp8_e5m2")"), "gptq fp8_e5m2 g128, scales bf16");
  EXPECT_EQ(said(R"("wq": "mxfp4")"), "gptq mxfp4 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "mxfp8")"), "gptq mxfp8 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "nvfp4")"), "gptq nvfp4 g16, scales e4m3");
}

TEST(Formats, OfOtherElements) {
  EXPECT_EQ(said(R"("wq": "mxfp6", "extra": {"format": "e2m3"})"),
            "gptq mxfp6_e2m3 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "mxfp6", "extra": {"format": "e3m2"})"),
            "gptq mxfp6 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "fp8", "extra": {"format": "e5m2"})"), "gptq fp8_e5m2 g128, scales bf16");
  EXPECT_EQ(said(R"("wq": "nvfp4", "extra": {"format": "e2m1"})"), "gptq nvfp4 g16, scales e4m3");
  EXPECT_EQ(said(R"("wq": "mxfp6")", all(R"("extra": {"format": "e2m3"})")),
            "gptq mxfp6_e2m3 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "mxfp6", "extra": {"format": "e2m3"})", all(R"("wq": "mxfp4")")),
            "gptq mxfp4 g32, scales e8m0 (best)")
      << "the element belonged to the other format";
}

TEST(Formats, OfAnElementThatTheyCannotHave) {
  for (const char* base : {R"("wq": "int4", "extra": {"format": "e2m1"})",
                           R"("wq": "mxfp4", "extra": {"format": "e2m3"})",
                           R"("wq": "fp8", "extra": {"format": "e2m1"})",
                           R"("wq": "nvfp4", "extra": {"format": "e4m3"})"})
    EXPECT_THAT(refused(base), testing::AllOf(testing::HasSubstr("r.json:1: default: key 'extra'"),
                                              testing::HasSubstr("no element of")));
  EXPECT_THAT(refused(R"("wq": "int4")", all(R"("extra": {"format": "e4m3"})")),
              testing::AllOf(testing::HasSubstr("r.json:3: overrides[0]: key 'extra'"),
                             testing::HasSubstr("e4m3"), testing::HasSubstr("int4"),
                             testing::HasSubstr(kUp.name)));
}

TEST(Symmetry, OfIntegersAlone) {
  EXPECT_EQ(said(R"("wq": "int4", "symmetric": false)"), "gptq int4 g128 asymmetric, scales bf16");
  EXPECT_EQ(said(R"("wq": "mxfp4", "symmetric": true)"), "gptq mxfp4 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "int4", "symmetric": false)", all(R"("wq": "mxfp4")")),
            "gptq mxfp4 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "int4", "symmetric": false)",
                 all(R"("wq": "mxfp4")") + "," + all(R"("wq": "int3")")),
            "gptq int3 g128 asymmetric, scales bf16")
      << "it still holds for integers";
  EXPECT_THAT(refused(R"("wq": "fp8", "symmetric": false)"),
              testing::HasSubstr("r.json:1: default: key 'symmetric' is false, but fp8 has no"));
  EXPECT_THAT(refused(R"("wq": "int4")", all(R"("wq": "mxfp4", "symmetric": false)")),
              testing::HasSubstr("r.json:3: overrides[0]: key 'symmetric'"));
  EXPECT_THAT(refused(R"("wq": "mxfp4")", all(R"("symmetric": false)")),
              testing::HasSubstr("r.json:3: overrides[0]: key 'symmetric'"));
}

TEST(Groups, ThatAFormatCannotHave) {
  EXPECT_THAT(refused(R"("wq": "mxfp4", "group_size": 16)"),
              testing::HasSubstr("default: key 'group_size' does not fit: groups of mxfp4 are "
                                 "multiples of 32 columns"));
  EXPECT_THAT(refused(R"("wq": "mxfp4", "group_size": -1)"), testing::HasSubstr("multiples of 32"));
  EXPECT_THAT(refused(R"("wq": "mxfp8", "group_size": "tensor")"),
              testing::HasSubstr("multiples of 32"));
  EXPECT_THAT(refused(R"("wq": "nvfp4", "group_size": 32)"), testing::HasSubstr("16 columns"));
  EXPECT_THAT(
      refused(R"("wq": "nvfp4")", all(R"("method": "rtn")") + ",\n" + all(R"("group_size": 128)")),
      testing::HasSubstr("r.json:4: overrides[1]: key 'group_size'"));
  EXPECT_EQ(said(R"("wq": "mxfp4", "group_size": 64)"),
            "gptq mxfp4 g64 (not OCP), scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "int4", "group_size": 24)", all(R"("wq": "mxfp4")")),
            "gptq mxfp4 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "fp6", "group_size": "tensor")"), "gptq fp6 per-tensor, scales bf16");
}

TEST(Scales, OfATypeThatTheFormatHas) {
  EXPECT_EQ(said(R"("wq": "int4", "scale_dtype": "fp32")"), "gptq int4 g128, scales fp32");
  EXPECT_EQ(said(R"("wq": "fp8", "scale_dtype": "fp16")"), "gptq fp8 g128, scales fp16");
  EXPECT_EQ(said(R"("wq": "mxfp4", "scale_dtype": "e8m0")"), "gptq mxfp4 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "nvfp4", "scale_dtype": "e4m3")"), "gptq nvfp4 g16, scales e4m3");
  EXPECT_EQ(said(R"("wq": "int4", "scale_dtype": "fp16")", all(R"("wq": "nvfp4")")),
            "gptq nvfp4 g16, scales e4m3");
  EXPECT_EQ(said(R"("wq": "mxfp4", "scale_dtype": "e8m0")", all(R"("wq": "int4")")),
            "gptq int4 g128, scales bf16");
  EXPECT_THAT(refused(R"("wq": "int4", "scale_dtype": "e8m0")"),
              testing::HasSubstr("key 'scale_dtype' is e8m0, which int4 cannot have"));
  EXPECT_THAT(refused(R"("wq": "mxfp4", "scale_dtype": "fp16")"),
              testing::HasSubstr("key 'scale_dtype' is fp16, which mxfp4 cannot have"));
  EXPECT_THAT(refused(R"("wq": "mxfp4")", all(R"("scale_dtype": "e4m3")")),
              testing::HasSubstr("overrides[0]: key 'scale_dtype'"));
}

TEST(Scales, RuleOfMxAlone) {
  EXPECT_EQ(said(R"("wq": "mxfp4", "scale_rule": "ocp")"), "gptq mxfp4 g32, scales e8m0 (ocp)");
  EXPECT_EQ(said(R"("wq": "mxfp4")", all(R"("scale_rule": "ceil")")),
            "gptq mxfp4 g32, scales e8m0 (ceil)");
  EXPECT_EQ(said(R"("wq": "mxfp4", "scale_rule": "ocp")", all(R"("wq": "int4")")),
            "gptq int4 g128, scales bf16");
  EXPECT_EQ(said(R"("scale_rule": "ceil")", all(R"("wq": "mxfp6")")),
            "gptq mxfp6 g32, scales e8m0 (ceil)");
  EXPECT_THAT(refused(R"("wq": "nvfp4", "scale_rule": "ocp")"),
              testing::HasSubstr("default: key 'scale_rule' is only of MX formats"));
  EXPECT_THAT(refused(R"("wq": "int4")", all(R"("scale_rule": "best")")),
              testing::HasSubstr("overrides[0]: key 'scale_rule'"));
}

TEST(Inputs, Formats) {
  EXPECT_EQ(said(R"("wq": "int4", "aq": "bf16")"), "gptq int4 g128, scales bf16");
  EXPECT_EQ(said(R"("wq": "int4", "aq": "none")"), "gptq int4 g128, scales bf16");
  EXPECT_EQ(said(R"("wq": "int4", "aq": "int8", "aq_group_size": -1)"),
            "gptq int4 g128, scales bf16, inputs int8 per-channel");
  EXPECT_EQ(said(R"("wq": "int4", "aq": "int8", "aq_group_size": "token")"),
            "gptq int4 g128, scales bf16, inputs int8 per-channel");
  EXPECT_EQ(said(R"("wq": "int4", "aq": "mxfp8")"),
            "gptq int4 g128, scales bf16, inputs mxfp8 g32");
  EXPECT_EQ(said(R"("wq": "int4", "aq": "int8", "aq_group_size": 64)", all(R"("aq": "mxfp8")")),
            "gptq int4 g128, scales bf16, inputs mxfp8 g32");
  EXPECT_EQ(said(R"("wq": "int4", "aq": "int8")", all(R"("aq": "none")")),
            "gptq int4 g128, scales bf16");
  EXPECT_EQ(said(R"("wq": "bf16", "aq": "int8")"), "untouched");
  EXPECT_THAT(refused(R"("wq": "int4", "aq": "mxfp8", "aq_group_size": 16)"),
              testing::HasSubstr("default: key 'aq_group_size' does not fit"));
  EXPECT_THAT(refused(R"("wq": "int4", "aq": "nvfp4")", all(R"("aq_group_size": -1)")),
              testing::HasSubstr("overrides[0]: key 'aq_group_size' does not fit"));
  const Assignment assignment =
      resolve(parse_recipe(recipe(R"("wq": "mxfp4", "aq": "int8")"), "r.json"), kUp);
  ASSERT_TRUE(assignment.activation);
  EXPECT_EQ(assignment.activation->scale_type, ScaleType::f32);
}

/// A mistake in a rule that does not apply to a linear does not stand in its way.
TEST(Formats, RulesThatDoNotApply) {
  EXPECT_EQ(said(R"("wq": "mxfp4")", R"({"pattern": "*.q_proj", "group_size": 16})"),
            "gptq mxfp4 g32, scales e8m0 (best)");
  EXPECT_EQ(said(R"("wq": "mxfp4")", all(R"("group_size": 16, "skip": true)")), "untouched");
}

}  // namespace
}  // namespace aq
