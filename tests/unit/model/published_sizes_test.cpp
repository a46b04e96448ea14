#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/model/architecture.h"
#include "configs.h"

namespace aq {
namespace {

Model describe(const nlohmann::json& config) {
  return describe_model(config.dump(), "config.json");
}

TEST(PublishedSizes, Olmoe1B7B) {
  const Model model = describe(test::olmoe_1b_7b());
  constexpr Index kHidden = 2048, kVocabulary = 50304, kWidth = 1024, kExperts = 64, kLayers = 16;
  constexpr Index kLayer = 4 * kHidden * kHidden + 2 * kHidden  // attention, norms of q and k
                           + 2 * kHidden + kExperts * kHidden   // norms, router
                           + kExperts * 3 * kWidth * kHidden;
  constexpr Index kTotal = kLayers * kLayer + 2 * kVocabulary * kHidden + kHidden;
  static_assert(kTotal == 6919161856);
  EXPECT_EQ(parameter_count(model), kTotal);
  EXPECT_EQ(expected_tensors(model).size(), 3219u);
  EXPECT_EQ(all_linears(model).size(), 16u * (4 + 1 + 3 * 64) + 1);
  EXPECT_EQ(model.attention.head_dim, 128);
  EXPECT_EQ(model.max_positions, 4096);
  EXPECT_EQ(model.layers[15].moe->experts[63].down.name,
            "model.layers.15.mlp.experts.63.down_proj");
}

TEST(PublishedSizes, Mixtral8x7B) {
  const Model model = describe(test::mixtral_8x7b());
  constexpr Index kHidden = 4096, kKv = 1024, kVocabulary = 32000, kWidth = 14336, kLayers = 32;
  constexpr Index kLayer = 2 * kHidden * kHidden + 2 * kKv * kHidden + 2 * kHidden + 8 * kHidden +
                           8 * 3 * kWidth * kHidden;
  constexpr Index kTotal = kLayers * kLayer + 2 * kVocabulary * kHidden + kHidden;
  static_assert(kTotal == 46702792704);
  EXPECT_EQ(parameter_count(model), kTotal);
  EXPECT_EQ(expected_tensors(model).size(), 32u * (4 + 2 + 1 + 24) + 3);
  EXPECT_EQ(model.attention.rope.theta, 1e6);
  EXPECT_EQ(model.attention.sliding_window, 0);
  EXPECT_EQ(model.layers[0].moe->experts[7].up.name,
            "model.layers.0.block_sparse_moe.experts.7.w3");
}

TEST(PublishedSizes, Llama2With7B) {
  const Model model = describe(test::llama_2_7b());
  constexpr Index kHidden = 4096, kVocabulary = 32000, kWidth = 11008, kLayers = 32;
  constexpr Index kLayer = 4 * kHidden * kHidden + 2 * kHidden + 3 * kWidth * kHidden;
  constexpr Index kTotal = kLayers * kLayer + 2 * kVocabulary * kHidden + kHidden;
  static_assert(kTotal == 6738415616);
  EXPECT_EQ(parameter_count(model), kTotal);
  EXPECT_EQ(expected_tensors(model).size(), 291u);
}

TEST(PublishedSizes, Llama3Point2With3BNeedsScalingThatIsRefused) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    nlohmann::json config = test::llama_3_2_3b();
    if (std::string(key) == "rope_parameters") {
      config["rope_parameters"] = config["rope_scaling"];
      config["rope_parameters"]["rope_theta"] = config["rope_theta"];
      config.erase("rope_scaling");
      config.erase("rope_theta");
    }
    try {
      describe(config);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      for (const char* part : {"config.json", key, "'llama3'", "not supported"})
        EXPECT_THAT(error.what(), testing::HasSubstr(part));
    }
  }
}

/// What is left of the same configuration: a tied head, and heads that do not fill the hidden size.
TEST(PublishedSizes, Llama3Point2With3BWithoutTheScaling) {
  nlohmann::json config = test::llama_3_2_3b();
  config.erase("rope_scaling");
  const Model model = describe(config);
  constexpr Index kHidden = 3072, kKv = 1024, kVocabulary = 128256, kWidth = 8192, kLayers = 28;
  constexpr Index kLayer =
      2 * kHidden * kHidden + 2 * kKv * kHidden + 2 * kHidden + 3 * kWidth * kHidden;
  constexpr Index kTotal = kLayers * kLayer + kVocabulary * kHidden + kHidden;
  static_assert(kTotal == 3212749824);
  EXPECT_EQ(parameter_count(model), kTotal);
  EXPECT_EQ(expected_tensors(model).size(), 28u * 9 + 2);
  EXPECT_TRUE(model.tied_head);
  EXPECT_EQ(model.attention.rope.theta, 500000);
}

}  // namespace
}  // namespace aq
