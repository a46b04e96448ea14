/// What a group's checksum depends on.
#include "io/checksum.h"

#include <gtest/gtest.h>

namespace aq {
namespace {

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
