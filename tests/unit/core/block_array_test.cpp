#include "aq/core/block_array.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>

#include "aq/core/matrix_view.h"

namespace aq {
namespace {

constexpr std::size_t kFloats = 1 << 20;  // a block of 4 MiB

TEST(BlockArray, ValuesAndClearing) {
  FloatArray kept(kFloats, 3.0F);
  kept.resize(2 * kFloats, 4.0F);
  EXPECT_EQ(kept.front(), 3.0F);
  EXPECT_EQ(kept.back(), 4.0F);
  kept = {};
  FloatArray again;  // of the same pages
  again.assign(2 * kFloats, 0.0F);
  for (const float value : again) ASSERT_EQ(value, 0.0F);
  const Matrix matrix(1024, 1024);
  for (const float value : matrix.values) ASSERT_EQ(value, 0.0F);
}

TEST(BlockArray, EveryBlockIsAligned) {
  for (const std::size_t bytes : {1U, 100U, 131071U, 131072U, 131073U, 5000000U}) {
    void* block = take_block(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % 64, 0U) << bytes;
    std::memset(block, 1, bytes);
    give_block(block, bytes);
  }
}

#ifndef __SANITIZE_ADDRESS__
TEST(BlockArray, KeptBlocksNeverRaiseThePeak) {
  const BlockBytes before = block_bytes();
  EXPECT_EQ(before.used, 0);
  {
    const FloatArray first(kFloats), second(kFloats);
    EXPECT_EQ(block_bytes().used, 2 * kFloats * sizeof(float));
  }
  const BlockBytes after = block_bytes();
  EXPECT_EQ(after.used, 0);
  EXPECT_EQ(after.kept, after.most);
  // Another size is made out of what is kept: the sum of both stays what it was.
  const FloatArray small(kFloats / 3), large(kFloats + kFloats / 3);
  const BlockBytes cut = block_bytes();
  EXPECT_EQ(cut.most, after.most);
  EXPECT_LE(cut.used + cut.kept, cut.most);
}

TEST(BlockArray, KeptBlocksAreLimited) {
  constexpr Index kBytes = kFloats * sizeof(float);
  limit_kept_blocks(0);
  {
    const FloatArray used(kFloats);
    limit_kept_blocks(3 * kBytes);  // more than is in use
    { const FloatArray first(kFloats), second(kFloats), third(kFloats); }
    EXPECT_EQ(block_bytes().most, 4 * kBytes);
    EXPECT_EQ(block_bytes().kept, 3 * kBytes);
    limit_kept_blocks(2 * kBytes);
    EXPECT_EQ(block_bytes().kept, kBytes);
    limit_kept_blocks(0);  // less than is in use
    EXPECT_EQ(block_bytes().kept, 0);
    EXPECT_EQ(block_bytes().most, kBytes);
  }
  EXPECT_EQ(block_bytes().kept, kBytes);
  limit_kept_blocks(-1);
  EXPECT_EQ(block_bytes().kept, 0);
}

/// Arrays of random sizes on several threads keep what is written to them.
TEST(BlockArray, ManyThreads) {
  const auto work = [](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<FloatArray> arrays(8);
    for (int i = 0; i < 300; ++i) {
      FloatArray& array = arrays[random() % arrays.size()];
      if (!array.empty()) {
        ASSERT_EQ(array.front(), array.back());
      }
      array = FloatArray(random() % (kFloats / 2) + 1);
      array.front() = array.back() = static_cast<float>(random() % 1000);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) threads.emplace_back(work, t);
  for (std::thread& thread : threads) thread.join();
  const BlockBytes bytes = block_bytes();
  EXPECT_EQ(bytes.used, 0);
  EXPECT_LE(bytes.kept, bytes.most);
}

TEST(BlockArray, WithoutMemory) {
  EXPECT_THROW(FloatArray(std::size_t{1} << 60), std::bad_alloc);
}
#endif

}  // namespace
}  // namespace aq
