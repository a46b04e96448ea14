/// The hashes against published values.
#include "aq/core/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace aq {
namespace {

std::string xxh64_text(std::string_view text, std::uint64_t seed = 0) {
  return hash_text(xxh64(text, seed));
}

TEST(Hash, PublishedValues) {
  EXPECT_EQ(xxh64_text(""), "ef46db3751d8e999");
  EXPECT_EQ(xxh64_text("a"), "d24ec4f1a98c6e5b");
  EXPECT_EQ(xxh64_text("abc"), "44bc2cf5ad770999");
  EXPECT_EQ(xxh64_text("Nobody inspects the spammish repetition"), "fbcea83c8a378bf1");
}

TEST(Hash, EveryLengthAndEveryByteCounts) {
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

TEST(Hash, Fnv1a) {  // vectors of the reference: http://www.isthe.com/chongo/tech/comp/fnv
  EXPECT_EQ(hash_text(fnv1a("")), "cbf29ce484222325");
  EXPECT_EQ(hash_text(fnv1a("a")), "af63dc4c8601ec8c");
  EXPECT_EQ(hash_text(fnv1a("foobar")), "85944171f73967e8");
  EXPECT_EQ(fnv1a("bar", fnv1a("foo")), fnv1a("foobar"));
}

}  // namespace
}  // namespace aq
