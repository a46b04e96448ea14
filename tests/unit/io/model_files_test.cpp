/// A checkpoint and its config.json: that they belong together, and what is left over.

#include "aq/io/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "aq/core/error.h"
#include "support/temporary_directory.h"
#include "test_paths.h"

namespace aq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;

fs::path fixture(const std::string& name) {
  return fs::path(AQ_TEST_DATA) / "models" / name;
}

json config_of(const std::string& name) {
  return json::parse(std::ifstream(fixture(name) / "config.json"));
}

/// Opens the weights of a fixture with another config.json.
ModelFiles open_with(const std::string& name, const json& config) {
  const test::TemporaryDirectory directory;
  std::ofstream(directory / "config.json") << config.dump();
  fs::create_symlink(fixture(name) / "model.safetensors", directory / "model.safetensors");
  return open_model(directory.path());
}

std::string message(const std::string& name, const json& config) {
  try {
    open_with(name, config);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_THAT(error.what(), HasSubstr("config.json"));
    return error.what();
  }
  return "accepted";
}

/// Every fixture opens; nothing of its layers is left over.
TEST(OpenModel, EveryFixture) {
  for (const fs::directory_entry& entry :
       fs::directory_iterator(fs::path(AQ_TEST_DATA) / "models")) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().filename());
    const fs::path own = entry.path() / "architecture.json";
    const ModelFiles files = open_model(entry.path(), fs::exists(own) ? own : fs::path());
    EXPECT_THAT(files.unexplained_tensors, IsEmpty());
    const bool generic = entry.path().filename().string().starts_with("generic_moe");
    EXPECT_EQ(files.assumptions.empty(), !generic);
    EXPECT_EQ(files.model.family == "generic_moe", generic);
  }
}

TEST(OpenModel, TensorsOfPredictionLayersAreLeftOver) {
  for (const char* name : {"deepseek_v3", "glm4_moe"}) {
    const ModelFiles files = open_model(fixture(name));
    ASSERT_FALSE(files.extra_tensors.empty());
    const std::string prefix = str("model.layers.", files.model.layers.size(), ".");
    for (const std::string& extra : files.extra_tensors) EXPECT_THAT(extra, HasSubstr(prefix));
  }
}

TEST(OpenModel, ContradictionsNameBothSides) {
  const auto with = [](const std::string& name, const char* key, const json& value) {
    json config = config_of(name);
    config[key] = value;
    return message(name, config);
  };
  EXPECT_THAT(with("olmoe", "num_experts", 7),
              testing::AllOf(HasSubstr("mlp.gate.weight as [7, 32]"), HasSubstr("[8, 32]")));
  EXPECT_THAT(with("olmoe", "num_experts", 9), HasSubstr("[9, 32]"));
  EXPECT_THAT(with("olmoe", "num_hidden_layers", 3), HasSubstr("model.layers.2."));
  EXPECT_THAT(with("olmoe", "intermediate_size", 25), HasSubstr("as [25, 32]"));
  EXPECT_THAT(with("qwen2_moe", "shared_expert_intermediate_size", 3), HasSubstr("as [3, "));
  EXPECT_THAT(with("qwen2_moe", "mlp_only_layers", json::array()),
              HasSubstr("model.layers.1.mlp.gate.weight"));
  EXPECT_THAT(with("qwen2_moe", "qkv_bias", false), HasSubstr("without tensor model.layers.0."));
  EXPECT_THAT(with("deepseek_v3", "kv_lora_rank", 5), HasSubstr("kv_a_layernorm.weight as [5]"));
  EXPECT_THAT(with("deepseek_v3", "quantization_config", nullptr),
              testing::AllOf(HasSubstr("F8_E4M3"), HasSubstr("quantization_config")));
  EXPECT_THAT(with("gpt_oss_mxfp4", "quantization_config", nullptr),
              HasSubstr("gate_up_proj [8, 32, 128]"));
  EXPECT_THAT(with("generic_moe", "num_experts", 9), HasSubstr("[9, "));
}

/// What an unknown architecture does with a tensor of its layers cannot be guessed.
TEST(OpenModel, AnUnknownArchitectureMustBeExplainedWhole) {
  json config = config_of("glm4_moe");
  config["model_type"] = "acme";
  config["architectures"] = {"AcmeForCausalLM"};
  EXPECT_EQ(message("glm4_moe", config), "accepted");
  config["n_shared_experts"] = 0;
  EXPECT_EQ(message("glm4_moe", config), "accepted") << "seen in the tensors";
  json latent = config_of("deepseek_v2_lite");
  latent["model_type"] = "acme";
  latent["architectures"] = {"AcmeForCausalLM"};
  EXPECT_THAT(message("deepseek_v2_lite", latent), HasSubstr("--architecture"));
}

TEST(OpenModel, ABiasThatTheArchitectureDoesNotKnowIsAnError) {
  json row = json::parse(std::ifstream(fixture("renamed") / "architecture.json"));
  row.erase("attention");
  const test::TemporaryDirectory directory;
  std::ofstream(directory / "own.json") << row.dump();
  try {
    open_model(fixture("renamed"), directory / "own.json");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("transformer.h.0.attn.w"));
  }
}

}  // namespace
}  // namespace aq
