/// What is written is read back, and short messages are refused.
#include "aq/core/bytes.h"

#include <gtest/gtest.h>

namespace aq {
namespace {

TEST(Bytes, WhatIsWrittenIsRead) {
  ByteWriter out;
  out.value(true);
  out.text("two words");
  out.array(std::vector<float>{1, 2, 3});
  out.values(std::span<const int>(std::vector{4, 5}));
  out.array(std::vector<double>{});
  const std::vector<std::byte> bytes = out.take();
  ByteReader in(bytes);
  EXPECT_TRUE(in.value<bool>());
  EXPECT_EQ(in.text(), "two words");
  EXPECT_EQ(in.array<float>(), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(in.values<int>(2), (std::vector{4, 5}));
  EXPECT_FALSE(in.at_end());
  EXPECT_TRUE(in.array<double>().empty());
  EXPECT_TRUE(in.at_end());
}

TEST(Bytes, ShortMessagesAreRefused) {
  const auto read = [](Index count, std::size_t size) {
    ByteWriter out;
    out.value(count);
    out.values(std::span<const std::byte>(std::vector<std::byte>(size)));
    const std::vector<std::byte> bytes = out.take();
    ByteReader(bytes).array<float>();
  };
  read(2, 8);
  EXPECT_ANY_THROW(read(2, 7));
  EXPECT_ANY_THROW(read(-1, 8));
  EXPECT_ANY_THROW(read(Index{1} << 62, 8));  // the count in bytes would overflow
  EXPECT_ANY_THROW(ByteReader({}).value<char>());
}

}  // namespace
}  // namespace aq
