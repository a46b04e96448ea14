/// Routing-weighted Hessians of whole runs against sums that numpy made in float64 from the inputs
/// that transformers' modules really got (tools/make_fixtures.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "aq/core/log.h"
#include "aq/core/parallel.h"
#include "aq/pipeline/quantize.h"
#include "aq/quant/hessian.h"
#include "io/hdf5.h"
#include "support/mpi_world.h"
#include "support/temporary_directory.h"
#include "test_paths.h"

namespace aq {
namespace {

namespace fs = std::filesystem;

fs::path fixture(const std::string& name) {
  return fs::path(AQ_TEST_DATA) / "models" / name;
}

/// Every Hessian is that of the original model. gate and up of starved experts too.
Recipe original_hessians(double exponent) {
  Recipe recipe = parse_recipe(
      R"({"default": {"wq": "int8"}, "gptq": {"sequential": "none", "refine": 0}})", "test recipe");
  recipe.settings.routing_exponent = exponent;
  recipe.settings.min_tokens = 0;
  return recipe;
}

struct Observed {
  Matrix hessian;
  WeightedSum sum;
};

std::map<std::string, Observed> run(const std::string& model, double exponent,
                                    const fs::path& save) {
  QuantizeOptions options;
  options.model = fixture(model);
  if (fs::exists(options.model / "architecture.json"))
    options.architecture = options.model / "architecture.json";
  options.compute = Compute::fp32;
  options.calibration = fixture(model) / "golden.h5";
  options.recipe = original_hessians(exponent);
  options.save = save;
  options.resume = Resume::never;
  std::map<std::string, Observed> seen;
  options.hessian_observer = [&](const std::string& name, Index columns, const WeightedSum& sum) {
    EXPECT_FALSE(seen.contains(name)) << name;
    seen[name] = {hessian_natural(sum, columns), sum};
  };
  quantize_model(options, test::world());
  return seen;
}

FloatArray read_upper(const hdf5::Object& group) {
  const hdf5::Object dataset = hdf5::open_dataset(group, "upper");
  FloatArray upper(hdf5::shape(dataset).front());
  hdf5::read_dataset(dataset, hdf5::Type::f32, upper.data());
  return upper;
}

/// Largest difference relative to the largest element.
double relative_difference(const Matrix& hessian, const FloatArray& upper) {
  double largest = 0, difference = 0;
  std::size_t at = 0;
  for (Index r = 0; r < hessian.rows; ++r)
    for (Index c = r; c < hessian.columns; ++c, ++at) {
      largest = std::max(largest, std::fabs(static_cast<double>(upper[at])));
      difference = std::max(difference, std::fabs(static_cast<double>(upper[at]) -
                                                  static_cast<double>(hessian(r, c))));
    }
  EXPECT_EQ(at, upper.size());
  return difference / largest;
}

struct Case {
  std::string model, group;
  double exponent;
};

class HessianGolden : public testing::TestWithParam<Case> {};

TEST_P(HessianGolden, EqualsNumpyOnTransformersInputs) {
  set_log_level(LogLevel::error);
  const auto& [model, group_name, exponent] = GetParam();
  const hdf5::Object root = hdf5::open_file(fixture(model) / "golden.h5");
  const hdf5::Object golden = hdf5::open_group(root, group_name);
  const std::vector<std::string> names = hdf5::members(golden);
  ASSERT_FALSE(names.empty());
  const fs::path save = fs::path(testing::TempDir()) /
                        str("aq-hessian-", model, "-", group_name, "-", test::world().size());
  // q, k and v share one Hessian, which is named by q; gate and up by gate.
  const std::map<std::string, Observed> seen = run(model, exponent, save);
  for (const std::string& name : names) {
    const auto mine = seen.find(name);
    std::vector<std::int64_t> count{mine == seen.end() ? 0 : 1};
    test::world().all_reduce_sum(count);
    EXPECT_EQ(count[0], 1) << name << " is summed once, on its owner";
    if (mine == seen.end()) continue;
    const hdf5::Object group = hdf5::open_group(golden, name);
    EXPECT_LT(relative_difference(mine->second.hessian, read_upper(group)), 1e-5) << name;
  }
  test::world().barrier();
  if (test::world().is_first()) fs::remove_all(save);
  test::world().barrier();
}

/// Every group of Hessians of every fixture.
std::vector<Case> cases() {
  const std::map<std::string, double> exponents{
      {"hessians", 1}, {"hessians_p0", 0}, {"hessians_p2", 2}};
  std::vector<Case> all;
  for (const fs::directory_entry& entry : fs::directory_iterator(fixture(""))) {
    if (!entry.is_directory()) continue;
    for (const std::string& member : hdf5::members(hdf5::open_file(entry.path() / "golden.h5")))
      if (const auto found = exponents.find(member); found != exponents.end())
        all.push_back({entry.path().filename().string(), member, found->second});
  }
  std::sort(all.begin(), all.end(), [](const Case& a, const Case& b) {
    return std::tie(a.model, a.group) < std::tie(b.model, b.group);
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(Fixtures, HessianGolden, testing::ValuesIn(cases()), [](const auto& test) {
  return test.param.model + "_" + test.param.group;
});

TEST(HessianGoldenCases, CoverEveryFamilyWithExperts) {
  EXPECT_GE(cases().size(), 20u);
}

}  // namespace
}  // namespace aq
