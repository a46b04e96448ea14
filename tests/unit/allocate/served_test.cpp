#include "aq/allocate/served.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/allocate/usage_error.h"
#include "unit/export/serving_model.h"

namespace aq {
namespace {

using test::assigned;
using test::gpt_oss_model;
using test::served_model;
using ::testing::Each;
using ::testing::HasSubstr;

/// What `target` takes of the formats, all linears in each of them.
std::vector<std::vector<bool>> served(const Model& model, const char* target,
                                      const std::vector<const char*>& names) {
  std::vector<UnitFormat> formats;
  std::vector<Assignments> whole;
  for (const char* name : names) {
    formats.push_back(parse_unit_format(name, "--formats"));
    whole.push_back(assigned(model, "int4", [&](const LinearSpec&, Assignment& assignment) {
      if (assignment.method == Method::copy) return;
      if (const auto scheme = scheme_from_format(formats.back().format)) {
        assignment.scheme = *scheme;
        assignment.scheme.group_size = *formats.back().group;
      } else {
        assignment = {};
      }
    }));
  }
  const auto units = allocation_units(model, assigned(model, "int4"), target);
  return served_formats({target, {}}, model, units, formats, whole);
}

std::string refusal(const Model& model, const char* target, const std::vector<const char*>& names) {
  return test::usage_error([&] { served(model, target, names); });
}

TEST(ServedFormats, WithoutATargetAnythingGoes) {
  EXPECT_THAT(served(served_model(), "", {"fp6", "int4"}), Each(Each(true)));
}

TEST(ServedFormats, WhatATargetDoesNotTakeIsLeftOut) {
  EXPECT_THAT(served(served_model(), "vllm", {"int3:32", "int4:32", "int8:64"}), Each(Each(true)));
  const auto with_fp6 = served(served_model(), "vllm", {"fp6", "int4"});
  EXPECT_THAT(with_fp6[0], Each(false));
  EXPECT_THAT(with_fp6[1], Each(true));
}

TEST(ServedFormats, APartWithoutAFormatIsAnError) {
  EXPECT_THAT(refusal(served_model(), "vllm", {"fp6", "mxfp6"}),
              testing::AllOf(HasSubstr("none of the formats for layer 0 attention"),
                             HasSubstr("fp6: no"), HasSubstr("mxfp6: no")));
}

/// SGLang takes integer experts in the format of the whole checkpoint alone.
TEST(ServedFormats, FormatsThatDoNotGoTogetherAreAnError) {
  EXPECT_THAT(served(served_model(), "sglang", {"int4:32", "int8:32"}), Each(Each(true)));
  EXPECT_THAT(refusal(served_model(), "sglang", {"int4:32", "int3:32"}),
              HasSubstr("it does not take int4:32 beside int3:32"));
}

/// gpt-oss is served with mxfp4 experts and all else untouched.
TEST(ServedFormats, EachPartHasItsOwn) {
  const Model model = gpt_oss_model();
  const auto both = served(model, "vllm", {"mxfp4", "bf16"});
  EXPECT_FALSE(both[0][0]) << "attention";
  EXPECT_TRUE(both[1][0]);
}

}  // namespace
}  // namespace aq
