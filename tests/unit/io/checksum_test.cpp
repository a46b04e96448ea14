/// XXH64 against published values, and what a group's checksum depends on.
#include "io/checksum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "aq/io/file.h"

namespace aq {
namespace {

std::string xxh64_text(std::string_view text, std::uint64_t seed = 0) {
  return hash_text(xxh64(std::as_bytes(std::span(text)), seed));
}

TEST(Checksum, PublishedValues) {
  EXPECT_EQ(xxh64_text(""), "ef46db3751d8e999");
  EXPECT_EQ(xxh64_text("a"), "d24ec4f1a98c6e5b");
  EXPECT_EQ(xxh64_text("abc"), "44bc2cf5ad770999");
  EXPECT_EQ(xxh64_text("Nobody inspects the spammish repetition"), "fbcea83c8a378bf1");
}

TEST(Checksum, EveryLengthAndEveryByteCounts) {
  std::string text(100, '\0');
  std::iota(text.begin(), text.end(), '\1');
  std::vector<std::string> seen;
  for (std::size_t length = 0; length <= text.size(); ++length)
    seen.push_back(xxh64_text(text.substr(0, length)));
  for (char& c : text) {
    c ^= 4;
    seen.push_back(xxh64_text(text));
    c ^= 4;
  }
  seen.push_back(xxh64_text(text, 1));
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end()), seen.end());
}

TEST(Checksum, DependsOnNamesAndTheirOrder) {
  const auto sum = [](std::string_view group, std::string_view first, std::string_view second) {
    Checksum checksum(group);
    checksum.add(first, "value");
    checksum.add(second, "value");
    return checksum.text();
  };
  EXPECT_EQ(sum("w", "a", "b"), sum("w", "a", "b"));
  EXPECT_NE(sum("w", "a", "b"), sum("v", "a", "b"));
  EXPECT_NE(sum("w", "a", "b"), sum("w", "b", "a"));
}

}  // namespace
}  // namespace aq
