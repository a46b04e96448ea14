#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/export/servability.h"
#include "serving_model.h"

namespace aq {
namespace {

using test::assigned;
using test::served_model;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// The scheme of every linear that is not as it was, by name.
std::map<std::string, std::string> changed(const Model& model, const Assignments& before,
                                           const Assignments& after) {
  std::map<std::string, std::string> texts;
  for (const LinearSpec* linear : all_linears(model))
    if (const Assignment& is = after.of(*linear); is != before.of(*linear))
      texts[linear->name] = is.method == Method::copy ? "untouched" : to_string(is.scheme);
  return texts;
}

/// What the recipe becomes by module, e.g. {"experts.2.down_proj": "int8 g128"}, of layer 0.
std::map<std::string, std::string> snapped(std::string_view target, const Model& model,
                                           const Assignments& before,
                                           const ServingPlan& plan = {}) {
  const Snapped result = snap(target, model, before, plan);
  EXPECT_TRUE(result.served);
  EXPECT_TRUE(judge(target, model, result.assignments, plan).served());
  std::map<std::string, std::string> texts;
  const std::string start = "model.layers.0.";
  for (const auto& [name, text] : changed(model, before, result.assignments))
    if (name.starts_with(start)) texts[name.substr(start.size())] = text;
  return texts;
}

TEST(Snap, WhatIsServedStaysAsItIs) {
  const Model model = served_model();
  const Assignments int4 = assigned(model, "int4");
  for (const std::string_view target : serving_targets()) {
    const Snapped result = snap(target, model, int4);
    EXPECT_THAT(changed(model, int4, result.assignments), IsEmpty()) << target;
    EXPECT_THAT(result.changes, IsEmpty());
    EXPECT_DOUBLE_EQ(result.bits_after, 4.125) << "a bf16 scale for 128 columns";
    EXPECT_DOUBLE_EQ(result.bits_before, 4.125);
  }
}

TEST(Snap, ExpertsTakeTheWidestSchemeOfTheirLayer) {
  const Model model = served_model();
  const Assignments mixed = assigned(model, "int4", [](const LinearSpec& l, Assignment& a) {
    if (l.expert == 2 && l.layer == 0 && l.role == Role::down) a.scheme.bits = 8;
  });
  const auto texts = snapped("vllm", model, mixed);
  EXPECT_EQ(texts.size(), 11U);
  EXPECT_EQ(texts.at("mlp.experts.0.gate_proj"), "int8 g128");
  EXPECT_FALSE(texts.contains("mlp.experts.2.down_proj"));
  const Snapped all = snap("transformers", model, mixed);
  EXPECT_EQ(changed(model, mixed, all.assignments).size(), 23U) << "one scheme for the model";
  // Of 12 experts' matrices of 128 x 256 in each layer, 11 change from 4.125 to 8.125 bits;
  // attention has 6 * 128 * 256 weights a layer.
  const double all_weights = 2 * (12 + 6), bits = 4.0 * 11;
  const Snapped vllm = snap("vllm", model, mixed);
  EXPECT_NEAR(vllm.bits_after - vllm.bits_before, bits / all_weights, 1e-12);
  ASSERT_EQ(vllm.changes.size(), 3U);
  EXPECT_EQ(vllm.changes[2].modules, "model.layers.*.mlp.experts.*.down_proj");
  EXPECT_EQ(vllm.changes[2].matrices, 3);
  EXPECT_THAT(vllm.changes[2].after, HasSubstr("int8 g128"));
}

TEST(Snap, CodesCountBeforeTheirScales) {
  const Model model = served_model();
  const Assignments mixed = assigned(model, "int4", [](const LinearSpec& l, Assignment& a) {
    if (l.role == Role::up) {
      a.scheme.bits = 3;  // 4.1875 bits a weight with scales and zeros, the others 4.125
      a.scheme.group_size = 16;
      a.scheme.symmetric = false;
    }
  });
  EXPECT_EQ(snapped("vllm", model, mixed).at("mlp.experts.0.up_proj"), "int4 g128");
}

TEST(Snap, UntouchedIsTheWidest) {
  const Model model = served_model();
  const Assignments mixed = assigned(model, "int4", [](const LinearSpec& l, Assignment& a) {
    if (l.role == Role::v) a = {};
  });
  EXPECT_EQ(snapped("vllm", model, mixed),
            (std::map<std::string, std::string>{{"self_attn.k_proj", "untouched"},
                                                {"self_attn.q_proj", "untouched"}}));
}

TEST(Snap, SchemesClimb) {
  const Model model = served_model();
  const auto becomes = [&](std::string_view target, std::string_view format,
                           const std::function<void(Assignment&)>& change = {}) {
    const auto texts =
        snapped(target, model, assigned(model, format, [&](const LinearSpec&, Assignment& a) {
                  if (change && a.method != Method::copy) change(a);
                }));
    return texts.empty() ? "" : texts.at("mlp.experts.0.up_proj");
  };
  EXPECT_EQ(becomes("vllm-gptq", "int3"), "int4 g128");
  EXPECT_EQ(becomes("vllm-gptq", "mxfp4"), "int4 g32");
  EXPECT_EQ(becomes("vllm-gptq", "fp8"), "int8 g128");
  EXPECT_EQ(becomes("sglang", "mxfp8"), "int8 g32");
  EXPECT_EQ(becomes("vllm", "fp4"), "int4 g128");
  EXPECT_EQ(becomes("vllm", "mxfp6"), "int6 g32");
  EXPECT_EQ(becomes("vllm", "int3"), "") << "served as it is";
  EXPECT_EQ(becomes("transformers", "int4", [](Assignment& a) { a.scheme.symmetric = false; }),
            "int4 g128");
  EXPECT_EQ(becomes("vllm", "int4", [](Assignment& a) { a.scheme.group_size = kPerTensor; }),
            "int4 g128");
  EXPECT_EQ(
      becomes("vllm", "int4", [](Assignment& a) { a.activation = scheme_from_format("int8"); }),
      "int4 g128")
      << "without rounded inputs";
}

TEST(Snap, GroupsFitIntoTheParts) {
  const Model model = served_model();  // experts of width 128
  const Assignments int4 = assigned(model, "int4");
  EXPECT_EQ(snapped("vllm", model, int4, {.tensor_parallel = 2}).at("mlp.experts.1.down_proj"),
            "int4 g64");
  EXPECT_EQ(snapped("vllm", model, int4, {.tensor_parallel = 4}).at("self_attn.o_proj"),
            "int4 g64");
  const Snapped thirds = snap("vllm", model, int4, {.tensor_parallel = 3});
  EXPECT_FALSE(thirds.served) << "128 columns are not three parts";
  EXPECT_THROW(fit_for_servers({{.tensor_parallel = 3}, "vllm", {}}, model, int4), Error);
}

TEST(Snap, RoutersAreLeftAlone) {
  const Model model = served_model();
  const Assignments everything = assigned(model, "int4", [](const LinearSpec&, Assignment& a) {
    a = {Method::rtn, *scheme_from_format("int4")};
  });
  EXPECT_EQ(snapped("vllm", model, everything),
            (std::map<std::string, std::string>{{"mlp.gate", "untouched"}}));
}

TEST(Snap, ExpertsOfGptOss) {
  const Model model = test::gpt_oss_model();
  const auto becomes = [&](const char* format) {
    return snapped("vllm", model, assigned(model, format));
  };
  const std::map<std::string, std::string> attention = becomes("mxfp4");
  EXPECT_EQ(attention.size(), 4U) << "the experts stay";
  EXPECT_EQ(attention.at("self_attn.o_proj"), "untouched");
  const std::map<std::string, std::string> experts = becomes("int4");
  EXPECT_EQ(experts.size(), 12U) << "the attention stays";
  EXPECT_EQ(experts.at("mlp.experts.3.down_proj"), "untouched");
  const Assignments wide = test::gpt_oss_assigned(model, [](const LinearSpec& l, Assignment& a) {
    if (l.expert == 1) a.scheme.group_size = 64;
  });
  const Snapped narrow = snap("transformers", model, wide);
  EXPECT_TRUE(narrow.served);
  for (const auto& [name, text] : changed(model, wide, narrow.assignments))
    EXPECT_EQ(text, "mxfp4 g32") << name;
}

TEST(Snap, MethodsStay) {
  const Model model = served_model();
  const Snapped result =
      snap("vllm-gptq", model, assigned(model, "int3", [](const LinearSpec& l, Assignment& a) {
             if (l.role == Role::up && l.expert == 1) a.method = Method::rtn;
           }));
  for (const LinearSpec* linear : all_linears(model)) {
    const Assignment& assignment = result.assignments.of(*linear);
    if (linear->role != Role::up) continue;
    EXPECT_EQ(assignment.method, linear->expert == 1 ? Method::rtn : Method::gptq);
  }
}

/// Every pair of formats, over experts and fused linears: what is snapped is served, and no code
/// has fewer bits than it had.
TEST(Snap, EveryPairOfFormatsIsServedAfterwards) {
  const Model model = served_model();
  for (const std::string_view one : format_names())
    for (const std::string_view two : format_names()) {
      const Assignments mixed = assigned(model, one, [&](const LinearSpec& l, Assignment& a) {
        if (a.method != Method::copy && (l.role == Role::v || l.expert == 1))
          a.scheme = *scheme_from_format(two);
      });
      for (const std::string_view target : serving_targets()) {
        SCOPED_TRACE(str(one, " ", two, " ", target));
        const Snapped result = snap(target, model, mixed);
        EXPECT_TRUE(result.served);
        EXPECT_TRUE(judge(target, model, result.assignments).served());
        for (const LinearSpec* linear : all_linears(model)) {
          const Assignment& was = mixed.of(*linear);
          const Assignment& is = result.assignments.of(*linear);
          if (is.method == Method::copy) continue;
          EXPECT_NE(was.method, Method::copy) << linear->name;
          EXPECT_GE(is.scheme.bits, was.scheme.bits) << linear->name;
        }
      }
    }
}

}  // namespace
}  // namespace aq
