#include "aq/core/index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace aq {
namespace {

constexpr Index kMost = std::numeric_limits<Index>::max();

template <class Call>
void expect_refused(const Call& call) {
  try {
    call();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_THAT(error.what(), testing::HasSubstr("tensor x"));
  }
}

TEST(CheckedMultiply, IsExactOrAnError) {
  EXPECT_EQ(checked_multiply(0, kMost, "x"), 0);
  EXPECT_EQ(checked_multiply(kMost, 1, "x"), kMost);
  EXPECT_EQ(checked_multiply(3037000499, 3037000499, "x"), 9223372030926249001);
  EXPECT_EQ(checked_multiply(Index{1} << 31, Index{1} << 31, "x"), Index{1} << 62);
  expect_refused([] { checked_multiply(3037000500, 3037000500, "tensor x"); });
  expect_refused([] { checked_multiply(Index{1} << 32, Index{1} << 31, "tensor x"); });
  expect_refused([] { checked_multiply(kMost, 2, "tensor x"); });
  expect_refused([] { checked_multiply(-1, 2, "tensor x"); });
  expect_refused([] { checked_multiply(0, -5, "tensor x"); });
}

TEST(CheckedAdd, IsExactOrAnError) {
  EXPECT_EQ(checked_add(kMost - 1, 1, "x"), kMost);
  EXPECT_EQ(checked_add(0, 0, "x"), 0);
  expect_refused([] { checked_add(kMost, 1, "tensor x"); });
  expect_refused([] { checked_add(1, kMost, "tensor x"); });
}

template <class To, class From>
bool casts(From value) {
  try {
    return checked_cast<To>(value) == static_cast<To>(value);
  } catch (const Error&) {
    return false;
  }
}

TEST(CheckedCast, AroundTheLimitsOfEveryType) {
  for (const int limit : {-32768, -128, 0, 128, 256, 32768, 65536})
    for (int value = limit - 3; value <= limit + 3; ++value) {
      ASSERT_EQ((casts<std::int8_t>(value)), value >= -128 && value <= 127) << value;
      ASSERT_EQ((casts<std::uint8_t>(value)), value >= 0 && value <= 255) << value;
      ASSERT_EQ((casts<std::int16_t>(value)), value >= -32768 && value <= 32767) << value;
      ASSERT_EQ((casts<std::uint16_t>(value)), value >= 0 && value <= 65535) << value;
      ASSERT_EQ((casts<std::size_t>(value)), value >= 0) << value;
      ASSERT_TRUE((casts<Index>(value))) << value;
    }
}

TEST(CheckedCast, Extremes) {
  EXPECT_FALSE((casts<int>(kMost)));
  EXPECT_TRUE((casts<int>(Index{2147483647})));
  EXPECT_FALSE((casts<int>(Index{2147483648})));
  EXPECT_TRUE((casts<std::uint64_t>(kMost)));
  EXPECT_FALSE((casts<Index>(std::numeric_limits<std::uint64_t>::max())));
  EXPECT_FALSE((casts<std::uint64_t>(Index{-1})));
}

TEST(CeilDiv, EverySmallPair) {
  for (Index a = 0; a <= 200; ++a)
    for (Index b = 1; b <= 70; ++b) {
      Index quotient = 0;
      while (quotient * b < a) ++quotient;
      ASSERT_EQ(ceil_div(a, b), quotient);
      ASSERT_EQ(round_up(a, b), quotient * b);
    }
}

}  // namespace
}  // namespace aq
