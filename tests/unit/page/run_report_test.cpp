#include "aq/page/run_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace aq {
namespace {

using testing::ElementsAre;

TEST(ModuleKind, LeavesOutWhatNumbersLayerAndExpert) {
  EXPECT_EQ(module_kind("model.layers.12.self_attn.q_proj", 12, -1), "self_attn.q_proj");
  EXPECT_EQ(module_kind("model.layers.3.mlp.experts.45.up_proj", 3, 45), "mlp.experts.*.up_proj");
  EXPECT_EQ(module_kind("model.layers.3.mlp.experts.3.up_proj", 3, 3), "mlp.experts.*.up_proj");
  EXPECT_EQ(module_kind("lm_head", -1, -1), "lm_head");
  EXPECT_EQ(module_kind("odd", 3, 4), "odd");
}

TEST(LabelRuns, ShortestEndsThatDiffer) {
  const auto labels = [](std::vector<std::string> paths) {
    std::vector<RunReport> runs(paths.size());
    for (std::size_t i = 0; i < paths.size(); ++i) runs[i].directory = paths[i];
    label_runs(runs);
    for (std::size_t i = 0; i < paths.size(); ++i) paths[i] = runs[i].label;
    return paths;
  };
  EXPECT_THAT(labels({"/a/x", "/a/y"}), ElementsAre("x", "y"));
  EXPECT_THAT(labels({"/a/x", "/b/x", "/b/y"}), ElementsAre("a/x", "b/x", "y"));
  EXPECT_THAT(labels({"/a/x", "/a/x"}), ElementsAre("/a/x", "/a/x"));
}

}  // namespace
}  // namespace aq
