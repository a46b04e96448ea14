// Plans of published models on many ranks.

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "aq/core/error.h"
#include "aq/model/architecture.h"
#include "aq/plan/cost.h"
#include "aq/quant/hessian.h"
#include "plans.h"

namespace aq {
namespace {

Model published(const std::string& name) {
  const std::string path = std::string(AQ_CONFIGS) + "/" + name + ".json";
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return describe_model(text.str(), path);
}

Recipe int4() {
  return parse_recipe(R"({"default": {"wq": "int4"}})", "recipe.json");
}

/// Rows of a matrix that ranks solve, each once.
Index covered_rows(const MatrixPlan& matrix, int ranks) {
  Index next = 0;
  for (const Slice& slice : matrix.slices) {
    if (slice.rows.begin != next || slice.rank < 0 || slice.rank >= ranks) return -1;
    next = slice.rows.end;
  }
  return next;
}

void expect_every_matrix_once(const Plan& plan, const Model& model) {
  std::set<std::string> seen;
  for (const StagePlan* stage : test::stages_of(plan))
    for (const TaskPlan& task : stage->tasks)
      for (const MatrixPlan& matrix : task.matrices) {
        ASSERT_TRUE(seen.insert(matrix.linear.name).second) << matrix.linear.name;
        const bool copied = matrix.assignment.method == Method::copy;
        ASSERT_EQ(covered_rows(matrix, plan.ranks), copied ? 0 : matrix.linear.rows)
            << matrix.linear.name;
      }
  ASSERT_EQ(seen.size(), all_linears(model).size());
}

TEST(Scale, EveryMatrixOnceOnUpTo4096Ranks) {
  const Model model = test::published_moe();
  for (const bool dispatch : {false, true}) {
    const PlanLimits limits{.dispatch = dispatch};
    for (int ranks = 1; ranks <= 4096; ranks = ranks * 3 / 2 + 1) {
      SCOPED_TRACE(ranks);
      expect_every_matrix_once(test::plan_of(model, int4(), ranks, test::workload(64, 512), limits),
                               model);
    }
    for (const int ranks : {63, 64, 65, 1023, 1024, 1025, 4096})
      expect_every_matrix_once(test::plan_of(model, int4(), ranks, test::workload(64, 512), limits),
                               model);
  }
}

TEST(Scale, LargeModelsOn1024Ranks) {
  for (const char* name : {"deepseek-v3", "kimi-k2", "qwen3-235b-a22b"}) {
    const Model model = published(name);
    for (const bool dispatch : {false, true}) {
      const Plan plan =
          test::plan_of(model, int4(), 1024, test::workload(512, 4096),
                        {.memory = Index{100} << 30, .threads = 8, .dispatch = dispatch});
      expect_every_matrix_once(plan, model);
      EXPECT_LE(plan.memory.total(), Index{100} << 30);
    }
  }
}

/// DeepSeek-V3's o has Hessians of 0.5 GiB: with 256 lanes too every rank sends each sum once, and
/// has no more than its own and a window.
TEST(Scale, SumsOfManyLanesAreAddedAlongTheTree) {
  const Model model = published("deepseek-v3");
  const Workload work{{.sequences = 512, .lanes = 256}, 4096};
  const Recipe recipe = int4();
  const Plan plan = test::plan_of(model, recipe, 1024, work, {.dispatch = true});
  const CostOptions options{.machine = {}, .weight_bytes = [](const LinearSpec&) { return 1.0; }};
  const CostEstimate cost = estimate_cost(model, recipe.settings, plan, work, options);
  double once = 0, routed = 0, largest = 0;  // bytes of the sums of all tasks
  for (const LayerPlan& layer : plan.layers)
    for (const StagePlan* stage : layer.stages())
      for (const TaskPlan& task : stage->tasks) {
        const double bytes =
            4 * static_cast<double>(hessian_size(task.columns) + task.cross_rows * task.columns);
        (task.expert >= 0 ? routed : once) += bytes;
        largest = std::max(largest, bytes);
      }
  EXPECT_GT(routed, once) << "their tokens travel instead";
  EXPECT_LE(cost.most.traffic.reduce_sent, once);
  EXPECT_LE(cost.most.traffic.reduce_received, once + 2 * largest);
  for (const MemoryMoment& moment : plan.moments)
    if (moment.stage == Stage::o && moment.phase == Phase::reduce) {
      EXPECT_EQ(moment.memory.hessians, 4 * (hessian_size(16384) + 7168 * Index{16384}));
      const Index tokens = Index{512} / 256 * 4096;  // of a lane: each has its number and its row
      EXPECT_LE(moment.memory.buffers, ReduceLimits{}.window_bytes + 8 * tokens);
    }
}

/// Under the limit, or refused with a limit that is enough.
TEST(Scale, KeepsTheLimitOrSaysWhatWouldDo) {
  const Model model = published("qwen3-30b-a3b");
  constexpr Index kLimits[] = {Index{64} << 20, Index{2} << 30, Index{16} << 30, Index{64} << 30};
  for (const int ranks : {1, 3, 16, 100, 1024, 4096})
    for (std::size_t i = 0; i < 2 * std::size(kLimits); ++i) {
      const Index limit = kLimits[i / 2];
      PlanLimits limits{.memory = limit, .threads = 4, .dispatch = i % 2 == 1};
      const Workload work = test::workload(64, 1024);
      try {
        EXPECT_LE(test::plan_of(model, int4(), ranks, work, limits).memory.total(), limit);
      } catch (const Error& error) {
        ASSERT_EQ(error.kind(), ErrorKind::policy);
        const std::string text = error.what();
        const auto at = text.find("raise --memory to ");
        ASSERT_NE(at, std::string::npos) << text;
        limits.memory = std::stoll(text.substr(at + 18)) << 20;
        EXPECT_LE(test::plan_of(model, int4(), ranks, work, limits).memory.total(), limits.memory);
      }
    }
}

/// Four tasks a rank keep the solver busy on any number of ranks; beyond, rows are dealt out, and
/// what remains is the factor, which one rank makes.
TEST(Scale, BalanceWithFourTasksARank) {
  const Model model = published("deepseek-v3");
  const Workload work = test::workload(64, 512);
  for (const int ranks : {1, 2, 3, 5, 7, 16, 21, 32, 43, 51, 60, 63, 64}) {
    const Plan plan = test::plan_of(model, int4(), ranks, work, {});
    for (const StagePlan* stage :
         {&plan.layers[10].waves[0].gate_up, &plan.layers[10].waves[0].down})
      EXPECT_GE(stage->balance, 0.9) << ranks;
  }
}

}  // namespace
}  // namespace aq
