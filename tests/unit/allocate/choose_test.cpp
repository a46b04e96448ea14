#include "aq/allocate/choose.h"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <random>

namespace aq {
namespace {

using Units = std::vector<std::vector<UnitOption>>;

struct Sums {
  Index bits = 0;
  double loss = 0;
};

Sums sums_of(const Units& units, const std::vector<Index>& chosen) {
  Sums sums;
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    EXPECT_TRUE(units[unit][chosen[unit]].allowed);
    sums.bits += units[unit][chosen[unit]].bits;
    sums.loss += units[unit][chosen[unit]].loss;
  }
  return sums;
}

/// The least loss of all ways to choose; infinite where none fits.
double least_loss(const Units& units, Index most, std::size_t unit = 0) {
  if (unit == units.size()) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (const UnitOption& option : units[unit])
    if (option.allowed && option.bits <= most)
      least = std::min(least, option.loss + least_loss(units, most - option.bits, unit + 1));
  return least;
}

Units random_units(std::mt19937& random, std::size_t units, std::size_t options, bool falling) {
  std::uniform_real_distribution<double> loss(0, 1);
  std::uniform_int_distribution<Index> bits(1, 40);
  Units all(units);
  for (std::vector<UnitOption>& unit : all) {
    const double scale = loss(random);
    Index size = 0;
    for (std::size_t option = 0; option < options; ++option) {
      size += bits(random);
      const double value = falling ? scale / static_cast<double>(size) : loss(random);
      unit.push_back({size, value, option == 0 || loss(random) < 0.8});
    }
  }
  return all;
}

TEST(ChooseOptions, IsTheBestOfAllWays) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 300; ++trial) {
    const Units units = random_units(random, 1 + trial % 6, 1 + trial % 4, trial % 2 == 0);
    const Index most = std::uniform_int_distribution<Index>(0, 300)(random);
    const double least = least_loss(units, most);
    const auto chosen = choose_options(units, most);
    ASSERT_EQ(chosen.has_value(), std::isfinite(least)) << trial;
    if (!chosen) continue;
    const Sums sums = sums_of(units, *chosen);
    EXPECT_LE(sums.bits, most) << trial;
    EXPECT_NEAR(sums.loss, least, 1e-12) << trial;
  }
}

TEST(ChooseOptions, TakesFewerBitsForTheSameLoss) {
  const Units units{{{4, 1}, {2, 1}, {8, 1}}, {{3, 0}, {1, 0}}};
  EXPECT_EQ(choose_options(units, 100), (std::vector<Index>{1, 1}));
}

TEST(ChooseOptions, TakesTheBudgetToTheBit) {
  const Units units{{{2, 5.0}, {3, 1.0}}, {{2, 5.0}, {3, 1.5}}};
  EXPECT_EQ(choose_options(units, 3), std::nullopt);
  EXPECT_EQ(choose_options(units, 4), (std::vector<Index>{0, 0}));
  EXPECT_EQ(choose_options(units, 5), (std::vector<Index>{1, 0}));
  EXPECT_EQ(choose_options(units, 6), (std::vector<Index>{1, 1}));
}

/// As many units as a model of 60 layers has, all of other sizes: beside the bound that no choice
/// beats, and beside what no exchange of two units' options makes better.
TEST(ChooseOptions, ManyUnits) {
  std::mt19937 random(5);
  Units units = random_units(random, 200, 6, true);
  for (std::vector<UnitOption>& unit : units)
    for (UnitOption& option : unit) option.bits *= 1'000'003 + option.bits;
  Index all = 0;
  for (const std::vector<UnitOption>& unit : units)
    all += unit.front().bits + (unit.back().bits - unit.front().bits) / 3;
  const auto chosen = choose_options(units, all);
  ASSERT_TRUE(chosen);
  const Sums sums = sums_of(units, *chosen);
  EXPECT_LE(sums.bits, all);
  for (std::size_t a = 0; a < units.size(); ++a)
    for (std::size_t b = 0; b < a; ++b)
      for (const UnitOption& x : units[a])
        for (const UnitOption& y : units[b]) {
          const UnitOption &was_a = units[a][(*chosen)[a]], &was_b = units[b][(*chosen)[b]];
          const Index bits = sums.bits - was_a.bits - was_b.bits + x.bits + y.bits;
          if (!x.allowed || !y.allowed || bits > all) continue;
          EXPECT_GE(x.loss + y.loss, was_a.loss + was_b.loss - 1e-12);
        }
}

}  // namespace
}  // namespace aq
