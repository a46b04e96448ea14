#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "aq/core/error.h"
#include "aq/recipe/recipe.h"
#include "test_paths.h"

namespace aq {
namespace {

QuantizeSettings settings_of(const std::string& gptq) {
  return parse_recipe(str("{\"default\": {\"wq\": \"int4\"}, \"gptq\": {", gptq, "}}"), "r.json")
      .settings;
}

/// Every key away from its default.
QuantizeSettings other_settings() {
  QuantizeSettings settings;
  settings.gptq = {.damping = 0.05,
                   .few_tokens_damping = 0,
                   .scale_search = ScaleSearch::hessian,
                   .negative_scales = false,
                   .act_order = ActOrder::fixed,
                   .refine = 7,
                   .block = 64};
  settings.sequential = Sequential::none;
  settings.target = Target::own;
  settings.output_factor = OutputFactor::none;
  settings.routing_exponent = 0.5;
  settings.starved = Starved::rtn;
  settings.min_tokens = 0;
  settings.expert_tokens = ExpertTokens::all;
  return settings;
}

/// The values of other_settings() as flags.
const std::vector<std::pair<std::string, std::string>> kFlags{{"damping", "0.05"},
                                                              {"few_tokens_damping", "0"},
                                                              {"scale_search", "hessian"},
                                                              {"scale_sign", "positive"},
                                                              {"act_order", "static"},
                                                              {"refine", "7"},
                                                              {"block", "64"},
                                                              {"sequential", "none"},
                                                              {"target", "own"},
                                                              {"output_factor", "none"},
                                                              {"routing_exponent", ".5"},
                                                              {"starved", "rtn"},
                                                              {"min_tokens", "0"},
                                                              {"expert_tokens", "all"}};

TEST(RecipeSettings, AreTheDefaultsWhenNothingIsSaid) {
  const QuantizeSettings plain = parse_recipe(R"({"default": {"wq": "int4"}})", "r.json").settings;
  EXPECT_EQ(plain, QuantizeSettings{});
  EXPECT_EQ(plain.gptq.damping, 0.01);
  EXPECT_EQ(plain.gptq.few_tokens_damping, 1);
  EXPECT_EQ(plain.gptq.act_order, ActOrder::none);
  EXPECT_EQ(plain.gptq.block, 128);
  EXPECT_EQ(plain.routing_exponent, 1);
  EXPECT_EQ(plain.sequential, Sequential::stage);
  EXPECT_EQ(plain.target, Target::original);
  EXPECT_EQ(plain.output_factor, OutputFactor::layer);
  EXPECT_EQ(plain.expert_tokens, ExpertTokens::routed);
  EXPECT_EQ(plain.min_tokens, 32);
  EXPECT_EQ(plain.starved, Starved::all_tokens);
  EXPECT_EQ(settings_of(""), QuantizeSettings{});
}

TEST(RecipeSettings, EveryWord) {
  EXPECT_EQ(settings_of(R"("scale_search": "absmax")").gptq.scale_search, ScaleSearch::absmax);
  EXPECT_EQ(settings_of(R"("scale_search": "mse")").gptq.scale_search, ScaleSearch::mse);
  EXPECT_EQ(settings_of(R"("act_order": "none")").gptq.act_order, ActOrder::none);
  EXPECT_EQ(settings_of(R"("sequential": "stage")").sequential, Sequential::stage);
  EXPECT_EQ(settings_of(R"("sequential": "layer")").sequential, Sequential::layer);
  EXPECT_EQ(settings_of(R"("starved": "all_tokens")").starved, Starved::all_tokens);
  EXPECT_EQ(settings_of(R"("expert_tokens": "routed")").expert_tokens, ExpertTokens::routed);
}

TEST(RecipeSettings, AsJsonReadBackTheSame) {
  QuantizeSettings settings = other_settings();
  settings.routing_exponent = 1.0 / 3;
  const std::string text = str("{\"default\": {}, \"gptq\": ", settings_to_json(settings), "}");
  EXPECT_EQ(parse_recipe(text, "r.json").settings, settings);
  EXPECT_EQ(settings_to_json(settings).find("{\"damping\":0.05,"), 0u);
}

/// A flag changes its key alone, and wins over the file; every key is in the JSON, which decides
/// whether two runs are of one recipe.
TEST(RecipeSettings, EveryKeyAsAFlag) {
  ASSERT_EQ(kFlags.size(), setting_keys().size());
  QuantizeSettings all = settings_of("\"damping\": 1, \"refine\": 2, \"block\": 8");
  for (const auto& [key, value] : kFlags) {
    QuantizeSettings one;
    set_setting(one, key, value);
    EXPECT_NE(one, QuantizeSettings{}) << key;
    EXPECT_NE(settings_to_json(one), settings_to_json({})) << key;
    set_setting(all, key, value);
  }
  EXPECT_EQ(all, other_settings());
  set_setting(all, "refine", "0");
  QuantizeSettings expected = other_settings();
  expected.gptq.refine = 0;
  EXPECT_EQ(all, expected);
}

TEST(RecipeSettings, KeysTellWhatTheyTake) {
  std::vector<std::string> lines;
  for (const SettingKey& key : setting_keys()) lines.push_back(str(key.key, ": ", key.values));
  EXPECT_THAT(
      lines,
      testing::ElementsAre(
          "damping: a number in [0, 100]", "few_tokens_damping: a number in [0, 100]",
          "scale_search: absmax, mse or hessian", "scale_sign: positive or any",
          "act_order: none or static", "refine: a whole number in [0, 64]",
          "block: a whole number in [1, 1048576]", "sequential: stage, layer or none",
          "target: own or original", "output_factor: none or layer",
          "routing_exponent: a number in [0, 16]", "starved: all_tokens or rtn",
          "min_tokens: a whole number in [0, 1099511627776]", "expert_tokens: routed or all"));
}

/// docs/recipes.md: a row "| `key` | values | default | meaning |" for every setting, and every
/// format.
TEST(RecipeSettings, TheReferenceNamesThemWithTheirDefaults) {
  std::ifstream stream(std::string(AQ_EXAMPLES) + "/../docs/recipes.md");
  ASSERT_TRUE(stream);
  std::map<std::string, std::string> defaults;
  std::string text;
  for (std::string line; std::getline(stream, line);) {
    text += line;
    std::erase(line, '`');
    std::istringstream cells(line);
    std::string before, key, values, initial;
    for (std::string* cell : {&before, &key, &values, &initial}) std::getline(cells, *cell, '|');
    defaults[key] = initial;
  }
  for (const SettingKey& key : setting_keys())
    EXPECT_EQ(defaults[str(" ", key.key, " ")], str(" ", key.initial, " ")) << key.key;
  for (const std::string_view format : format_names())
    EXPECT_TRUE(format.starts_with("int") || text.find(str("`", format, "`")) != text.npos)
        << format;
}

TEST(RecipeSettings, WrongFlagsAreRefused) {
  struct Case {
    std::string key, text;
    std::vector<std::string> words;
  };
  const std::vector<Case> cases{{"refine", "65", {"--refine", "'65'", "[0, 64]"}},
                                {"refine", "-1", {"--refine", "'-1'", "[0, 64]"}},
                                {"refine", "2.0", {"--refine", "whole number"}},
                                {"refine", "2x", {"--refine", "'2x'"}},
                                {"refine", "", {"--refine", "[0, 64]"}},
                                {"damping", "nan", {"--damping", "[0, 100]"}},
                                {"damping", "inf", {"--damping", "[0, 100]"}},
                                {"damping", "-0.1", {"--damping", "[0, 100]"}},
                                {"routing_exponent", "one", {"--routing-exponent", "[0, 16]"}},
                                {"min_tokens", "99999999999999999999", {"--min-tokens"}},
                                {"block", "0", {"--block", "[1, 1048576]"}},
                                {"act_order", "fixed", {"--act-order", "none or static"}},
                                {"scale_search", "mes", {"--scale-search", "did you mean 'mse'?"}},
                                {"sequential", "Stage", {"--sequential", "did you mean 'stage'?"}}};
  for (const Case& wrong : cases) {
    SCOPED_TRACE(wrong.key + " " + wrong.text);
    QuantizeSettings settings;
    try {
      set_setting(settings, wrong.key, wrong.text);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      for (const std::string& word : wrong.words)
        EXPECT_THAT(error.what(), testing::HasSubstr(word));
    }
    EXPECT_EQ(settings, QuantizeSettings{});
  }
}

}  // namespace
}  // namespace aq
