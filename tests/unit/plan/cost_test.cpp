#include "aq/plan/cost.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "balance.h"
#include "plans.h"

namespace aq {
namespace {

constexpr int kRankCounts[] = {1, 2, 3, 5, 7, 16, 48, 64, 100, 255, 256, 1000, 1024, 4096};

Recipe int4(const std::string& target = "own", const std::string& output_factor = "none") {
  return parse_recipe(
      str("{\"default\": {\"wq\": \"int4\", \"group_size\": 32}, \"gptq\": {\"target\": \"", target,
          "\", \"output_factor\": \"", output_factor, "\"}}"),
      "recipe.json");
}

CostOptions options(int threads = 1) {
  return {.machine = {},
          .ranks_per_node = 1,
          .threads = threads,
          .weight_bytes = [](const LinearSpec&) { return 2.0; }};
}

CostEstimate cost_on(const Model& model, const Workload& work, int ranks,
                     const Recipe& recipe = int4()) {
  const Plan plan = test::plan_of(model, recipe, ranks, work, {});
  return estimate_cost(model, recipe.settings, plan, work, options());
}

/// Three layers of hidden 320, q, k, v of 448 rows, an MLP of 700; 200 tokens, so that every matrix
/// is refined (0.25 * 700 = 175).
TEST(Cost, WorkedByHand) {
  const CostEstimate cost = cost_on(test::small_dense(), test::workload(4, 50), 1);
  const double n = 320, m = 700, tokens = 200, layers = 3;
  const double qkv = 448, o = 320, gate_up = 1400, down = 320;
  const double squares = (qkv + o + gate_up) * n * n + down * m * m;
  EXPECT_DOUBLE_EQ(cost.all.flops.hessian, layers * tokens * (3 * n * (n + 1) + m * (m + 1)));
  EXPECT_DOUBLE_EQ(cost.all.flops.factor, layers * (3 * n * n * n + m * m * m) / 3);
  EXPECT_DOUBLE_EQ(cost.all.flops.solve, layers * squares * 1.125);
  EXPECT_DOUBLE_EQ(cost.all.flops.refine, layers * squares * (1 + 0.9 * 4));
  const double weights = (qkv + o + gate_up) * n + down * m;
  // 50 queries in one tile: (50 * 306 / 2) scores and values of 5 heads of 64 in 4 sequences
  const double attention = 4 * (50 * 306 / 2.0) * 2 * 5 * (64 + 64);
  EXPECT_DOUBLE_EQ(cost.all.flops.forward, layers * 2 * tokens * weights);
  EXPECT_DOUBLE_EQ(cost.all.flops.attention, layers * attention);
  // every weight once, and at most 200 of 300 rows of the embedding
  EXPECT_DOUBLE_EQ(cost.all.traffic.read, 2 * (layers * weights + 200 * n));
  EXPECT_EQ(cost.all.traffic.reduce_sent, 0);
  EXPECT_EQ(cost.all.traffic.exchange_received, 0);
  // rows of 320: 40 words and 10 scales of 16 bits; rows of 700: 88 words and 22 scales
  const double stored = (qkv + o + gate_up) * (160 + 20) + down * (352 + 44);
  EXPECT_DOUBLE_EQ(cost.all.traffic.written, layers * stored);
  EXPECT_DOUBLE_EQ(cost.shard_bytes, layers * stored);
  EXPECT_EQ(cost.shard_files, 3);
  EXPECT_EQ(cost.balance, 1);
}

/// The same beside the original model: what comes on top.
TEST(Cost, OfTheOriginalModelByHand) {
  const Model model = test::small_dense();
  const CostEstimate own = cost_on(model, test::workload(4, 50), 1);
  const CostEstimate cost = cost_on(model, test::workload(4, 50), 1, int4("original"));
  const double n = 320, m = 700, tokens = 200, layers = 3;
  const double qkv = 448, o = 320, gate_up = 1400, down = 320;
  // Cross sums: inputs by inputs of q, k, v and of gate, up; outputs by inputs of o and down.
  EXPECT_DOUBLE_EQ(cost.all.flops.hessian - own.all.flops.hessian,
                   layers * tokens * 2 * (2 * n * n + o * n + down * m));
  EXPECT_DOUBLE_EQ(cost.all.flops.factor, own.all.flops.factor);
  // Rows of q, k, v, gate and up times a sum; then two triangles solved for every row.
  EXPECT_DOUBLE_EQ(cost.all.flops.solve - own.all.flops.solve,
                   layers * 2 * ((2 * qkv + 2 * gate_up + o) * n * n + down * m * m));
  EXPECT_DOUBLE_EQ(cost.all.flops.refine, own.all.flops.refine);
  // The original stream; o and the MLPs with original weights for the own one, and for what their
  // linears lack.
  const double weights = (qkv + 2 * o + 3 * gate_up) * n + 3 * down * m;
  EXPECT_DOUBLE_EQ(cost.all.flops.forward - own.all.flops.forward, layers * 2 * tokens * weights);
  EXPECT_DOUBLE_EQ(cost.all.flops.attention, 2 * own.all.flops.attention);
  EXPECT_DOUBLE_EQ(cost.all.traffic.read - own.all.traffic.read, 2 * layers * weights);
  const CostEstimate two = cost_on(model, test::workload(4, 50), 2, int4("original"));
  const CostEstimate own_two = cost_on(model, test::workload(4, 50), 2);
  EXPECT_DOUBLE_EQ(two.all.traffic.reduce_sent - own_two.all.traffic.reduce_sent,
                   layers * 4 * (2 * n * n + o * n + down * m));
}

/// The same with output factors of q, k and v: what comes on top.
TEST(Cost, OfOutputFactorsByHand) {
  const Model model = test::small_dense();
  const Workload work = test::workload(4, 50);
  const CostEstimate none = cost_on(model, work, 1);
  const CostEstimate cost = cost_on(model, work, 1, int4("own", "layer"));
  const double n = 320, tokens = 200, layers = 3, qkv = 448, o = 320;
  // As many sweeps again, q, k and v once more, and o from its outputs to its inputs.
  EXPECT_DOUBLE_EQ(cost.all.flops.refine - none.all.flops.refine, layers * qkv * n * n * 0.9 * 4);
  EXPECT_DOUBLE_EQ(cost.all.flops.forward - none.all.flops.forward,
                   layers * 2 * tokens * (qkv + o) * n);
  EXPECT_DOUBLE_EQ(cost.all.traffic.read - none.all.traffic.read, 2 * layers * (qkv + o) * n);
  // Scores, and products by q, k and twice by v: five where attention itself has two.
  EXPECT_DOUBLE_EQ(cost.all.flops.attention, 3.5 * none.all.flops.attention);
  EXPECT_DOUBLE_EQ(cost.all.flops.solve, none.all.flops.solve);
  const CostEstimate two = cost_on(model, work, 2, int4("own", "layer"));
  EXPECT_DOUBLE_EQ(two.all.traffic.reduce_sent - cost_on(model, work, 2).all.traffic.reduce_sent,
                   layers * 4 * qkv * 64);
}

/// Two ranks with one partial each: every Hessian travels once, from the rank that is not its
/// owner.
TEST(Cost, PartialSumsOfTwoRanks) {
  const CostEstimate cost = cost_on(test::small_dense(), test::workload(4, 50), 2);
  // panels of 256 columns: 320 * 256 + 64 * 64; and (700 + 444) * 256 + 188 * 188
  const double n = 320 * 256 + 64 * 64, m = (700 + 444) * 256 + 188 * 188;
  EXPECT_DOUBLE_EQ(cost.all.traffic.reduce_sent, 3 * 4 * (3 * n + m));
  EXPECT_DOUBLE_EQ(cost.all.traffic.reduce_received, cost.all.traffic.reduce_sent);
}

/// Four ranks with one partial each: every rank sends a half and a quarter of every Hessian, and
/// the owner gets the last quarter of the other three.
TEST(Cost, PartialSumsAlongTheTree) {
  const CostEstimate cost = cost_on(test::small_dense(), test::workload(4, 50), 4);
  const double n = 320 * 256 + 64 * 64, m = (700 + 444) * 256 + 188 * 188;
  EXPECT_DOUBLE_EQ(cost.all.traffic.reduce_sent, 3 * 4 * (3 * n + m) * (4 * 0.75 + 0.75));
  EXPECT_DOUBLE_EQ(cost.all.traffic.reduce_received, cost.all.traffic.reduce_sent);
  EXPECT_LE(cost.most.traffic.reduce_sent, 3 * 4 * (3 * n + m));
}

TEST(Cost, WithoutEnoughTokensNothingIsRefined) {
  const CostEstimate cost = cost_on(test::small_dense(), test::workload(4, 10), 1);
  EXPECT_EQ(cost.all.flops.refine, 0);
}

/// Ranks share the work; they do not change it. What one sends another receives.
TEST(Cost, WorkIsTheSameOnAnyRankCount) {
  for (const Model& model : {test::small_moe(), test::small_dense(), test::small_mixtral()}) {
    const Workload work = test::workload(64, 32);
    const CostEstimate one = cost_on(model, work, 1);
    for (const int ranks : kRankCounts) {
      SCOPED_TRACE(str(model.architecture, " on ", ranks));
      const CostEstimate cost = cost_on(model, work, ranks);
      const auto near = [](double a, double b) { EXPECT_NEAR(a, b, 1e-9 * b + 1e-9); };
      near(cost.all.flops.hessian, one.all.flops.hessian);
      near(cost.all.flops.factor, one.all.flops.factor);
      near(cost.all.flops.solve, one.all.flops.solve);
      near(cost.all.flops.refine, one.all.flops.refine);
      near(cost.all.flops.forward, one.all.flops.forward);
      near(cost.all.traffic.written, one.all.traffic.written);
      near(cost.all.traffic.reduce_sent, cost.all.traffic.reduce_received);
      EXPECT_LE(cost.most.flops.total(), cost.all.flops.total() * (1 + 1e-9));
      EXPECT_EQ(cost.token_ranks, std::min(ranks, 64));
      EXPECT_GT(cost.total_seconds, 0);
      EXPECT_GT(cost.balance, 0);
      EXPECT_LE(cost.balance, 1 + 1e-9);
    }
  }
}

/// One task of 3 Hessians on a rank, 2 threads of 2 cores: the first two side by side, the third by
/// both.
TEST(Cost, TimeOfFactorsByHand) {
  const Model model = test::small_dense();
  const Recipe recipe = int4();
  const Workload work = test::workload(4, 50);
  const Plan plan = test::plan_of(model, recipe, 1, work, {.threads = 2});
  CostOptions with = options(2);
  with.machine.cores = 2;
  with.machine.factor_flops = 1e9;
  const CostEstimate cost = estimate_cost(model, recipe.settings, plan, work, with);
  // every stage of a dense model has one task: factored by both threads
  EXPECT_NEAR(cost.seconds.at(Phase::factor), cost.all.flops.factor / 2e9, 1e-12);
}

TEST(Cost, PublishedExpertsOnUpToAThousandRanks) {
  const Model model = test::published_moe();
  const Workload work = test::workload(128, 2048);
  for (const int ranks : {1, 4, 16}) {  // four tasks a rank and more
    const CostEstimate cost = cost_on(model, work, ranks);
    EXPECT_GE(cost.balance, 0.9) << ranks;
  }
  EXPECT_LT(cost_on(model, work, 16).total_seconds, cost_on(model, work, 1).total_seconds / 8);
}

std::map<int, std::vector<Index>> olmoe_counts() {
  std::ifstream file(AQ_ROUTING_COUNTS);
  const nlohmann::json json = nlohmann::json::parse(file);
  std::map<int, std::vector<Index>> counts;
  for (const auto& [layer, values] : json.at("counts").items())
    counts[std::stoi(layer)] = values.get<std::vector<Index>>();
  return counts;
}

/// The routing that was published for OLMoE: 208,896 tokens, most of an expert 3 to 5 times the
/// mean. Factor and solution cost the same whatever an expert's tokens, so the solver does not feel
/// it, unless so few tokens come that some experts are not refined. Work that grows with tokens
/// would: that is why dispatch places experts by their tokens too, and leaves hot ones.
TEST(Balance, OfThePublishedRouting) {
  const Plan plan = test::plan_of(test::published_moe(), int4(), 16, test::workload(128, 2048), {});
  for (const auto& [layer, counts] : olmoe_counts()) {
    ASSERT_EQ(counts.size(), 64u);
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), Index{0}), 208896 * 8) << layer;
    const StagePlan& stage = plan.layers[layer].waves[0].gate_up;
    EXPECT_DOUBLE_EQ(solver_balance(stage, 16, counts, 4), 1.0) << layer;
    std::vector<Index> few;  // a fortieth: the mean has 652 tokens, refined are 512 and more
    for (const Index count : counts) few.push_back(count / 40);
    const double solver = solver_balance(stage, 16, few, 4);
    const double tokens = token_balance(stage, 16, counts);
    RecordProperty(str("layer", layer), str(solver, " ", tokens));
    EXPECT_GE(solver, 0.6) << layer;
    EXPECT_GE(tokens, 0.5) << layer;
    EXPECT_LE(tokens, 0.95) << layer;
  }
}

TEST(Balance, ByHand) {
  StagePlan stage;
  for (int i = 0; i < 2; ++i) {
    TaskPlan task;
    task.columns = 8;
    task.owner = i;
    task.needs_hessian = true;
    MatrixPlan matrix;
    matrix.linear = {"m", 64, 8, Role::gate, 0, i};
    matrix.assignment.method = Method::gptq;
    matrix.slices = {{i, {0, 64}}};
    task.matrices.push_back(matrix);
    stage.tasks.push_back(task);
  }
  const std::vector<Index> even{2, 2}, skewed{3, 1}, none{2, 0};
  EXPECT_DOUBLE_EQ(token_balance(stage, 2, skewed), 2.0 / 3);
  EXPECT_DOUBLE_EQ(solver_balance(stage, 2, even, 1), 1);
  const double factor = 512 / 3.0, row = 64 * 64;  // 2 tokens are a quarter of 8 columns
  EXPECT_DOUBLE_EQ(solver_balance(stage, 2, skewed, 1),
                   (2 * factor + 3 * row + row) / 2 / (factor + 3 * row));
  EXPECT_DOUBLE_EQ(solver_balance(stage, 2, none, 1),
                   (factor + 3 * row + 64 * 8) / 2 / (factor + 3 * row));
}

}  // namespace
}  // namespace aq
