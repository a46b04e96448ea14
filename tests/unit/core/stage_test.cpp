#include "aq/core/stage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace aq {
namespace {

TEST(Stage, EveryStageHasItsOwnName) {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(Stage::head); ++i)
    names.insert(stage_name(static_cast<Stage>(i)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(Stage::head) + 1);
  EXPECT_FALSE(names.contains(""));
}

TEST(Phase, EveryPhaseIsListedInOrderAndHasItsOwnName) {
  ASSERT_EQ(kPhases.size(), static_cast<std::size_t>(Phase::resume) + 1);
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < kPhases.size(); ++i) {
    EXPECT_EQ(kPhases[i], static_cast<Phase>(i));
    names.insert(phase_name(kPhases[i]));
  }
  EXPECT_EQ(names.size(), kPhases.size());
  EXPECT_FALSE(names.contains(""));
}

/// Timers and estimates keep phases in the order of work; JSON gets their names.
TEST(Phase, ValuesByName) {
  EXPECT_THAT(by_name({{Phase::solve, 2.5}, {Phase::dispatch, 1.0}}),
              testing::ElementsAre(testing::Pair("dispatch", 1.0), testing::Pair("solve", 2.5)));
}

}  // namespace
}  // namespace aq
