// What a recipe says of a linear: rules are merged key by key, and keys must fit the format.

#include "aq/recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "aq/core/error.h"
#include "quoted.h"
#include "support/small_models.h"

namespace aq {
namespace {

using test::quoted;

LinearSpec linear(std::string name, Role role = Role::down) {
  return {std::move(name), 64, 96, role, 0, -1};
}
const LinearSpec kDown = linear("model.layers.3.mlp.experts.12.down_proj");
const LinearSpec kOther = linear("model.layers.3.mlp.experts.2.down_proj");
const LinearSpec kUp = linear("model.layers.3.mlp.experts.2.up_proj");
const LinearSpec kQ = linear("model.layers.3.self_attn.q_proj", Role::q);
const LinearSpec kRouter = linear("model.layers.3.mlp.gate", Role::router);
const LinearSpec kHead = linear("lm_head", Role::head);

/// A recipe with these keys of "default", and overrides of every linear or of a `pattern`, one a
/// line from line 3 on.
std::string recipe(const std::string& base, const std::vector<std::string>& overrides = {}) {
  std::string text = str("{`default`: {", base, "},\n`overrides`: [");
  for (const std::string& keys : overrides)
    text += str(text.back() == '[' ? "\n" : ",\n", "{",
                keys.starts_with("`pattern`") ? "" : "`pattern`: `*`, ", keys, "}");
  return quoted(text + "]}");
}

/// The assignment, or the error.
std::string said(const std::string& text, const LinearSpec& spec) {
  try {
    return to_string(resolve(parse_recipe(text, "r.json"), spec));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
}

struct Row {
  std::string base;
  std::vector<std::string> overrides;
  std::string expected;  ///< an assignment, or what an error holds
  const LinearSpec& of = kDown;
};

const std::string kCopy = "untouched";
const std::string kInt4 = "gptq int4 g128, scales bf16";
const std::string kInt4Of32 = "gptq int4 g32, scales bf16";
const std::string kInt3 = "gptq int3 g128, scales bf16";
const std::string kInt3Of64 = "gptq int3 g64, scales bf16";
const std::string kInt8 = "gptq int8 g128, scales bf16";
const std::string kMxfp4 = "gptq mxfp4 g32, scales e8m0 (best)";
const std::string kMxfp6 = "gptq mxfp6_e2m3 g32, scales e8m0 (best)";
const std::string kNvfp4 = "gptq nvfp4 g16, scales e4m3";

void check(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    const std::string text = recipe(row.base, row.overrides), found = said(text, row.of);
    if (found.find("r.json:") == std::string::npos)
      EXPECT_EQ(found, row.expected) << text << " of " << row.of.name;
    else
      EXPECT_THAT(found, testing::HasSubstr(row.expected)) << text;
  }
}

TEST(Resolve, OneRule) {
  check({
      {"`wq`: `int4`", {}, kInt4},
      {"`wq`: `fp4`", {}, "gptq fp4 g128, scales bf16"},
      {"`wq`: `mxfp4`", {}, kMxfp4},
      {"`wq`: `nvfp4`", {}, kNvfp4},
      {"`wq`: `int3`, `group_size`: 64", {}, kInt3Of64},
      {"`group_size`: 64, `wq`: `int3`", {}, kInt3Of64},
      {"`wq`: `int4`, `group_size`: -1", {}, "gptq int4 per-channel, scales bf16"},
      {"`wq`: `int4`, `group_size`: `channel`", {}, "gptq int4 per-channel, scales bf16"},
      {"`wq`: `fp6`, `group_size`: `tensor`", {}, "gptq fp6 per-tensor, scales bf16"},
      {"`wq`: `int4`, `group_size`: 1", {}, "gptq int4 g1, scales bf16"},
      {"`wq`: `int4`, `group_size`: 1048576", {}, "gptq int4 g1048576, scales bf16"},
      {"`wq`: `int4`, `symmetric`: false", {}, "gptq int4 g128 asymmetric, scales bf16"},
      {"`wq`: `int4`, `method`: `rtn`", {}, "rtn int4 g128, scales bf16"},
      {"`wq`: `bf16`", {}, kCopy},
      {"`wq`: `bf16`, `aq`: `int8`", {}, kCopy},
      {"`group_size`: 32", {}, kCopy},
      {"", {}, kCopy},
  });
}

TEST(Resolve, EveryFormat) {
  for (const std::string_view name : format_names())
    EXPECT_THAT(said(recipe(str("`wq`: `", name, "`")), kDown),
                testing::StartsWith(str("gptq ", name, " ")));
}

TEST(Resolve, RulesAreMergedKeyByKeyAndLaterWins) {
  const std::vector<std::string> rules{
      "`pattern`: `*experts*`, `symmetric`: false", "`pattern`: `*down_proj`, `group_size`: 64",
      "`pattern`: `*.12.*`, `method`: `rtn`, `scale_dtype`: `fp32`",
      "`pattern`: `*experts.12*`, `group_size`: 16"};
  const std::string base = "`wq`: `int4`, `group_size`: 32, `method`: `gptq`";
  const std::string wide = "`wq`: `int3`", narrow = "`pattern`: `*down_proj`, `wq`: `int8`";
  check({
      {base, rules, "rtn int4 g16 asymmetric, scales fp32"},
      {base, rules, "gptq int4 g64 asymmetric, scales bf16", kOther},
      {base, rules, "gptq int4 g32 asymmetric, scales bf16", kUp},
      {base, rules, kInt4Of32, kQ},
      {"`wq`: `int4`", {wide, narrow}, kInt8},
      {"`wq`: `int4`", {narrow, wide}, kInt3},
  });
}

TEST(Resolve, SkipSticksUntilItIsLifted) {
  const std::string skip = "`pattern`: `*experts*`, `skip`: true";
  const std::string format = "`pattern`: `*down_proj`, `wq`: `int8`, `method`: `rtn`";
  const std::string lift = "`pattern`: `*.12.*`, `skip`: false";
  const std::string base = "`wq`: `int4`, `group_size`: 32";
  check({
      {base, {skip}, kCopy},
      {base, {skip, format}, kCopy},
      {base, {skip, format, lift}, "rtn int8 g128, scales bf16"},
      {base, {lift, skip}, kCopy},
      {base, {skip, lift, skip}, kCopy},
      {base, {skip}, kInt4Of32, kQ},
      {base + ", `skip`: true", {lift}, kCopy, kQ},
      {base + ", `skip`: true", {lift}, kInt4Of32},
  });
}

TEST(Resolve, ANewFormatTakesItsDefaultGroup) {
  const std::string base = "`wq`: `int4`, `group_size`: 32";
  const std::string none = "`pattern`: `*experts*`, `wq`: `bf16`";
  check({
      {base, {"`wq`: `int3`"}, kInt3},
      {base, {"`wq`: `int3`, `group_size`: 64"}, kInt3Of64},
      {base, {"`group_size`: 64, `wq`: `int3`"}, kInt3Of64},
      {base, {"`wq`: `int4`"}, kInt4Of32},
      {base, {"`group_size`: 16", "`wq`: `int3`", "`wq`: `int4`"}, kInt4},
      {base, {none}, kCopy},
      {base, {none}, kInt4Of32, kQ},
      {base, {none, "`group_size`: 32"}, kCopy},
      {base, {none, "`wq`: `int8`"}, kInt8},
  });
}

TEST(Resolve, RoutersAndTheHeadStayUnlessAnOverrideNamesAFormat) {
  const std::string base = "`wq`: `int4`, `group_size`: 32";
  const std::string gate = "`pattern`: `*.mlp.gate`, `wq`: `int8`";
  for (const LinearSpec& kept : {kRouter, kHead})
    check({
        {base, {}, kCopy, kept},
        {base, {"`group_size`: 16, `method`: `rtn`"}, kCopy, kept},
        {base, {"`skip`: false"}, kCopy, kept},
        {base, {"`wq`: `bf16`"}, kCopy, kept},
        {base, {"`wq`: `int8`"}, kInt8, kept},
        {base, {"`wq`: `int4`"}, kInt4Of32, kept},
        {base, {"`wq`: `int8`, `skip`: true"}, kCopy, kept},
    });
  check({{base, {gate}, kInt8, kRouter}, {base, {gate}, kCopy, kHead}, {base, {gate}, kInt4Of32}});
}

/// What a rule says with the format or later must fit it; what was said before is dropped.
TEST(Resolve, KeysThatDoNotFitTheFormat) {
  const std::string int4 = "`wq`: `int4`", mxfp4 = "`wq`: `mxfp4`", nvfp4 = "`wq`: `nvfp4`";
  check({
      // elements
      {"`wq`: `mxfp6`, `extra`: {`format`: `e2m3`}", {}, kMxfp6},
      {"`wq`: `mxfp6`, `extra`: {`format`: `e3m2`}", {}, "gptq mxfp6 g32, scales e8m0 (best)"},
      {"`wq`: `fp8`, `extra`: {`format`: `e5m2`}", {}, "gptq fp8_e5m2 g128, scales bf16"},
      {"`wq`: `mxfp6`", {"`extra`: {`format`: `e2m3`}"}, kMxfp6},
      {"`wq`: `mxfp6`, `extra`: {`format`: `e2m3`}", {mxfp4}, kMxfp4},
      {mxfp4 + ", `extra`: {`format`: `e2m3`}", {}, "r.json: 'default.extra' asks for e2m3"},
      {nvfp4 + ", `extra`: {`format`: `e4m3`}", {}, "which is no element of nvfp4"},
      {int4, {"`extra`: {`format`: `e4m3`}"}, "r.json: 'overrides[0].extra' asks for e4m3"},
      {int4, {"`extra`: {`format`: `e4m3`}"}, "no element of int4; so for '" + kDown.name + "'"},
      // symmetry
      {mxfp4 + ", `symmetric`: true", {}, kMxfp4},
      {int4 + ", `symmetric`: false", {mxfp4}, kMxfp4},
      {int4 + ", `symmetric`: false",
       {mxfp4, "`wq`: `int3`"},
       "gptq int3 g128 asymmetric, scales bf16"},
      {"`wq`: `fp8`, `symmetric`: false", {}, "'default.symmetric' is false, but fp8 has no"},
      {int4, {mxfp4 + ", `symmetric`: false"}, "r.json: 'overrides[0].symmetric'"},
      {mxfp4, {"`symmetric`: false"}, "r.json: 'overrides[0].symmetric'"},
      // groups
      {mxfp4 + ", `group_size`: 64", {}, "gptq mxfp4 g64 (not OCP), scales e8m0 (best)"},
      {int4 + ", `group_size`: 24", {mxfp4}, kMxfp4},
      {mxfp4 + ", `group_size`: 16", {}, "'default.group_size' does not fit: groups of mxfp4"},
      {mxfp4 + ", `group_size`: -1", {}, "multiples of 32 columns"},
      {"`wq`: `mxfp8`, `group_size`: `tensor`", {}, "multiples of 32"},
      {nvfp4 + ", `group_size`: 32", {}, "16 columns"},
      {nvfp4, {"`method`: `rtn`", "`group_size`: 128"}, "r.json: 'overrides[1].group_size'"},
      {mxfp4, {"`pattern`: `*.q_proj`, `group_size`: 16"}, kMxfp4},
      {mxfp4, {"`group_size`: 16, `skip`: true"}, kCopy},
      // types of scales
      {int4 + ", `scale_dtype`: `fp32`", {}, "gptq int4 g128, scales fp32"},
      {"`wq`: `fp8`, `scale_dtype`: `fp16`", {}, "gptq fp8 g128, scales fp16"},
      {mxfp4 + ", `scale_dtype`: `e8m0`", {}, kMxfp4},
      {nvfp4 + ", `scale_dtype`: `e4m3`", {}, kNvfp4},
      {int4 + ", `scale_dtype`: `fp16`", {nvfp4}, kNvfp4},
      {mxfp4 + ", `scale_dtype`: `e8m0`", {int4}, kInt4},
      {int4 + ", `scale_dtype`: `e8m0`", {}, ".scale_dtype' is e8m0, which int4 cannot have"},
      {mxfp4 + ", `scale_dtype`: `fp16`", {}, ".scale_dtype' is fp16, which mxfp4 cannot have"},
      {mxfp4, {"`scale_dtype`: `e4m3`"}, "'overrides[0].scale_dtype'"},
      // rules for scales
      {mxfp4 + ", `scale_rule`: `ocp`", {}, "gptq mxfp4 g32, scales e8m0 (ocp)"},
      {mxfp4, {"`scale_rule`: `ceil`"}, "gptq mxfp4 g32, scales e8m0 (ceil)"},
      {mxfp4 + ", `scale_rule`: `ocp`", {int4}, kInt4},
      {"`scale_rule`: `ceil`", {"`wq`: `mxfp6`"}, "gptq mxfp6 g32, scales e8m0 (ceil)"},
      {nvfp4 + ", `scale_rule`: `ocp`", {}, "'default.scale_rule' is only of MX formats"},
      {int4, {"`scale_rule`: `best`"}, "'overrides[0].scale_rule'"},
      // inputs
      {int4 + ", `aq`: `bf16`", {}, kInt4},
      {int4 + ", `aq`: `int8`", {"`aq`: `none`"}, kInt4},
      {int4 + ", `aq`: `int8`, `aq_group_size`: -1", {}, kInt4 + ", inputs int8 per-channel"},
      {int4 + ", `aq`: `int8`, `aq_group_size`: `token`", {}, kInt4 + ", inputs int8 per-channel"},
      {int4 + ", `aq`: `int8`, `aq_group_size`: 64",
       {"`aq`: `mxfp8`"},
       kInt4 + ", inputs mxfp8 g32"},
      {int4 + ", `aq`: `mxfp8`, `aq_group_size`: 16", {}, "'default.aq_group_size' does not fit"},
      {int4 + ", `aq`: `nvfp4`", {"`aq_group_size`: -1"}, "'overrides[0].aq_group_size' does"},
  });
  const Recipe inputs = parse_recipe(recipe("`wq`: `mxfp4`, `aq`: `int8`"), "r.json");
  EXPECT_EQ(resolve(inputs, kDown).activation.value().scale_type, ScaleType::f32);
}

/// Every linear has what the recipe says of it, whether it is looked up in the model or in a copy.
TEST(Assign, ResolvesEveryLinearOnce) {
  const Recipe parsed = parse_recipe(
      recipe("`wq`: `int4`",
             {"`pattern`: `*experts.3.*`, `wq`: `int8`", "`pattern`: `*.o_proj`, `skip`: true"}),
      "r.json");
  const Model model = test::small_moe();
  const Assignments assignments = assign(parsed, model);
  EXPECT_EQ(assignments.settings, parsed.settings);
  ASSERT_EQ(assignments.linears.size(), all_linears(model).size());
  for (const LinearSpec* each : all_linears(model)) {
    const LinearSpec copy = *each;
    EXPECT_EQ(assignments.of(copy), resolve(parsed, *each)) << each->name;
  }
  EXPECT_THROW(assignments.of(kDown), Error) << "a linear of no model";
}

TEST(UnmatchedPatterns, AreListedInFileOrder) {
  const Recipe parsed =
      parse_recipe(recipe("`wq`: `int4`",
                          {"`pattern`: `*shared*`, `wq`: `int8`", "`pattern`: `*.experts.16.*`",
                           "`pattern`: `model.layers.2.*`", "`pattern`: `lm_head`, `wq`: `int8`"}),
                   "r.json");
  EXPECT_THAT(
      unmatched_patterns(parsed, test::small_moe()),
      testing::ElementsAre("overrides[0]: pattern '*shared*' matches no linear of the model",
                           "overrides[2]: pattern 'model.layers.2.*' matches no linear of the "
                           "model"));
}

TEST(UnmatchedPatterns, RegularExpressionsGetAHint) {
  const auto remark = [](const std::string& pattern) {
    const nlohmann::json rule{{"pattern", pattern}, {"wq", "int8"}};
    const nlohmann::json text{{"default", {{"wq", "int4"}}}, {"overrides", {rule}}};
    const auto remarks = unmatched_patterns(parse_recipe(text.dump(), "r.json"), test::small_moe());
    return remarks.size() == 1 ? remarks[0] : std::string("none");
  };
  // What is meant, where fnmatch can say it: the right side is tried on the model.
  const std::pair<const char*, const char*> meant[] = {
      {R"(re:.*down_proj)", "*down_proj"},
      {R"(+:.*\.down_proj)", "*.down_proj"},
      {R"(-:^model\.layers\.0\..*$)", "model.layers.0.*"},
      {R"(.*\.down_proj$)", "*.down_proj"},
      {R"(model.layers.\d+.self_attn.*)", "model.layers.*.self_attn*"},
      {R"(layers\.[0-9]+\.self_attn)", "*layers.*.self_attn*"},
      {R"(self_attn.*q_proj)", "*self_attn*q_proj"},
      {R"(^lm_head)", "lm_head"},
      {R"(lm_head$)", "lm_head"},
      {R"(.+q_proj)", "*q_proj"}};
  for (const auto& [pattern, better] : meant) {
    const std::string text = remark(pattern);
    EXPECT_THAT(text, testing::HasSubstr("not regular expressions")) << pattern;
    EXPECT_THAT(text, testing::EndsWith(str("did you mean '", better, "'?"))) << pattern;
    EXPECT_EQ(remark(better), "none") << pattern;
  }
  for (const char* pattern : {"(.*gate_proj|.*up_proj)", "re:nowhere", "^nowhere", "nowhere$",
                              ".*nowhere", "layers.*nowhere", R"(nowhere\.)", "(?:nowhere)"})
    EXPECT_THAT(remark(pattern), testing::EndsWith("dots included")) << pattern;
  for (const char* pattern :
       {"nowhere", "*.nowhere", "nowhere.*", "*.layers.7.*", "*.layers.*.nowhere"})
    EXPECT_THAT(remark(pattern), testing::EndsWith("of the model")) << pattern;
}

}  // namespace
}  // namespace aq
