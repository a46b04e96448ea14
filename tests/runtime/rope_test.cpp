#include "runtime/rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "aq/core/error.h"
#include "runtime/reference.h"

namespace aq::runtime {
namespace {

RopeSpec yarn_of_deepseek() {
  return {.theta = 10000,
          .dims = 64,
          .scaling = RopeScaling::yarn,
          .factor = 40,
          .original_positions = 4096};
}

RopeSpec yarn_of_gpt_oss() {
  return {.theta = 150000,
          .dims = 64,
          .scaling = RopeScaling::yarn,
          .factor = 32,
          .original_positions = 4096,
          .truncate = false};
}

RopeSpec llama3() {
  return {.theta = 500000,
          .dims = 128,
          .scaling = RopeScaling::llama3,
          .factor = 32,
          .original_positions = 8192};
}

std::vector<float> without_scaling(RopeSpec spec) {
  spec.scaling = RopeScaling::none;
  return rope_frequencies(spec);
}

/// The exponent 2j/dims is rounded to fp32, as in transformers.
void expect_reference(const RopeSpec& spec) {
  const std::vector<float> got = rope_frequencies(spec);
  ASSERT_EQ(std::ssize(got), spec.dims / 2);
  for (std::size_t j = 0; j < got.size(); ++j)
    EXPECT_NEAR(got[j] / reference::rope_frequency(spec, static_cast<double>(j)), 1, 3e-6)
        << "pair " << j << " of " << spec.dims << ", theta " << spec.theta << ", factor "
        << spec.factor;
}

TEST(RopeFrequencies, AgreeWithDoublePrecision) {
  for (const double theta : {100.0, 10000.0, 150000.0, 500000.0, 1e7})
    for (const Index dims : {2, 6, 64, 128})
      for (const double factor : {1.0, 1.5, 8.0, 40.0})
        for (const double original : {512.0, 4096.0, 8192.0})
          for (const bool truncate : {false, true})
            for (const RopeScaling scaling :
                 {RopeScaling::none, RopeScaling::linear, RopeScaling::llama3, RopeScaling::yarn})
              expect_reference({.theta = theta,
                                .dims = dims,
                                .scaling = scaling,
                                .factor = factor,
                                .original_positions = original,
                                .truncate = truncate});
}

TEST(RopeFrequencies, OtherRamps) {
  RopeSpec spec = llama3();
  spec.low_frequency_factor = 2;
  spec.high_frequency_factor = 3;
  expect_reference(spec);
  spec = yarn_of_deepseek();
  spec.beta_fast = 128;
  spec.beta_slow = 0.25;
  expect_reference(spec);
}

TEST(RopeFrequencies, NothingIsRotated) {
  EXPECT_TRUE(rope_frequencies({.dims = 0}).empty());
}

TEST(RopeFrequencies, Linear) {
  const RopeSpec spec = {.dims = 8, .scaling = RopeScaling::linear, .factor = 4};
  EXPECT_EQ(rope_frequencies(spec)[0], 0.25F);
  EXPECT_FLOAT_EQ(rope_frequencies(spec)[1], 0.025F);
}

/// The ramp goes from pair 10 to pair 23.
TEST(RopeFrequencies, YarnOfDeepSeek) {
  const std::vector<float> plain = without_scaling(yarn_of_deepseek());
  const std::vector<float> got = rope_frequencies(yarn_of_deepseek());
  for (std::size_t j = 0; j < 32; ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - 10) / 13, 0.0, 1.0);
    EXPECT_NEAR(got[j] / (plain[j] * (ramp / 40 + 1 - ramp)), 1, 1e-6) << j;
  }
  EXPECT_EQ(got[10], plain[10]);
  EXPECT_LT(got[11], plain[11] * 0.95F);
  EXPECT_GT(got[22], plain[22] / 40 * 1.5F);
  EXPECT_FLOAT_EQ(got[23], plain[23] / 40);
}

/// The ramp goes from 8.0927791 to 17.3980246.
TEST(RopeFrequencies, YarnWithoutTruncation) {
  const std::vector<float> plain = without_scaling(yarn_of_gpt_oss());
  const std::vector<float> got = rope_frequencies(yarn_of_gpt_oss());
  for (std::size_t j = 0; j < 32; ++j) {
    const double place = (static_cast<double>(j) - 8.0927791) / (17.3980246 - 8.0927791);
    const double ramp = std::clamp(place, 0.0, 1.0);
    EXPECT_NEAR(got[j] / (plain[j] * (ramp / 32 + 1 - ramp)), 1, 2e-6) << j;
  }
  EXPECT_EQ(got[8], plain[8]);
  EXPECT_LT(got[9], plain[9] * 0.95F);
  EXPECT_GT(got[17], plain[17] / 32 * 1.5F);
  EXPECT_FLOAT_EQ(got[18], plain[18] / 32);
}

/// Both ends of the ramp at 1.03: a step, not a division by zero.
TEST(RopeFrequencies, YarnWithoutARamp) {
  RopeSpec spec = yarn_of_gpt_oss();
  spec.dims = 8;
  spec.beta_fast = spec.beta_slow = 30;
  const std::vector<float> plain = without_scaling(spec);
  const std::vector<float> got = rope_frequencies(spec);
  EXPECT_EQ(got[1], plain[1]);
  EXPECT_FLOAT_EQ(got[2], plain[2] / 32);
}

/// Waves below 2048 positions are kept, those above 8192 stretched.
TEST(RopeFrequencies, Llama3) {
  const std::vector<float> plain = without_scaling(llama3());
  const std::vector<float> got = rope_frequencies(llama3());
  int kept = 0, stretched = 0;
  for (std::size_t j = 0; j < 64; ++j) {
    const double wave = 2 * std::numbers::pi / plain[j];
    if (wave < 2048) {
      EXPECT_EQ(got[j], plain[j]) << j;
      ++kept;
    } else if (wave > 8192) {
      EXPECT_EQ(got[j], plain[j] / 32) << j;
      ++stretched;
    } else {
      EXPECT_LT(got[j], plain[j]) << j;
      EXPECT_GT(got[j], plain[j] / 32) << j;
    }
  }
  EXPECT_EQ(kept, 29);
  EXPECT_EQ(stretched, 29);
}

/// transformers 5.23 with PyTorch 2.15.
TEST(RopeFrequencies, AsTransformersComputesThem) {
  const std::vector<float> llama = rope_frequencies(llama3());
  EXPECT_FLOAT_EQ(llama[28], 0.00321144611F);
  EXPECT_FLOAT_EQ(llama[29], 0.00211840682F);
  EXPECT_FLOAT_EQ(llama[31], 0.000762541255F);
  EXPECT_FLOAT_EQ(llama[34], 9.70828623e-05F);
  EXPECT_FLOAT_EQ(llama[35], 2.38905304e-05F);
  const std::vector<float> deepseek = rope_frequencies(yarn_of_deepseek());
  EXPECT_FLOAT_EQ(deepseek[10], 0.0562341288F);
  EXPECT_FLOAT_EQ(deepseek[11], 0.0390069261F);
  EXPECT_FLOAT_EQ(deepseek[22], 0.00017782794F);
  EXPECT_FLOAT_EQ(deepseek[23], 3.3338034e-05F);
  const std::vector<float> gpt_oss = rope_frequencies(yarn_of_gpt_oss());
  EXPECT_FLOAT_EQ(gpt_oss[8], 0.0508132726F);
  EXPECT_FLOAT_EQ(gpt_oss[9], 0.0317056961F);
  EXPECT_FLOAT_EQ(gpt_oss[17], 0.000129318694F);
  EXPECT_FLOAT_EQ(gpt_oss[18], 3.83088118e-05F);
}

TEST(RopeFrequencies, RefusesWhatCannotBe) {
  EXPECT_THROW(rope_frequencies({.dims = 3}), Error);
  EXPECT_THROW(rope_frequencies({.dims = 4, .scaling = RopeScaling::yarn, .factor = 2}), Error);
  EXPECT_THROW(rope_frequencies({.dims = 4, .scaling = RopeScaling::linear, .factor = 0}), Error);
}

TEST(RopeTable, MagnitudeMultipliesCosineAndSine) {
  RopeSpec spec = {.dims = 8};
  const auto plain = rope_table(spec, 20);
  spec.magnitude = 1.25;
  const auto larger = rope_table(spec, 20);
  ASSERT_EQ(std::ssize(plain->cosine), 20 * 4);
  for (std::size_t i = 0; i < plain->cosine.size(); ++i) {
    EXPECT_EQ(larger->cosine[i], 1.25F * plain->cosine[i]);
    EXPECT_EQ(larger->sine[i], 1.25F * plain->sine[i]);
  }
}

TEST(RopeTable, FourAreKept) {
  const auto ask = [](int number, Index positions) {
    return rope_table({.theta = 50.0 + number, .dims = 4}, positions);
  };
  const auto first = ask(0, 10);
  const auto second = ask(1, 10);
  for (const int number : {0, 2, 0, 3, 0}) ask(number, 10);
  EXPECT_EQ(ask(1, 10), second);
  EXPECT_EQ(ask(0, 7), first);
  const auto longer = ask(0, 11);
  EXPECT_NE(longer, first);
  EXPECT_EQ(longer->positions, 11);
  EXPECT_TRUE(std::equal(first->cosine.begin(), first->cosine.end(), longer->cosine.begin()));
  EXPECT_EQ(ask(0, 10), longer);
  EXPECT_EQ(ask(1, 10), second);
  for (const int number : {4, 5, 6}) ask(number, 10);
  EXPECT_EQ(ask(1, 10), second);
  EXPECT_NE(ask(0, 10), longer);  // the one that was not asked for longest
  EXPECT_EQ(first->positions, 10);
}

TEST(Rotate, InterleavedPairsAreHalvesInAnotherOrder) {
  RopeSpec spec = {.begin = 3, .dims = 22};
  const Matrix x = reference::random_matrix(40, 2 * 27, 1);
  Matrix halves = x, pairs = x;
  const auto place = [](Index h, Index j, bool high) {
    return h * 27 + 3 + 2 * j + (high ? 1 : 0);
  };
  for (Index t = 0; t < 40; ++t)
    for (Index h = 0; h < 2; ++h)
      for (Index j = 0; j < 11; ++j) {
        pairs(t, place(h, j, false)) = x(t, h * 27 + 3 + j);
        pairs(t, place(h, j, true)) = x(t, h * 27 + 3 + 11 + j);
      }
  rotate(*rope_table(spec, 40), 27, halves.view());
  spec.interleaved = true;
  rotate(*rope_table(spec, 40), 27, pairs.view());
  for (Index t = 0; t < 40; ++t)
    for (Index h = 0; h < 2; ++h) {
      for (Index j = 0; j < 11; ++j) {
        EXPECT_EQ(pairs(t, place(h, j, false)), halves(t, h * 27 + 3 + j));
        EXPECT_EQ(pairs(t, place(h, j, true)), halves(t, h * 27 + 3 + 11 + j));
      }
      for (const Index c : {0, 1, 2, 25, 26}) {
        EXPECT_EQ(pairs(t, h * 27 + c), x(t, h * 27 + c));
        EXPECT_EQ(halves(t, h * 27 + c), x(t, h * 27 + c));
      }
    }
}

}  // namespace
}  // namespace aq::runtime
