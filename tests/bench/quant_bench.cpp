/// Speed of the solver and of Hessian sums, each verified against slow code and compared with the
/// sgemm speed of this machine in the same run.
///
///   quant_bench [--threads N] [--experts N] [--repeat N]
///
/// One line for people and one JSON line a measurement. Seconds are wall-clock time of the best
/// repetition; `core_seconds` is processor time, which other programs disturb less.

#include <cblas.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>

#include "aq/core/parallel.h"
#include "aq/core/timer.h"
#include "aq/quant/hessian.h"
#include "aq/quant/solver.h"
#include "quant/cpu/factor.h"
#include "quant/cpu/hessian.h"
#include "quant/cpu/solver.h"
#include "unit/quant/reference.h"

namespace aq::test {
namespace {

struct Options {
  int threads = 2;
  int experts = 8;
  int repeat = 3;
  GptqSettings settings = plain_gptq();
};

struct Time {
  double seconds = 1e30;
  double core_seconds = 1e30;  ///< of all threads together
};

Time best_of(int repeat, const std::function<void()>& body) {
  Time best;
  for (int i = 0; i < repeat; ++i) {
    const std::clock_t start = std::clock();
    const Stopwatch watch;
    body();
    best.seconds = std::min(best.seconds, watch.seconds());
    best.core_seconds = std::min(best.core_seconds, static_cast<double>(std::clock() - start) /
                                                        static_cast<double>(CLOCKS_PER_SEC));
  }
  return best;
}

/// Prints a measurement of `count` equal pieces of work of `flops` each.
/// @param sgemm  GF/s of one core
void report(const char* name, const Time& time, double flops, int count, const Options& options,
            double sgemm, bool verified) {
  const double piece = time.seconds / count;
  const double core = time.core_seconds / count;
  const double speed = flops / piece * 1e-9;
  const double core_speed = flops / core * 1e-9;
  std::printf("%-34s %8.2f ms each (%8.2f core ms)  %6.1f GF/s, %5.1f a core: %.2f of sgemm%s\n",
              name, piece * 1e3, core * 1e3, speed, core_speed, core_speed / sgemm,
              verified ? "" : "  WRONG RESULT");
  std::printf(
      "{\"bench\": \"%s\", \"threads\": %d, \"count\": %d, \"seconds\": %.6f, "
      "\"core_seconds\": %.6f, \"gflops\": %.2f, \"core_gflops\": %.2f, "
      "\"sgemm_core_gflops\": %.2f, \"of_sgemm\": %.3f, \"verified\": %s}\n",
      name, options.threads, count, piece, core, speed, core_speed, sgemm, core_speed / sgemm,
      verified ? "true" : "false");
  std::fflush(stdout);
}

/// GF/s of one core in a large sgemm.
double sgemm_speed(int repeat) {
  constexpr int n = 1024;
  const Matrix a = make_weights(n, n, 1);
  const Matrix b = make_weights(n, n, 2);
  Matrix c(n, n);
  const Time time = best_of(repeat + 2, [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a.values.data(), n,
                b.values.data(), n, 0, c.values.data(), n);
  });
  return 2.0 * n * n * n / time.core_seconds * 1e-9;
}

/// Compares some rows with GPTQ as in the paper.
bool verify_rows(const Matrix& w, const WeightedSum& sum, const SolveTask& task) {
  constexpr Index kSample = 8;
  Doubles h(w.columns, w.columns);
  const Matrix natural = hessian_natural(sum, w.columns);
  std::copy(natural.values.begin(), natural.values.end(), h.values.begin());
  const Doubles damped = naive_damped(h, sum.weight_sum, GptqSettings{}.damping);
  const Doubles factor = naive_inverse_factor(damped);
  const std::vector<std::uint8_t> codes = codes_of(task.result);
  Matrix rows(kSample, w.columns);
  for (Index i = 0; i < kSample; ++i) {
    const auto row = w.view().row(i * w.rows / kSample);
    std::copy(row.begin(), row.end(), rows.view().row(i).begin());
  }
  const NaiveResult expected = naive_gptq(rows, factor, task.scheme);
  Index equal = 0;
  for (Index i = 0; i < kSample; ++i) {
    for (Index c = 0; c < w.columns; ++c) {
      const Index at = i * w.rows / kSample * w.columns + c;
      equal += codes[at] == expected.codes[i * w.columns + c];
    }
  }
  const double share = static_cast<double>(equal) / static_cast<double>(kSample * w.columns);
  std::printf("%.3f %% of the codes of %d rows as in the paper\n", 100 * share,
              static_cast<int>(kSample));
  return share > 0.998;
}

/// The defaults, scale search and refinement, against plain GPTQ: time, and the error that is left.
void bench_refinement(const Matrix& w, const WeightedSum& sum, const Scheme& scheme,
                      const SolveTask& plain, const Options& options, double sgemm) {
  const auto total = [](const SolveTask& task) {
    double error = 0;
    for (const double row : task.error) error += row;
    return error;
  };
  const auto n = static_cast<double>(w.columns);
  const auto rows = static_cast<double>(w.rows);
  for (const int sweeps : {0, 1, 2, 4}) {
    GptqSettings settings;
    settings.refine = sweeps;
    const Factor factor = factorize(sum, w.columns, settings);
    SolveTask task{.weight = w.view(), .scheme = scheme, .factor = &factor};
    const Time time = best_of(options.repeat, [&] { solve({&task, 1}, settings); });
    report(str("search, ", sweeps, " sweeps [", w.rows, ", ", w.columns, "]").c_str(), time,
           rows * n * n * (1 + 2 * sweeps), 1, options, sgemm, total(task) < total(plain));
    std::printf("error %.4f of plain GPTQ's\n", total(task) / total(plain));
  }
}

/// Factor and solution of `experts` matrices of one shape, one expert a thread where that fits.
void bench_solver(Index rows, Index columns, const Scheme& scheme, const Options& options,
                  double sgemm) {
  const auto count = static_cast<std::size_t>(options.experts);
  const WeightedSum sum = sum_of(make_inputs(2 * columns, columns, 1));
  const Matrix w = make_weights(rows, columns, 2);
  std::vector<Factor> factors(count);
  std::vector<SolveTask> tasks(count);
  const auto factor_all = [&] {
    parallel_for(options.experts,
                 [&](Index e) { factors[e] = factorize(sum, columns, options.settings); });
  };
  const auto solve_all = [&] {
    for (std::size_t e = 0; e < count; ++e) {
      tasks[e] = SolveTask{.weight = w.view(), .scheme = scheme, .factor = &factors[e]};
    }
    solve(tasks, options.settings);
  };
  factor_all();
  solve_all();
  bool verified = verify_rows(w, sum, tasks[0]);
  for (const SolveTask& task : tasks) verified = verified && task.result == tasks[0].result;

  const auto n = static_cast<double>(columns);
  const double factor_flops = n * n * n / 3;
  const double solve_flops = static_cast<double>(rows) * n * n;
  const std::string shape = str("[", rows, ", ", columns, "] ", to_string(scheme));
  report(str("factor ", columns).c_str(), best_of(options.repeat, factor_all), factor_flops,
         options.experts, options, sgemm, verified);
  report(str("solve ", shape).c_str(), best_of(options.repeat, solve_all), solve_flops,
         options.experts, options, sgemm, verified);
  const Time both = best_of(options.repeat, [&] {
    factor_all();
    solve_all();
  });
  report(str("factor + solve ", shape).c_str(), both, factor_flops + solve_flops, options.experts,
         options, sgemm, verified);
  bench_refinement(w, sum, scheme, tasks.front(), options, sgemm);
  const Time rtn = best_of(options.repeat, [&] { round_to_nearest(w.view(), scheme); });
  report(str("round to nearest ", shape).c_str(), rtn, static_cast<double>(rows) * n, 1, options,
         sgemm, true);
}

void bench_hessian(Index tokens, Index columns, const Options& options, double sgemm) {
  const Matrix x = make_inputs(tokens, columns, 3);
  const std::vector<float> weights(tokens, 0.5F);
  Matrix scaled(tokens, columns);
  const Time gather = best_of(
      options.repeat, [&] { gather_scaled_reversed(x.view(), {}, weights, scaled.view()); });
  WeightedSum sum;
  accumulate_hessian(sum, scaled.view(), 1, true);
  double worst = 0;
  const Matrix natural = hessian_natural(sum, columns);
  for (Index r = 0; r < columns; r += 211) {
    for (Index c = 0; c < columns; c += 97) {
      double expected = 0;
      double size = 0;
      for (Index t = 0; t < tokens; ++t) {
        const double product = 0.5 * static_cast<double>(x(t, r)) * static_cast<double>(x(t, c));
        expected += product;
        size += std::fabs(product);
      }
      worst = std::max(worst, std::fabs(natural(r, c) - expected) / size);
    }
  }
  const double flops = static_cast<double>(tokens * columns) * static_cast<double>(columns);
  const Time time =
      best_of(options.repeat, [&] { accumulate_hessian(sum, scaled.view(), 1, true); });
  const std::string shape = str("[", tokens, ", ", columns, "]");
  report(str("Hessian ", shape).c_str(), time, flops, 1, options, sgemm, worst < 1e-5);
  report(str("gather ", shape).c_str(), gather, static_cast<double>(tokens * columns), 1, options,
         sgemm, true);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    int value = 0;
    std::from_chars(argv[i + 1], argv[i + 1] + std::strlen(argv[i + 1]), value);
    if (std::strcmp(argv[i], "--threads") == 0) options.threads = value;
    if (std::strcmp(argv[i], "--experts") == 0) options.experts = value;
    if (std::strcmp(argv[i], "--repeat") == 0) options.repeat = value;
  }
  return options;
}

}  // namespace
}  // namespace aq::test

int main(int argc, char** argv) {
  using namespace aq;
  using namespace aq::test;
  const Options options = parse(argc, argv);
  use_single_threaded_blas();
  set_thread_count(options.threads);
  const BlasInfo info = blas_info();
  const double sgemm = sgemm_speed(options.repeat);
  std::printf("%s %s, row kernel %s, %d threads, sgemm %.1f GF/s a core\n", info.library.c_str(),
              info.kernel.c_str(), info.row_kernel.c_str(), options.threads, sgemm);
  bench_hessian(4096, 2048, options, sgemm);
  bench_solver(1024, 2048, Scheme{}, options, sgemm);
  bench_solver(2048, 1024, Scheme{}, options, sgemm);
  return 0;
}
