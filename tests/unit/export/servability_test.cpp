#include "aq/export/servability.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "serving_model.h"

namespace aq {
namespace {

using test::assigned;
using test::served_model;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::vector<std::string> broken(std::string_view target, const Model& model,
                                const Assignments& assignments, const ServingPlan& plan = {}) {
  std::vector<std::string> matrices;
  for (const Objection& objection : judge(target, model, assignments, plan).objections)
    if (objection.gravity == Gravity::refused)
      matrices.insert(matrices.end(), objection.matrices.begin(), objection.matrices.end());
  return matrices;
}

TEST(Servability, OneWidthIsServedEverywhere) {
  const Model model = served_model();
  for (const std::string_view target : serving_targets()) {
    EXPECT_THAT(broken(target, model, assigned(model, "int4")), IsEmpty()) << target;
    EXPECT_NO_THROW(fit_for_servers({{}, {}, std::string(target)}, model, assigned(model, "int4")));
  }
  EXPECT_EQ(servers_line(model, assigned(model, "int4")),
            "vllm yes, vllm-gptq yes, transformers yes, sglang yes");
  EXPECT_EQ(servers_line(model, Assignments{{}, std::vector<Assignment>(30)}), "");
}

TEST(Servability, ExpertsOfALayerAreAlike) {
  const Model model = served_model();
  const Assignments one_expert = assigned(model, "int4", [](const LinearSpec& l, Assignment& a) {
    if (l.layer == 1 && l.expert == 2) a.scheme.bits = 8;
  });
  for (const std::string_view target : serving_targets())
    EXPECT_THAT(broken(target, model, one_expert),
                ElementsAre("model.layers.1.mlp.experts.2.gate_proj",
                            "model.layers.1.mlp.experts.2.up_proj",
                            "model.layers.1.mlp.experts.2.down_proj"))
        << target;
  const Assignments down = assigned(model, "int4", [](const LinearSpec& l, Assignment& a) {
    if (l.role == Role::down) a.scheme.bits = 8;
  });
  EXPECT_THAT(broken("vllm", model, down), Each(HasSubstr("down_proj")));
  const Assignments layer = assigned(model, "int4", [](const LinearSpec& l, Assignment& a) {
    if (l.layer == 1 && l.expert >= 0) a.scheme.bits = 8;
  });
  EXPECT_THAT(broken("vllm", model, layer), IsEmpty());
  EXPECT_EQ(broken("transformers", model, layer).size(), 12U) << "it takes one for the model";
}

TEST(Servability, FusedLinearsAreAlike) {
  const Model model = served_model();
  const auto skip_k = [](const LinearSpec& l, Assignment& a) {
    if (l.role == Role::k && l.layer == 0) a = {};
  };
  const Assignments assignments = assigned(model, "int4", skip_k);
  EXPECT_THAT(broken("vllm", model, assignments), ElementsAre("model.layers.0.self_attn.k_proj"));
  EXPECT_THAT(broken("transformers", model, assignments), IsEmpty());
  const auto skip_o = [](const LinearSpec& l, Assignment& a) {
    if (l.role == Role::o) a = {};
  };
  EXPECT_THAT(broken("vllm", model, assigned(model, "int4", skip_o)), IsEmpty());
}

TEST(Servability, RoutersAndTiedHeads) {
  Model model = served_model();
  const auto everything = [](const LinearSpec&, Assignment& a) {
    a = {Method::gptq, *scheme_from_format("int4")};
  };
  EXPECT_THAT(broken("transformers", model, assigned(model, "int4", everything)),
              ElementsAre("model.layers.0.mlp.gate", "model.layers.1.mlp.gate"));
  EXPECT_THAT(broken("vllm", model, assigned(model, "int4", everything)), Not(Contains("lm_head")));
  model.tied_head = true;
  EXPECT_THAT(broken("vllm", model, assigned(model, "int4", everything)), Contains("lm_head"));
}

TEST(Servability, FormatsThatHaveNoServer) {
  const Model model = served_model();
  for (const char* format : {"fp6", "mxfp6", "fp4"})
    for (const std::string_view target : serving_targets())
      EXPECT_FALSE(judge(target, model, assigned(model, format)).served()) << format << target;
  EXPECT_TRUE(judge("vllm", model, assigned(model, "mxfp4")).served());
  EXPECT_FALSE(judge("vllm-gptq", model, assigned(model, "mxfp4")).served());
  EXPECT_FALSE(judge("vllm-gptq", model, assigned(model, "int3")).served());
  EXPECT_TRUE(judge("sglang", model, assigned(model, "int3")).served()) << "one scheme";
  EXPECT_FALSE(judge("sglang", model,
                     assigned(model, "int3",
                              [](const LinearSpec& l, Assignment& a) {
                                if (l.role == Role::o) a.scheme.bits = 4;
                              }))
                   .served());
  EXPECT_FALSE(judge("sglang", model,
                     assigned(model, "int8",
                              [](const LinearSpec&, Assignment& a) { a.scheme.symmetric = false; }))
                   .served());
  EXPECT_FALSE(judge("transformers", model, assigned(model, "mxfp8")).served());
  const Verdict int3 = judge("vllm", model, assigned(model, "int3"));
  EXPECT_TRUE(int3.served());
  EXPECT_THAT(verdict_text(int3), HasSubstr("Humming"));
}

TEST(Servability, PartsOfMatricesAreWholeGroups) {
  const Model model = served_model();
  const Assignments assignments = assigned(model, "int4");  // groups of 128
  EXPECT_THAT(broken("vllm", model, assignments, {.tensor_parallel = 2}),
              Each(HasSubstr("down_proj")));
  EXPECT_THAT(broken("vllm", model, assignments, {.tensor_parallel = 2, .expert_parallel = true}),
              IsEmpty());
  EXPECT_EQ(broken("vllm", model, assignments, {.tensor_parallel = 4}).size(), 8U + 2U);
  const Assignments by_channel = assigned(
      model, "int4", [](const LinearSpec&, Assignment& a) { a.scheme.group_size = kPerChannel; });
  EXPECT_THAT(broken("vllm", model, by_channel, {.tensor_parallel = 4}), IsEmpty());
  EXPECT_EQ(broken("vllm", model, by_channel, {.tensor_parallel = 3}).size(), 8U + 2U);
  Model three_heads = model;
  for (LayerSpec& layer : three_heads.layers) layer.attention.heads = 3;
  EXPECT_THAT(broken("vllm", three_heads, by_channel, {.tensor_parallel = 2}),
              Each(HasSubstr("o_proj")));
  EXPECT_EQ(broken("vllm", three_heads, by_channel, {.tensor_parallel = 2}).size(), 2U);
}

TEST(Servability, GptOssInItsOwnForm) {
  const Model model = test::gpt_oss_model();
  const Assignments own = test::gpt_oss_assigned(model);
  EXPECT_EQ(servers_line(model, own),
            "vllm yes with --format gpt-oss, vllm-gptq no, transformers yes with --format gpt-oss, "
            "sglang yes with --format gpt-oss");
  EXPECT_EQ(judge("vllm", model, own).format, "gpt-oss");
  EXPECT_THAT(judge("sglang", model, own).objections, IsEmpty()) << "no note either";
  EXPECT_EQ(verdict_text(judge("vllm", model, own)), "yes with --format gpt-oss");
  EXPECT_EQ(broken("vllm-gptq", model, own).size(), 24U + 24U) << "and no mxfp4 there";
  // Experts of width 128 are cut between their four groups.
  for (const char* target : {"vllm", "sglang"})
    EXPECT_THAT(broken(target, model, own, {.tensor_parallel = 8}), IsEmpty());
  EXPECT_FALSE(judge("vllm", model, own, {.tensor_parallel = 3}).served());
  for (const char* target : {"vllm", "transformers", "sglang"}) {
    SCOPED_TRACE(target);
    const auto attention = [](const LinearSpec& l, Assignment& a) {
      if (l.role == Role::o) a = {Method::gptq, *scheme_from_format("int4")};
    };
    EXPECT_THAT(broken(target, model, test::gpt_oss_assigned(model, attention)),
                ElementsAre("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"));
    const Assignments one = test::gpt_oss_assigned(model, [](const LinearSpec& l, Assignment& a) {
      if (l.layer == 1 && l.expert == 3) a.scheme = *scheme_from_format("int8");
    });
    const Verdict verdict = judge(target, model, one);
    EXPECT_FALSE(verdict.served());
    EXPECT_EQ(verdict.format, "compressed-tensors");
    EXPECT_THAT(verdict_text(verdict), HasSubstr("model.layers.1.mlp.experts.3.gate_proj"));
    const auto untouched = [](const LinearSpec& l, Assignment& a) {
      if (l.expert >= 0) a = {};
      if (l.role == Role::o) a = {Method::gptq, *scheme_from_format("int8")};
    };
    EXPECT_TRUE(judge(target, model, test::gpt_oss_assigned(model, untouched)).served());
  }
}

TEST(Servability, GptOssWithATensorForEachExpert) {
  Model model = test::gpt_oss_model();
  model.fused.reset();
  const Assignments own = test::gpt_oss_assigned(model);
  for (const std::string_view target : serving_targets())
    EXPECT_THAT(broken(target, model, own), Contains("model.layers.0.mlp.experts.0.up_proj"));
}

TEST(Servability, ErrorsNameTheRule) {
  const Model model = served_model();
  const Assignments assignments = assigned(model, "int4", [](const LinearSpec& l, Assignment& a) {
    if (l.expert == 3) a.scheme.bits = 8;
  });
  try {
    fit_for_servers({{}, {}, "vllm"}, model, assignments);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_THAT(error.what(), HasSubstr("model.layers.0.mlp.experts.3.gate_proj and 5 more"));
    EXPECT_THAT(error.what(), HasSubstr("--snap vllm"));
  }
  EXPECT_THROW(judge("vlm", model, assignments), Error);
}

}  // namespace
}  // namespace aq
