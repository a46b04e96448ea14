/// Architectures that are not in the table: written by the user, or inferred from the tensors.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/model/architecture_json.h"
#include "aq/model/storage.h"
#include "configs.h"

namespace aq {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST(ArchitectureJson, EveryRowIsReadBackAsTheSame) {
  for (const Architecture& row : architectures()) {
    const std::string text = architecture_to_json(row);
    EXPECT_EQ(architecture_to_json(architecture_from_json(text, "row.json")), text) << row.name;
  }
}

/// Every field that a file can hold: another value in it changes what is written.
TEST(ArchitectureJson, EveryFieldIsRead) {
  const std::string before = architecture_to_json(*find_architecture("deepseek_v3"));
  const json fields = json::parse(before);
  Index count = 0;
  for (const auto& [section, values] : fields.items()) {
    if (!values.is_object()) continue;
    for (const auto& [key, value] : values.items()) {
      json changed = fields;
      json& field = changed[section][key];
      if (value.is_boolean())
        field = !value.get<bool>();
      else if (value.is_number())
        field = value.get<double>() == 2 ? 3 : 2;
      else if (value.is_string() && (key == "qk_norm" || key == "score" || key == "group_score" ||
                                     key == "windowed_layers"))
        field = key == "qk_norm"           ? "head"
                : key == "score"           ? "softmax"
                : key == "windowed_layers" ? "even"
                                           : "largest";
      else
        field = "something_else{i}{e}";
      const std::string after = architecture_to_json(architecture_from_json(changed.dump(), "f"));
      EXPECT_NE(after, before) << section << "." << key;
      ++count;
    }
  }
  EXPECT_GT(count, 70);
}

TEST(ArchitectureJson, StartsFromAnotherRow) {
  const Architecture row = architecture_from_json(
      R"({"name": "nimbus", "like": "mixtral",
          "tensors": {"layer": "h.{i}.", "q": "attn.wq"},
          "config": {"experts": 6, "hidden": "n_embd", "layers": ["n_layer", "depth"],
                     "norm_eps": {"keys": ["eps"], "otherwise": 0.5}},
          "experts": {"score": "sigmoid", "renormalize": "norm"}})",
      "row.json");
  EXPECT_EQ(row.name, "nimbus");
  EXPECT_EQ(row.family, "mixtral");
  EXPECT_EQ(row.tensors.layer, "h.{i}.");
  EXPECT_EQ(row.tensors.q, "attn.wq");
  EXPECT_EQ(row.tensors.expert_up, "block_sparse_moe.experts.{e}.w3");
  EXPECT_EQ(row.keys.experts.otherwise, 6);
  EXPECT_TRUE(row.keys.experts.keys.empty());
  EXPECT_EQ(row.keys.layers.keys, (Keys{"n_layer", "depth"}));
  EXPECT_EQ(row.keys.norm_eps.otherwise, 0.5);
  EXPECT_EQ(row.score, RouterScore::sigmoid);
  EXPECT_EQ(row.renormalize.key, "norm");
  EXPECT_TRUE(has_experts(row));
}

TEST(ArchitectureJson, MistakesAreNamed) {
  struct Case {
    std::string text;
    std::vector<std::string> parts;
  };
  const std::vector<Case> cases{
      {"", {"valid JSON"}},
      {"[]", {"JSON object"}},
      {"{}", {"'name'", "missing"}},
      {R"({"name": ""})", {"'name'", "empty"}},
      {R"({"name": 3})", {"'name'", "not a text"}},
      {R"({"name": "a", "like": "mixtrall"})", {"'like'", "mixtrall", "mixtral"}},
      {R"({"name": "a", "like": 7})", {"'like'", "7"}},
      {R"({"name": "a", "tensor": {}})", {"'tensor'", "not known", "tensors"}},
      {R"({"name": "a", "tensors": {"qq": "x"}})", {"'tensors.qq'", "not known"}},
      {R"({"name": "a", "tensors": []})", {"'tensors'", "not an object"}},
      {R"({"name": "a", "tensors": {"q": 1}})", {"'tensors.q'", "not a text"}},
      {R"({"name": "a", "tensors": {"layer": "h."}})", {"'tensors.layer'", "without {i}"}},
      {R"({"name": "a", "like": "olmoe", "tensors": {"expert_up": "e.up"}})",
       {"'tensors.expert_up'", "without {e}"}},
      {R"({"name": "a", "tensors": {"k": "x", "v": "x"}})", {"'tensors.v'", "'tensors.k'"}},
      {R"({"name": "a", "tensors": {"q": ")" + std::string(1000, 'x') + "\"}}",
       {"'tensors.q'", "longer than 256"}},
      {R"({"name": )" + std::string(70, '[') + std::string(70, ']') + "}", {"64 levels"}},
      {R"({"name": "a", "config": {"hidden": -1}})", {"'config.hidden'", "whole number"}},
      {R"({"name": "a", "config": {"hidden": 1.5}})", {"'config.hidden'", "whole number"}},
      {R"({"name": "a", "config": {"hidden": [1]}})", {"'config.hidden'", "list of texts"}},
      {R"({"name": "a", "config": {"hidden": {"key": "x"}}})", {"'config.hidden.key'", "keys"}},
      {R"({"name": "a", "config": {"norm_eps": -1}})", {"'config.norm_eps'", "at least zero"}},
      {R"({"name": "a", "experts": {"score": "max"}})", {"'experts.score'", "max", "sigmoid"}},
      {R"({"name": "a", "experts": {"fused": "yes"}})", {"'experts.fused'", "true or false"}},
      {R"({"name": "a", "experts": {"renormalize": 1}})", {"'experts.renormalize'"}},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.text);
    try {
      architecture_from_json(bad.text, "own.json");
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), HasSubstr("own.json"));
      for (const std::string& part : bad.parts) EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }
}

/// Names and shapes of the model's tensors, as a checkpoint would hold them.
TensorShapes tensors_of(const json& config) {
  TensorShapes tensors;
  for (const ExpectedTensor& tensor : expected_tensors(describe_model(config.dump(), "c")))
    tensors[tensor.name] = tensor.shape;
  return tensors;
}

/// The configuration under a name that nobody knows.
json unknown(json config) {
  config["model_type"] = "acme";
  config["architectures"] = {"AcmeForCausalLM"};
  return config;
}

/// Rows inferred from tensors describe the same tensors as the row of the known family.
TEST(Inference, FindsTheTensorsOfFamiliesWithCommonNames) {
  json qwen = test::tiny_qwen2_moe();
  qwen.erase("decoder_sparse_step");
  json glm = test::tiny_glm4_moe();
  glm["use_qk_norm"] = true;
  glm["head_dim"] = 4;
  for (const json& config :
       {test::tiny_llama(), test::tiny_olmoe(), test::tiny_mixtral(), qwen, glm}) {
    const TensorShapes tensors = tensors_of(config);
    const std::string text = unknown(config).dump();
    const InferredArchitecture found = infer_architecture(text, "c", tensors);
    SCOPED_TRACE(config["model_type"]);
    EXPECT_EQ(found.row.name, config["model_type"] == "llama" ? "standard" : "generic_moe");
    EXPECT_GE(found.assumptions.size(), 2u);
    TensorShapes described;
    for (const ExpectedTensor& tensor :
         expected_tensors(describe_model(found.row, text, "c", tensors)))
      described[tensor.name] = tensor.shape;
    EXPECT_EQ(described, tensors);
  }
}

TEST(Inference, SaysHowTheRouterWasRead) {
  json config = test::tiny_olmoe();
  TensorShapes tensors = tensors_of(config);
  config = unknown(config);
  auto found = infer_architecture(config.dump(), "c", tensors);
  EXPECT_EQ(found.row.score, RouterScore::softmax);
  EXPECT_EQ(found.row.qk_norm, QkNorm::projection);
  EXPECT_THAT(found.assumptions.back(), HasSubstr("softmax"));
  EXPECT_THAT(found.assumptions.back(), HasSubstr("no norm_topk_prob"));
  tensors["model.layers.0.mlp.gate.e_score_correction_bias"] = {3};
  config["norm_topk_prob"] = false;
  found = infer_architecture(config.dump(), "c", tensors);
  EXPECT_EQ(found.row.score, RouterScore::sigmoid);
  EXPECT_THAT(found.assumptions.back(), HasSubstr("sigmoid"));
  EXPECT_THAT(found.assumptions.back(), HasSubstr("as they are"));
}

TEST(Inference, RefusesWhatItCannotKnow) {
  const auto refused = [](const json& config, const TensorShapes& tensors) -> std::string {
    try {
      const std::string text = config.dump();
      describe_model(infer_architecture(text, "c/config.json", tensors).row, text, "c/config.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      return error.what();
    }
    return "accepted";
  };
  const json config = unknown(test::tiny_llama());
  EXPECT_THAT(refused(config, {{"transformer.h.0.attn.weight", {1}}}),
              testing::AllOf(HasSubstr("'acme'"), HasSubstr("q_proj.weight"),
                             HasSubstr("--architecture"), HasSubstr("olmoe")));
  for (const char* key : {"final_logit_softcapping", "embedding_multiplier", "scale_emb"}) {
    json strange = config;
    strange[key] = 30.0;
    EXPECT_THAT(refused(strange, tensors_of(test::tiny_llama())), HasSubstr(key));
    strange[key] = nullptr;
    EXPECT_EQ(refused(strange, tensors_of(test::tiny_llama())), "accepted");
  }
  TensorShapes scalar = tensors_of(test::tiny_llama());
  scalar["model.layers.0.self_attn.q_proj.weight"] = {};
  EXPECT_THAT(refused(config, scalar), HasSubstr("q_proj.weight is no matrix"));
  json scoring = unknown(test::tiny_olmoe());
  scoring["scoring_func"] = "relu";
  EXPECT_THAT(refused(scoring, tensors_of(test::tiny_olmoe())), HasSubstr("relu"));
}

}  // namespace
}  // namespace aq
