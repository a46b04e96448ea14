#include <gtest/gtest.h>

#include "aq/quant/solver.h"
#include "quant/cpu/tile_kernel.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

std::vector<const TileKernel*> kernels() {
  std::vector<const TileKernel*> all = {&tile_baseline::kernel};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v3")) all.push_back(&tile_v3::kernel);
  if (__builtin_cpu_supports("x86-64-v4")) all.push_back(&tile_v4::kernel);
#endif
  return all;
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
    Matrix space(1, tile_workspace(w.columns, 128, scheme.group_size, kRowTile) + 16);
    TileJob job;
    job.weight = w.values.data();
    job.stride = job.columns = w.columns;
    job.rows = w.rows;
    job.strips = factor.u.data();
    job.rule = grid_rule(scheme);
    job.bits = scheme.bits;
    job.segment = scheme.group_size;
    job.words = words;
    job.groups = groups;
    const auto address = reinterpret_cast<std::uintptr_t>(space.values.data());
    job.workspace = space.values.data() + (64 - address % 64) % 64 / sizeof(float);
    NormJob norms{job, norm.data(), error_rtn.data()};
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
