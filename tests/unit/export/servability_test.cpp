#include "aq/export/servability.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "aq/core/error.h"

namespace aq {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

LinearSpec linear(const std::string& name, Role role, Index rows, Index columns, Index layer,
                  Index expert = -1) {
  LinearSpec spec;
  spec.name = name;
  spec.role = role;
  spec.rows = rows;
  spec.columns = columns;
  spec.layer = layer;
  spec.expert = expert;
  return spec;
}

/// Two layers of four experts of width 128, hidden width 256.
Model small_model() {
  Model model;
  model.architecture = "mixtral";
  model.hidden = 256;
  model.head = linear("lm_head", Role::head, 512, 256, -1);
  for (Index i = 0; i < 2; ++i) {
    const std::string at = str("model.layers.", i, ".");
    LayerSpec layer;
    layer.index = i;
    layer.heads = ProjectedHeads{linear(at + "self_attn.q_proj", Role::q, 256, 256, i),
                                 linear(at + "self_attn.k_proj", Role::k, 128, 256, i),
                                 linear(at + "self_attn.v_proj", Role::v, 128, 256, i),
                                 {},
                                 {}};
    layer.o = linear(at + "self_attn.o_proj", Role::o, 256, 256, i);
    layer.moe.emplace();
    layer.moe->router = linear(at + "mlp.gate", Role::router, 4, 256, i);
    for (Index e = 0; e < 4; ++e) {
      const std::string expert = str(at, "mlp.experts.", e, ".");
      MlpSpec mlp;
      mlp.kind = MlpKind::routed;
      mlp.gate = linear(expert + "gate_proj", Role::gate, 128, 256, i, e);
      mlp.up = linear(expert + "up_proj", Role::up, 128, 256, i, e);
      mlp.down = linear(expert + "down_proj", Role::down, 256, 128, i, e);
      layer.mlps.push_back(std::move(mlp));
    }
    model.layers.push_back(std::move(layer));
  }
  number_linears(model);
  return model;
}

/// Every linear of the layers but routers in `format`, then what `change` makes of each.
Assignments assigned(const Model& model, std::string_view format,
                     const std::function<void(const LinearSpec&, Assignment&)>& change = {}) {
  Assignments assignments;
  for (const LinearSpec* one : all_linears(model)) {
    Assignment assignment;
    if (one->role != Role::router && one->role != Role::head) {
      assignment.method = Method::gptq;
      assignment.scheme = *scheme_from_format(format);
    }
    if (change) change(*one, assignment);
    assignments.linears.push_back(assignment);
  }
  return assignments;
}

std::vector<std::string> broken(std::string_view target, const Model& model,
                                const Assignments& assignments, const ServingPlan& plan = {}) {
  std::vector<std::string> matrices;
  for (const Objection& objection : judge(target, model, assignments, plan).objections)
    if (!objection.warning)
      matrices.insert(matrices.end(), objection.matrices.begin(), objection.matrices.end());
  return matrices;
}

TEST(Servability, OneWidthIsServedEverywhere) {
  const Model model = small_model();
  for (const std::string_view target : serving_targets()) {
    EXPECT_THAT(broken(target, model, assigned(model, "int4")), IsEmpty()) << target;
    EXPECT_NO_THROW(require_servable(target, model, assigned(model, "int4")));
  }
  EXPECT_EQ(servers_line(model, assigned(model, "int4")),
            "vllm yes, vllm-gptq yes, transformers yes, sglang yes");
  EXPECT_EQ(servers_line(model, Assignments{{}, std::vector<Assignment>(30)}), "");
}

TEST(Servability, ExpertsOfALayerAreAlike) {
  const Model model = small_model();
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
  const Model model = small_model();
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
  Model model = small_model();
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
  const Model model = small_model();
  for (const char* format : {"fp6", "mxfp6", "fp4"})
    for (const std::string_view target : serving_targets())
      EXPECT_FALSE(judge(target, model, assigned(model, format)).served()) << format << target;
  EXPECT_TRUE(judge("vllm", model, assigned(model, "mxfp4")).served());
  EXPECT_FALSE(judge("vllm-gptq", model, assigned(model, "mxfp4")).served());
  EXPECT_FALSE(judge("vllm-gptq", model, assigned(model, "int3")).served());
  const Verdict int3 = judge("vllm", model, assigned(model, "int3"));
  EXPECT_TRUE(int3.served());
  EXPECT_THAT(verdict_text(int3), HasSubstr("Humming"));
}

TEST(Servability, PartsOfMatricesAreWholeGroups) {
  const Model model = small_model();
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
}

TEST(Servability, ErrorsNameTheRule) {
  const Model model = small_model();
  const Assignments assignments = assigned(model, "int4", [](const LinearSpec& l, Assignment& a) {
    if (l.expert == 3) a.scheme.bits = 8;
  });
  try {
    require_servable("vllm", model, assignments);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_THAT(error.what(), HasSubstr("model.layers.0.mlp.experts.3.gate_proj and 5 more"));
  }
  EXPECT_THROW(judge("vlm", model, assignments), Error);
}

}  // namespace
}  // namespace aq
