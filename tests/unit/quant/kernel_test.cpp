#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "aq/quant/output_factor.h"
#include "aq/quant/solver.h"
#include "quant/cpu/aligned_floats.h"
#include "quant/cpu/cholesky.h"
#include "quant/cpu/factor.h"
#include "quant/cpu/tile_kernel.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

std::vector<const TileKernel*> kernels() {
  std::vector<const TileKernel*> all = {&tile_baseline::kernel};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("fma")) all.push_back(&tile_v3::kernel);
  if (__builtin_cpu_supports("avx512bw")) all.push_back(&tile_v4::kernel);
#endif
  return all;
}

/// An output factor of a tile.
std::vector<float> make_block() {
  const Matrix g = make_inputs(100, kRowTile, 5);
  Matrix sum(kRowTile, kRowTile);
  add_outputs(g.view(), 0, sum.view());
  std::vector<float> block(kRowTile * kRowTile);
  output_block(sum.view(), g.rows, block.data());
  return block;
}

/// One tile with one kernel.
struct KernelRun {
  std::vector<std::uint32_t> codes;
  std::vector<float> scales;
  std::vector<double> error, norm, error_rtn;

  KernelRun(const TileKernel& kernel, const Matrix& w, const Factor& factor, const Scheme& scheme) {
    const auto rows = static_cast<std::size_t>(w.rows);
    const Index groups = group_count(scheme, w.columns);
    const Index words = words_per_row(scheme.bits, w.columns);
    codes.resize(rows * static_cast<std::size_t>(words));
    scales.resize(rows * static_cast<std::size_t>(groups));
    error.resize(rows);
    norm.resize(rows);
    error_rtn.resize(rows);
    TileJob job;
    job.weight = w.values.data();
    job.stride = job.columns = w.columns;
    job.rows = w.rows;
    job.strips = cpu_factor(factor).u.data();
    job.h = cpu_factor(factor).h.data();
    job.sweeps = 2;
    job.grids.search = job.refit = true;
    job.grids.rule = grid_rule(scheme);
    job.bits = scheme.bits;
    job.group = job.segment = scheme.group_size;
    job.words = words;
    job.groups = groups;
    job.coupled_sweeps = 2;
    const std::vector<float> block = make_block();
    job.output_factor = block.data();
    AlignedFloats memory;
    job.workspace = memory.take(kernel.workspace_floats(job));
    TileJob rounding = job;
    rounding.strips = nullptr;
    NormJob norms{job, rounding, norm.data(), error_rtn.data()};
    kernel.norms(norms);
    job.codes = codes.data();
    job.scales = scales.data();
    job.error = error.data();
    kernel.solve(job);
  }
};

TEST(Kernel, TheFastestIsChosen) {
  EXPECT_EQ(&tile_kernel(), kernels().back());
}

TEST(Kernel, InstructionSetsAgree) {
  const Matrix x = make_inputs(300, 250, 1);
  const Factor factor = factorize(sum_of(x), 250, GptqSettings{});
  const Matrix w = make_weights(61, 250, 2);
  for (const Index group : {16, 25, 128}) {
    const Scheme scheme{.bits = 4, .group_size = group};
    const KernelRun baseline(tile_baseline::kernel, w, factor, scheme);
    for (const TileKernel* kernel : kernels()) {
      SCOPED_TRACE(kernel->name);
      const KernelRun run(*kernel, w, factor, scheme);
      std::size_t equal = 0;
      for (std::size_t i = 0; i < run.codes.size(); ++i) equal += run.codes[i] == baseline.codes[i];
      EXPECT_GE(equal, run.codes.size() * 99 / 100);  // words of 8 codes; without FMA not all
      for (std::size_t r = 0; r < run.error.size(); ++r) {
        EXPECT_NEAR(run.error[r], baseline.error[r], 0.05 * baseline.error[r]);
        EXPECT_NEAR(run.norm[r], baseline.norm[r], 1e-4 * baseline.norm[r]);
        EXPECT_NEAR(run.error_rtn[r], baseline.error_rtn[r], 1e-4 * baseline.error_rtn[r]);
      }
    }
    if (kernels().size() == 3) {  // both with FMA, every element one chain: the same bits
      const KernelRun v3(tile_v3::kernel, w, factor, scheme);
      const KernelRun v4(tile_v4::kernel, w, factor, scheme);
      EXPECT_EQ(v3.codes, v4.codes);
      EXPECT_EQ(v3.scales, v4.scales);
    }
  }
}

/// Lower triangle of L in parts, element by element.
TEST(Kernel, CholeskyOfEveryInstructionSet) {
  for (const Index n : {1, 31, 32, 130, 300}) {
    const Doubles a = naive_damped(naive_hessian(make_inputs(2 * n, n, 3), {}), 1, 0.01);
    const Doubles upper = naive_upper(a);  // of the reversed matrix L, seen from the other end
    for (const TileKernel* kernel : kernels()) {
      SCOPED_TRACE(str(kernel->name, " ", n));
      const Index lanes = kernel->lanes;
      AlignedFloats memory;
      float* parts = memory.take(parts_size(n, lanes));
      std::fill_n(parts, parts_size(n, lanes), 0.0F);
      const auto at = [&](Index r, Index c) -> float& {
        return parts[part_offset(r / lanes, lanes) + c * lanes + r % lanes];
      };
      for (Index r = 0; r < n; ++r) {
        for (Index c = 0; c <= r; ++c) at(r, c) = static_cast<float>(a(n - 1 - r, n - 1 - c));
      }
      for (Index block = 0; block < n; block += kFactorBlock) {
        ASSERT_TRUE(kernel->factor_diagonal(parts, n, block));
        for (Index row = block + kFactorBlock; row < n; row += kFactorBlock) {
          kernel->factor_below(parts, n, block, row);
        }
      }
      for (Index r = 0; r < n; ++r) {
        for (Index c = 0; c <= r; ++c) {
          const double tolerance = 3e-6 * std::sqrt(a(n - 1 - r, n - 1 - r));
          ASSERT_NEAR(at(r, c), upper(n - 1 - r, n - 1 - c), tolerance) << r << ", " << c;
        }
      }
    }
  }
}

/// One panel, rows and columns that fill no vector.
TEST(Kernel, ProductsOfEveryInstructionSet) {
  const Index n = 77;
  const Index tokens = 19;
  const Matrix x = make_inputs(tokens, n, 4);
  const Doubles expected = naive_hessian(x, {});
  for (const TileKernel* kernel : kernels()) {
    SCOPED_TRACE(kernel->name);
    const Index lanes = kernel->lanes;
    const Index sets = (n + lanes - 1) / lanes;
    AlignedFloats memory;
    float* packed = memory.take(sets * lanes * tokens);
    std::fill_n(packed, sets * lanes * tokens, 0.0F);
    for (Index t = 0; t < tokens; ++t) {
      for (Index c = 0; c < n; ++c) {
        packed[c / lanes * lanes * tokens + t * lanes + c % lanes] = x(t, c);
      }
    }
    Matrix sum(n, n);
    sum(5, 3) = 1000;
    kernel->add_products({packed, tokens, 0, n, 0, 40, sum.values.data()});
    kernel->add_products({packed, tokens, 0, n, 40, n, sum.values.data()});
    sum(5, 3) -= 1000;
    for (Index r = 0; r < n; ++r) {
      for (Index c = 0; c <= r; ++c) {
        const double size = std::sqrt(expected(r, r) * expected(c, c));
        ASSERT_NEAR(sum(r, c), expected(r, c), 1e-6 * size + 1e-4 * (r == 5 && c == 3));
      }
    }
  }
}

TEST(BlasInfo, NamesTheLibraryAndTheKernels) {
  const BlasInfo info = blas_info();
  EXPECT_FALSE(info.library.empty());
  EXPECT_EQ(info.row_kernel, tile_kernel().name);
  use_single_threaded_blas();
}

TEST(BlasInfo, WarnsOfOldKernelsOnly) {
  EXPECT_EQ(blas_warning("Cooperlake", true, true), "");
  EXPECT_EQ(blas_warning("Zen", true, false), "");
  EXPECT_EQ(blas_warning("Prescott", false, false), "");
  EXPECT_NE(blas_warning("Prescott", true, true).find("export OPENBLAS_CORETYPE=SkylakeX"),
            std::string::npos);
  EXPECT_NE(blas_warning("Barcelona", true, false).find("export OPENBLAS_CORETYPE=Haswell"),
            std::string::npos);
}

}  // namespace
}  // namespace aq::test
