#include "aq/core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace aq {
namespace {

class ParallelFor : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_thread_count(GetParam()); }
  void TearDown() override { set_thread_count(1); }
};

TEST_P(ParallelFor, CallsEveryIndexOnce) {
  for (const Index count : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<std::atomic<int>> calls(count);
    parallel_for(count, [&](Index i) { ++calls[i]; });
    for (const auto& number : calls) ASSERT_EQ(number, 1) << count;
  }
}

TEST_P(ParallelFor, NeverUsesMoreThreadsThanAllowed) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  parallel_for(200, [&](Index) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_LE(threads.size(), static_cast<std::size_t>(GetParam()));
}

TEST_P(ParallelFor, NestedCallsRunOnTheCallingThread) {
  std::vector<std::atomic<int>> calls(20 * 30);
  std::atomic<int> elsewhere{0};
  parallel_for(20, [&](Index i) {
    const auto caller = std::this_thread::get_id();
    parallel_for(30, [&](Index j) {
      ++calls[i * 30 + j];
      if (GetParam() > 1 && std::this_thread::get_id() != caller) ++elsewhere;
    });
  });
  for (const auto& number : calls) ASSERT_EQ(number, 1);
  EXPECT_EQ(elsewhere, 0);
}

TEST_P(ParallelFor, AnExceptionComesThroughAndTheNextLoopRuns) {
  for (const Index bad : {0, 13, 99}) {
    std::atomic<int> running{0};
    try {
      parallel_for(100, [&](Index i) {
        ++running;
        if (i == bad) {
          --running;
          throw std::runtime_error("body " + std::to_string(i));
        }
        --running;
      });
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), "body " + std::to_string(bad));
      EXPECT_EQ(running, 0) << "a body was still running";
    }
    std::atomic<int> calls{0};
    parallel_for(50, [&](Index) { ++calls; });
    EXPECT_EQ(calls, 50);
  }
}

TEST_P(ParallelFor, OneOfManyExceptionsComesThrough) {
  EXPECT_THROW(parallel_for(64, [](Index) { throw std::domain_error("all"); }), std::domain_error);
}

TEST_P(ParallelFor, AnExceptionOfANestedLoopComesThrough) {
  const auto body = [](Index i) {
    parallel_for(5, [&](Index j) {
      if (i == 3 && j == 4) throw std::length_error("inner");
    });
  };
  EXPECT_THROW(parallel_for(8, body), std::length_error);
}

INSTANTIATE_TEST_SUITE_P(Threads, ParallelFor, testing::Values(1, 2, 3, 8));

TEST(ThreadCount, IsAtLeastOne) {
  for (const int threads : {0, -4}) {
    set_thread_count(threads);
    EXPECT_EQ(thread_count(), 1);
  }
  set_thread_count(5);
  EXPECT_EQ(thread_count(), 5);
  set_thread_count(1);
}

}  // namespace
}  // namespace aq
