#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "plan/memory.h"
#include "plans.h"

namespace aq {
namespace {

Recipe int4() {
  return parse_recipe(R"({"default": {"wq": "int4", "group_size": 32}})", "recipe.json");
}

/// Waves hold all experts once, in ascending order, with their tasks.
void expect_all_experts(const Plan& plan, Index experts) {
  for (const LayerPlan& layer : plan.layers) {
    Index next = 0;
    for (const WavePlan& wave : layer.waves) {
      ASSERT_EQ(wave.experts.begin, next);
      ASSERT_GT(wave.experts.size(), 0);
      for (const StagePlan* stage : {&wave.gate_up, &wave.down}) {
        ASSERT_EQ(std::ssize(stage->tasks), wave.experts.size());
        for (Index i = 0; i < wave.experts.size(); ++i) ASSERT_EQ(stage->tasks[i].expert, next + i);
      }
      next = wave.experts.end;
    }
    ASSERT_EQ(next, experts);
  }
}

TEST(Waves, AreOneWithoutALimit) {
  for (const int ranks : {1, 3, 64}) {
    const Plan plan = test::plan_of(test::small_moe(), int4(), ranks, test::workload(8, 32), {});
    expect_all_experts(plan, 17);
    EXPECT_EQ(plan.layers[0].waves.size(), 1u);
    EXPECT_GT(plan.memory.total(), 0);
  }
}

/// Every limit between "one expert just fits" and "all fit": the estimate keeps it, and a smaller
/// limit never gives fewer waves.
TEST(Waves, KeepTheLimit) {
  const Model model = test::published_moe();
  for (const int ranks : {1, 2, 3, 5, 8, 16, 64, 1024}) {
    const Workload work = test::workload(16, 64);
    const PlanLimits none{.threads = 2};
    const Index most = test::plan_of(model, int4(), ranks, work, none).memory.total();
    std::size_t waves = 1;
    std::set<std::size_t> seen;
    for (Index step = 0; step <= 200; ++step) {
      const PlanLimits limits{.memory = most - most * step / 201, .threads = 2};
      try {
        const Plan plan = test::plan_of(model, int4(), ranks, work, limits);
        ASSERT_LE(plan.memory.total(), limits.memory);
        ASSERT_GE(plan.layers[0].waves.size(), waves) << "fewer waves in less memory";
        waves = plan.layers[0].waves.size();
        seen.insert(waves);
        expect_all_experts(plan, 64);
      } catch (const Error& error) {
        ASSERT_EQ(error.kind(), ErrorKind::policy);
        ASSERT_GT(step, 0) << "what is enough without a limit is enough";
        break;
      }
    }
    // on many ranks MPI's own memory is most of it: no limit gives waves
    EXPECT_GE(seen.size(), ranks > 64 ? 1u : 3u) << "the limits tried no waves, on " << ranks;
    EXPECT_EQ(*seen.begin(), 1u);
  }
}

/// The size that follows `words` in the text of the error.
Index size_after(const std::string& text, const std::string& words) {
  const auto at = text.find(words);
  if (at == std::string::npos) return -1;
  const auto begin = at + words.size();
  return parse_bytes(text.substr(begin, text.find_first_of(" ,)", begin) - begin), "test");
}

TEST(Waves, AnImpossibleLimitSaysHowMuchWouldDo) {
  for (const Model& model : {test::small_moe(), test::small_dense(), test::published_moe()})
    for (const int ranks : {1, 3, 64})
      for (const Index limit : {Index{1}, Index{100000}}) {
        const Workload work = test::workload(9, 100);
        try {
          test::plan_of(model, int4(), ranks, work, {.memory = limit});
          ADD_FAILURE() << "a plan in " << limit << " bytes";
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::policy);
          EXPECT_THAT(error.what(), testing::HasSubstr("--memory"));
          EXPECT_THAT(error.what(), testing::HasSubstr(bytes_text(limit)));
          const Index enough = size_after(error.what(), "raise --memory to ");
          ASSERT_GT(enough, limit) << error.what();
          const Plan plan = test::plan_of(model, int4(), ranks, work, {.memory = enough});
          EXPECT_GT(plan.memory.total() + (Index{2} << 20), enough) << "asks for too much";
        }
      }
}

TEST(Waves, ARefusalNamesTheSingleStreamWhereItFits) {
  const Model model = test::published_moe();
  const Workload work = test::workload(64, 1024);
  const auto text_of_refusal = [&](Index limit) -> std::string {
    try {
      test::plan_of(model, int4(), 2, work, {.memory = limit});
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  Recipe own = int4();
  own.settings.target = Target::own;
  const Index least = test::plan_of(model, own, 2, work, {}).least.memory.total();
  EXPECT_EQ(test::plan_of(model, own, 2, work, {.memory = least}).memory.total(), least);
  EXPECT_THAT(text_of_refusal(least), testing::HasSubstr("use --target own"));
  // Offloaded too it needs less than either.
  const auto offloaded = [&](const Recipe& recipe) {
    return test::plan_of(model, recipe, 2, work, {.offload = true}).least.memory.total();
  };
  ASSERT_LT(offloaded(own), std::min(least, offloaded(int4())));
  const std::string both = text_of_refusal(offloaded(own));
  EXPECT_THAT(both, testing::HasSubstr("use --target own (one stream of tokens, at a loss of "
                                       "fidelity) with --offload DIR ("));
  const std::string refusal = text_of_refusal(offloaded(own) / 2);
  EXPECT_THAT(refusal, testing::HasSubstr("raise --memory"));
  EXPECT_THAT(refusal, testing::Not(testing::HasSubstr("--target")));
}

/// Files take what was planned for activations, moment by moment, and a plan that fails for want of
/// memory says so where they would be enough.
TEST(Waves, OffloadedActivationsAreNoMemory) {
  const Model model = test::published_moe();
  const Workload work = test::workload(64, 4096);
  for (const bool dispatch : {false, true})
    for (const int ranks : {2, 8}) {
      const auto plan_with = [&](bool offload, Index memory) {
        return test::plan_of(
            model, int4(), ranks, work,
            {.memory = memory, .threads = 2, .dispatch = dispatch, .offload = offload});
      };
      const Plan in_memory = plan_with(false, 0), in_files = plan_with(true, 0);
      EXPECT_EQ(in_memory.offloaded_bytes, 0);
      Index most = 0;
      ASSERT_EQ(in_files.moments.size(), in_memory.moments.size());
      for (std::size_t i = 0; i < in_files.moments.size(); ++i) {
        const MemoryEstimate& files = in_files.moments[i].memory;
        const MemoryEstimate& memory = in_memory.moments[i].memory;
        EXPECT_EQ(files.activations, 0);
        EXPECT_GE(files.offloaded, memory.activations);
        EXPECT_GE(files.total() + files.offloaded, memory.total());
        EXPECT_LE(files.total(), memory.total());
        most = std::max(most, files.offloaded);
      }
      EXPECT_EQ(in_files.offloaded_bytes, most);
      const Index enough = in_files.least.memory.total();
      EXPECT_LE(plan_with(true, enough).memory.total(), enough);
      for (const auto& [limit, helps] : {std::pair{enough, true}, std::pair{enough / 2, false}})
        try {
          plan_with(false, limit);
          ADD_FAILURE() << "a plan in " << limit << " bytes";
        } catch (const Error& error) {
          EXPECT_EQ(std::string(error.what()).find("--offload DIR (") != std::string::npos, helps)
              << error.what();
        }
    }
}

TEST(Waves, DoNotChangeWhatIsDone) {
  const Model model = test::small_moe();
  const Workload work = test::workload(16, 24);
  const Plan one = test::plan_of(model, int4(), 3, work, {});
  const Plan many = test::plan_of(model, int4(), 3, work, {.memory = one.memory.total() * 8 / 10});
  EXPECT_GT(many.layers[0].waves.size(), 1u);
  EXPECT_EQ(many.matrix_count, one.matrix_count);
  EXPECT_EQ(many.quantized_count, one.quantized_count);
  EXPECT_EQ(many.mean_bits, one.mean_bits);
}

/// Adds lanes as the run does: neighbours that make a whole subtree become one.
Index pending_by_hand(Range lanes) {
  std::vector<TreeNode> nodes;
  Index most = 0;
  for (Index lane = lanes.begin; lane < lanes.end; ++lane) {
    nodes.push_back({0, lane});
    most = std::max<Index>(most, std::ssize(nodes));
    while (nodes.size() > 1 && nodes.back().index % 2 == 1 &&
           nodes[nodes.size() - 2] == TreeNode{nodes.back().level, nodes.back().index - 1}) {
      const TreeNode joined{nodes.back().level + 1, nodes.back().index / 2};
      nodes.pop_back();
      nodes.back() = joined;
    }
  }
  return most;
}

TEST(Memory, PendingPartialsAreAsManyAsTheTreeKeeps) {
  for (Index lanes = 1; lanes <= 64; lanes *= 2)
    for (int ranks = 1; ranks <= 70; ++ranks) {
      const LaneLayout layout{.sequences = lanes, .lanes = lanes};
      Index most = 0;
      for (int rank = 0; rank < ranks; ++rank)
        most = std::max(most, pending_by_hand(layout.lanes_of_rank(rank, ranks)));
      ASSERT_GE(most_pending_partials(layout, ranks), most) << lanes << " " << ranks;
      ASSERT_LE(most_pending_partials(layout, ranks), most + 1) << lanes << " " << ranks;
    }
}

TEST(Memory, GrowsWithTokensAndShrinksWithRanks) {
  const Model model = test::published_moe();
  const auto total = [&](Index sequences, Index length, int ranks, int threads) {
    return test::plan_of(model, int4(), ranks, test::workload(sequences, length),
                         {.threads = threads})
        .memory.total();
  };
  EXPECT_LT(total(32, 512, 1, 1), total(64, 512, 1, 1));
  EXPECT_LT(total(32, 512, 1, 1), total(32, 1024, 1, 1));
  EXPECT_GT(total(64, 512, 1, 1), total(64, 512, 4, 1));
  EXPECT_LE(total(64, 512, 2, 1), total(64, 512, 2, 4));
}

}  // namespace
}  // namespace aq
