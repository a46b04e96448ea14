#include "verify/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace aq {
namespace {

TEST(MatchFromBegin, AsPythonDoes) {
  const MatchFromBegin layers(R"((.*\.)?layers\.(1|12)\.mlp\.experts\.\d+\..*)");
  for (const char* name : {"layers.1.mlp.experts.5.up_proj", "model.layers.12.mlp.experts.17.w1"})
    EXPECT_TRUE(layers(name)) << name;
  for (const char* name : {"layers.2.mlp.experts.5.up_proj", "layers.1.mlp.experts.x.up_proj",
                           "xlayers.1.mlp.experts.5.up_proj", "layers.1.mlpxexperts.5.up_proj"})
    EXPECT_FALSE(layers(name)) << name;
  EXPECT_TRUE(MatchFromBegin("a|b")("bc")) << "a prefix is enough";
  EXPECT_FALSE(MatchFromBegin("a|b")("cb")) << "but from the begin";
  EXPECT_FALSE(MatchFromBegin("a$")("ab"));
  EXPECT_FALSE(MatchFromBegin("(a").valid());
}

constexpr const char* kSource = R"({"hidden_size": 64, "nested": {"a": [1, NaN]}})";

std::vector<std::string> problems(const std::string& config, const std::string& format,
                                  const PlannedMatrices& planned) {
  std::vector<std::string> texts;
  const std::string source = kSource;
  for (const TextProblem& problem :
       config_problems({config, source, "", format, planned, {"l.0.left", "l.1.left"}}))
    texts.push_back(problem.object + ": " + problem.text);
  return texts;
}

/// kSource with the members.
std::string with(const std::string& members) {
  const std::string source = kSource;
  return source.substr(0, source.size() - 1) + members + "}";
}

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const PlannedMatrices kPlanned{{"l.0.q", {Scheme{.group_size = 32}}},
                               {"l.1.q", {Scheme{.group_size = 32}}}};

std::string compressed(const std::string& targets, const std::string& ignore) {
  return with(
      R"(, "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
    "ignore": [)" +
      ignore + R"(], "config_groups": {"group_0": {"targets": [)" + targets + R"(],
    "weights": {"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32,
    "dynamic": false}, "input_activations": null}}})");
}

TEST(Config, CompressedTensors) {
  const auto check = [](const std::string& targets, const std::string& ignore) {
    return problems(compressed(targets, ignore), "compressed-tensors", kPlanned);
  };
  EXPECT_THAT(check(R"("Linear")", R"("re:l\\.\\d\\.left$")"), IsEmpty());
  EXPECT_THAT(check(R"("re:l.*q")", ""), IsEmpty());
  EXPECT_THAT(check(R"("Linear")", R"("l.0.left")"),
              ElementsAre(HasSubstr("l.1.left: it is a target")));
  EXPECT_THAT(check(R"("Linear")", R"("re:.*left", "l.0.q")"),
              ElementsAre(HasSubstr("l.0.q: it is quantized, but `ignore`")));
  EXPECT_THAT(check(R"("l.0.q")", ""),
              ElementsAre(HasSubstr("l.1.q: it is quantized, but the target of 0")));
  EXPECT_THAT(check(R"("nothing")", ""), ElementsAre(HasSubstr("and of 1 more")));
  PlannedMatrices other = kPlanned;
  other["l.1.q"].scheme.group_size = 64;
  EXPECT_THAT(problems(compressed(R"("re:l.*q")", ""), "compressed-tensors", other),
              ElementsAre(HasSubstr("l.1.q: its weights' group_size is 32, not 64")));
  other["l.1.q"] = {Scheme{.bits = 8, .group_size = 32}};
  EXPECT_THAT(problems(compressed(R"("re:l.*q")", ""), "compressed-tensors", other),
              ElementsAre(HasSubstr("num_bits is 4, not 8")));
}

TEST(Config, Gptq) {
  const auto check = [](const std::string& dynamic, const PlannedMatrices& planned) {
    return problems(
        with(R"(, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32,
      "sym": true, "desc_act": false, "checkpoint_format": "gptq", "format": "gptq", "dynamic": {)" +
             dynamic + "}}"),
        "gptq", planned);
  };
  EXPECT_THAT(check(R"("-:.*left": {})", kPlanned), IsEmpty());
  EXPECT_THAT(check("", kPlanned), ElementsAre(HasSubstr("l.0.left: no rule leaves it out")));
  EXPECT_THAT(check(R"("-:.*": {})", kPlanned),
              ElementsAre(HasSubstr("l.0.q: it is quantized, but a rule")));
  PlannedMatrices other = kPlanned;
  other["l.1.q"].scheme.bits = 8;
  EXPECT_THAT(check(R"("-:.*left": {})", other), ElementsAre(HasSubstr("l.1.q: bits is 4, not 8")));
  EXPECT_THAT(check(R"("-:.*left": {}, "+:l.1": {"bits": 8})", other), IsEmpty());
  EXPECT_THAT(check(R"("+:l.1": {"bits": 8}, "-:.*left": {})", other),
              ElementsAre(HasSubstr("l.1.left")))
      << "first wins";
}

TEST(Config, GptOss) {
  const PlannedMatrices planned{{"model.layers.0.mlp.experts.3.up_proj", {}}};
  const auto check = [&](const std::string& method, const std::string& kept) {
    return problems(with(R"(, "quantization_config": {"quant_method": ")" + method +
                         R"(", "modules_to_not_convert": [)" + kept + "]}"),
                    "gpt-oss", planned);
  };
  EXPECT_THAT(check("mxfp4", R"("model.layers.*.self_attn", "lm_head", "model.layers.0.mlp.exp")"),
              IsEmpty());
  EXPECT_THAT(check("gpt-oss", ""), ElementsAre(HasSubstr("quant_method: it is not mxfp4")));
  for (const char* pattern :
       {"model.layers.*.mlp", "experts", "model.layers.0.mlp.experts", "mod.*"})
    EXPECT_THAT(check("mxfp4", str("\"", pattern, "\"")),
                ElementsAre(HasSubstr("up_proj: it is quantized, but")))
        << pattern;
  EXPECT_THAT(check("mxfp4", R"("(")"), ElementsAre(HasSubstr("it is no expression")));
}

TEST(Config, TheRestIsTheSources) {
  EXPECT_THAT(problems(kSource, "bf16", kPlanned), IsEmpty());
  EXPECT_THAT(problems(kSource, "gptq", {}), IsEmpty());
  EXPECT_THAT(problems(kSource, "gptq", kPlanned), ElementsAre(HasSubstr("it is not there")));
  EXPECT_THAT(problems(compressed("", ""), "bf16", kPlanned),
              ElementsAre(HasSubstr("nothing is quantized")));
  EXPECT_THAT(problems(with(R"(, "more": 1)"), "bf16", {}), ElementsAre(HasSubstr("more: ")));
  EXPECT_THAT(problems(R"({"hidden_size": 64, "nested": {"a": [2, NaN]}})", "bf16", {}),
              ElementsAre(HasSubstr("nested/a/0: ")));
  EXPECT_THAT(problems("{", "bf16", {}), ElementsAre(HasSubstr("config.json")));
}

}  // namespace
}  // namespace aq
