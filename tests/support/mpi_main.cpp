/// main of GoogleTest programs that run on several ranks: rank 0 prints the progress, the other
/// ranks print their failures only, and all ranks exit with the same code.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <thread>

#include "support/mpi_world.h"

namespace {

std::unique_ptr<aq::Communicator>& world_slot() {
  static std::unique_ptr<aq::Communicator> communicator;
  return communicator;
}

/// Prints what fails on ranks that are otherwise silent, and ends the job on a fatal failure: the
/// rank left its test in the middle, and others may wait for it for good.
class RankListener final : public testing::EmptyTestEventListener {
 public:
  void OnTestStart(const testing::TestInfo& test) override {
    // Kept here: inside OnTestPartResult GoogleTest holds the lock that asking it would need.
    test_ = std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    aq::Communicator& world = aq::test::world();
    if (!world.is_first()) {
      const char* file = result.file_name() == nullptr ? "unknown file" : result.file_name();
      std::fprintf(stderr, "[rank %d of %d] %s\n%s:%d: Failure\n%s\n", world.rank(), world.size(),
                   test_.c_str(), file, result.line_number(), result.message());
      std::fflush(stderr);
    }
    if (!result.fatally_failed() || world.size() == 1) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));  // let other ranks print theirs
    world.abort(1);
  }

 private:
  std::string test_;
};

int run_all_tests(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  GTEST_FLAG_SET(shuffle, false);  // each rank would shuffle differently
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (!aq::test::world().is_first()) {
    delete listeners.Release(listeners.default_result_printer());
    delete listeners.Release(listeners.default_xml_generator());
  }
  listeners.Append(new RankListener);
  std::int64_t failed = RUN_ALL_TESTS();
  aq::test::world().all_reduce_max({&failed, 1});
  return failed == 0 ? 0 : 1;
}

}  // namespace

aq::Communicator& aq::test::world() {
  return *world_slot();
}

int main(int argc, char** argv) {
  try {
    world_slot() = aq::make_mpi_communicator();
    const int code = run_all_tests(argc, argv);
    world_slot().reset();
    return code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    if (world_slot()) world_slot()->abort(1);
    return 1;
  }
}
