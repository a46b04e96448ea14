/// A program that must fail: one rank's fatal failure while the others are in a collective call.

#include <gtest/gtest.h>

#include "support/mpi_world.h"

namespace aq {
namespace {

TEST(MpiMain, OneRankFails) {
  ASSERT_FALSE(test::world().is_last()) << "only the last rank says this";
  test::world().barrier();
}

}  // namespace
}  // namespace aq
