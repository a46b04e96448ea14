#include "aq/io/hessian_file.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "aq/io/matrix_file.h"
#include "expect_error.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using test::expect_input_error;
using test::TemporaryDirectory;

/// Values that only an exact copy keeps.
NamedHessian awkward() {
  return {.name = "a.gate_proj",
          .used_by = {"a.gate_proj", "a.up_proj"},
          .upper = {0x1.fffffep-3F, -0.0F, std::numeric_limits<float>::denorm_min(), 3e38F, -7, 0},
          .weight_sum = 0.1 + 0.2,
          .tokens = (std::int64_t{1} << 53) + 1,
          .starved = "starved_all_tokens"};
}

HessianReader written(const TemporaryDirectory& directory, const NamedHessian& hessian) {
  MatrixWriter writer(directory / "h.h5");
  writer.write_hessian(hessian);
  writer.close();
  return HessianReader(directory / "h.h5");
}

TEST(HessianFile, KeepsEveryBit) {
  const TemporaryDirectory directory;
  const NamedHessian wrote = awkward();
  const HessianReader reader = written(directory, wrote);
  EXPECT_EQ(reader.names(), std::vector<std::string>{wrote.name});
  const NamedHessian read = reader.read(wrote.name, 3);
  ASSERT_EQ(read.upper.size(), wrote.upper.size());
  EXPECT_EQ(std::memcmp(read.upper.data(), wrote.upper.data(), 6 * sizeof(float)), 0);
  for (const NamedHessian& seen : {read, reader.describe(wrote.name)}) {
    EXPECT_EQ(seen.weight_sum, wrote.weight_sum);
    EXPECT_EQ(seen.tokens, wrote.tokens);
    EXPECT_EQ(seen.used_by, wrote.used_by);
    EXPECT_EQ(seen.starved, wrote.starved);
  }
  EXPECT_TRUE(reader.describe(wrote.name).upper.empty());
}

TEST(HessianFile, ASumOverNoToken) {
  const TemporaryDirectory directory;
  const HessianReader reader =
      written(directory, {.name = "b", .used_by = {"b"}, .starved = "starved_rtn"});
  const NamedHessian read = reader.read("b", 1000);
  EXPECT_TRUE(read.upper.empty());
  EXPECT_EQ(read.tokens, 0);
  EXPECT_EQ(read.starved, "starved_rtn");
}

TEST(HessianFile, AnOverflownSumComesBackAsItIs) {
  const TemporaryDirectory directory;
  NamedHessian wrote = awkward();
  wrote.upper[0] = std::numeric_limits<float>::infinity();
  wrote.upper[4] = std::nanf("");
  wrote.weight_sum = std::numeric_limits<double>::infinity();
  const NamedHessian read = written(directory, wrote).read(wrote.name, 3);
  EXPECT_EQ(std::memcmp(read.upper.data(), wrote.upper.data(), 6 * sizeof(float)), 0);
  EXPECT_EQ(read.weight_sum, wrote.weight_sum);
}

TEST(HessianFile, RefusesWhatIsNoSum) {
  const auto refused = [](const std::string& words, const auto& change, Index columns = 3) {
    const TemporaryDirectory directory;
    NamedHessian hessian = awkward();
    change(hessian);
    const HessianReader reader = written(directory, hessian);
    expect_input_error([&] { reader.read(hessian.name, columns); },
                       {"h.h5", "a.gate_proj", words, "--keep-hessians"});
  };
  refused("[1, 1] is -1", [](NamedHessian& h) { h.upper[3] = -1; });
  refused(
      "shape", [](NamedHessian&) {}, 4);
  refused("weight_sum", [](NamedHessian& h) { h.weight_sum = -1; });
  refused("tokens", [](NamedHessian& h) { h.tokens = -1; });
  refused("tokens", [](NamedHessian& h) { h.tokens = 0; });
  refused("used_by", [](NamedHessian& h) { h.used_by = {"a.up_proj"}; });
}

TEST(HessianFile, RefusesOtherFiles) {
  const TemporaryDirectory directory;
  MatrixWriter(directory / "m.h5").close();
  expect_input_error([&] { HessianReader(directory / "m.h5"); }, {"m.h5", "hessians", "missing"});
  expect_input_error([&] { HessianReader(directory / "none.h5"); }, {"none.h5"});
  const HessianReader reader = written(directory, awkward());
  expect_input_error([&] { reader.read("a.up_proj", 3); }, {"h.h5", "a.up_proj", "missing"});
}

}  // namespace
}  // namespace aq
