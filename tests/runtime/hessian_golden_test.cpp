/// Routing-weighted Hessians of whole runs against sums that numpy made in float64 from the inputs
/// that transformers' modules really got (tools/make_fixtures.py).

#include <gtest/gtest.h>

#include <cmath>

#include "aq/core/log.h"
#include "aq/core/parallel.h"
#include "aq/pipeline/quantize.h"
#include "aq/quant/hessian.h"
#include "io/hdf5.h"
#include "support/mpi_world.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

namespace fs = std::filesystem;

fs::path fixture(const std::string& name) {
  return fs::path(AQ_TEST_DATA) / "models" / name;
}

/// A recipe that quantizes one linear and leaves all others, so that its inputs are the original's.
Recipe only(const std::string& linear, double exponent) {
  Recipe recipe =
      parse_recipe(R"({"default": {"wq": "int8", "skip": true}, "overrides": [{"pattern": ")" +
                       linear + R"(", "skip": false}]})",
                   "test recipe");
  recipe.settings.routing_exponent = exponent;
  recipe.settings.min_tokens = 0;
  return recipe;
}

struct Observed {
  std::string name;
  Matrix hessian;
  WeightedSum sum;
};

std::vector<Observed> run(const std::string& model, const std::string& linear, double exponent,
                          const fs::path& save) {
  QuantizeOptions options;
  options.model = fixture(model);
  options.calibration = fixture(model) / "golden.h5";
  options.recipe = only(linear, exponent);
  options.save = save;
  options.resume = Resume::never;
  std::vector<Observed> seen;
  options.hessian_observer = [&](const std::string& name, Index columns, const WeightedSum& sum) {
    seen.push_back({name, hessian_natural(sum, columns), sum});
  };
  quantize_model(options, test::world());
  return seen;
}

std::vector<float> read_upper(const hdf5::Object& group) {
  const hdf5::Object dataset = hdf5::open_dataset(group, "upper");
  std::vector<float> upper(static_cast<std::size_t>(hdf5::shape(dataset).front()));
  hdf5::read_dataset(dataset, hdf5::Type::f32, upper.data());
  return upper;
}

/// Largest difference relative to the largest element.
double relative_difference(const Matrix& hessian, const std::vector<float>& upper) {
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
  for (const std::string& name : names) {
    // q, k and v share one Hessian, which is named by q; gate and up by gate.
    const std::vector<Observed> seen = run(model, name, exponent, save);
    std::vector<std::int64_t> count{static_cast<std::int64_t>(seen.size())};
    test::world().all_reduce_sum(count);
    EXPECT_EQ(count[0], 1) << name << " is summed once, on its owner";
    for (const Observed& observed : seen) {
      EXPECT_EQ(observed.name, name);
      EXPECT_LT(relative_difference(observed.hessian, read_upper(hdf5::open_group(golden, name))),
                1e-5)
          << name;
    }
  }
  test::world().barrier();
  if (test::world().is_first()) fs::remove_all(save);
  test::world().barrier();
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, HessianGolden,
    testing::Values(Case{"olmoe", "hessians", 1}, Case{"olmoe", "hessians_p0", 0},
                    Case{"olmoe", "hessians_p2", 2}, Case{"mixtral", "hessians", 1},
                    Case{"mixtral", "hessians_p0", 0}, Case{"mixtral", "hessians_p2", 2}),
    [](const auto& test) { return test.param.model + "_" + test.param.group; });

}  // namespace
}  // namespace aq
