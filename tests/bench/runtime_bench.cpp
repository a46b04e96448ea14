/// Speed of the forward pieces: independent blocks over one and two threads, the bits compared
/// between the two and samples compared with double precision. Processor time tells what wall time
/// cannot on a machine with other work.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/core/timer.h"
#include "aq/runtime/pieces.h"
#include "runtime/reference.h"

namespace {

using aq::Index;
using aq::Matrix;
using aq::MatrixView;

struct Case {
  std::string name;
  Index blocks = 0;
  double work = 0;                  ///< of all blocks, in `unit`
  std::string unit;                 ///< "GF" or "GB"
  std::function<void()> reset;      ///< before every repetition, not timed
  std::function<void(Index)> body;  ///< computes one block
  std::function<aq::FloatArray()> result;
  std::function<double()> error;  ///< of samples, relative
};

/// The best of several repetitions.
struct Timing {
  double seconds = std::numeric_limits<double>::infinity();
  double processor = std::numeric_limits<double>::infinity();  ///< seconds of all threads
};

/// Processor time of the calling thread.
double thread_seconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

Timing measure(const Case& c, int threads) {
  aq::set_thread_count(threads);
  Timing best;
  for (int repetition = 0; repetition < 7; ++repetition) {
    if (c.reset) c.reset();
    std::atomic<double> processor = 0;
    const aq::Stopwatch watch;
    aq::parallel_for(c.blocks, [&](Index block) {
      const double start = thread_seconds();
      c.body(block);
      processor += thread_seconds() - start;
    });
    best.seconds = std::min(best.seconds, watch.seconds());
    best.processor = std::min(best.processor, processor.load());
  }
  return best;
}

void print_line(const Case& c, int threads, const Timing& t) {
  std::printf("%-40s %d threads %8.3f ms %6.1f %s/s  (%8.3f ms of processor time)\n",
              c.name.c_str(), threads, t.seconds * 1e3, c.work / t.seconds, c.unit.c_str(),
              t.processor * 1e3);
}

bool run(const Case& c) {
  const Timing one = measure(c, 1);
  const double error = c.error();
  const aq::FloatArray expected = c.result();
  const Timing two = measure(c, 2);
  const bool verified = error < 1e-5 && c.result() == expected;
  print_line(c, 1, one);
  print_line(c, 2, two);
  std::printf("%-40s x%.2f with 2 threads, error %.1e, %s\n", "", one.seconds / two.seconds, error,
              verified ? "verified" : "WRONG");
  std::printf(
      "{\"bench\":\"%s\",\"unit\":\"%s\",\"work\":%.6g,\"threads\":[1,2],"
      "\"seconds\":[%.6g,%.6g],\"processor_seconds\":[%.6g,%.6g],\"error\":%.3g,\"verified\":%s}\n",
      c.name.c_str(), c.unit.c_str(), c.work, one.seconds, two.seconds, one.processor,
      two.processor, error, verified ? "true" : "false");
  return verified;
}

/// Blocks of `tokens` / `blocks` tokens through one weight [outputs, inputs].
Case linear_case(Index tokens, Index inputs, Index outputs, Index blocks) {
  static Matrix x, weight, out;
  x = aq::reference::random_matrix(tokens, inputs, 1);
  weight = aq::reference::random_matrix(outputs, inputs, 2);
  out = Matrix(tokens, outputs);
  const Index rows = tokens / blocks;
  return {.name = aq::str("linear ", tokens, "x", inputs, "x", outputs, " by ", rows),
          .blocks = blocks,
          .work = 2e-9 * static_cast<double>(tokens * inputs * outputs),
          .unit = "GF",
          .reset = {},
          .body =
              [rows](Index b) {
                aq::runtime::linear(x.view().slice_rows(b * rows, rows), weight.view(),
                                    out.view().slice_rows(b * rows, rows));
              },
          .result = [] { return out.values; },
          .error =
              [tokens] {
                const Index first = tokens - 3;
                return aq::reference::difference(
                    out.view().slice_rows(first, 3),
                    aq::reference::linear(aq::reference::to_rows(x.view().slice_rows(first, 3)),
                                          aq::reference::to_rows(weight.view())));
              }};
}

/// Two sequences of `tokens`; the last query of the first and of the last head is checked.
Case attention_case(Index heads, Index tokens, Index head_dim) {
  static aq::AttentionSpec spec;
  static Matrix start[3], q, k, v, out;
  spec = aq::reference::plain_attention(heads, heads, head_dim);
  constexpr Index sequences = 2;
  for (unsigned i = 0; i < 3; ++i)
    start[i] = aq::reference::random_matrix(sequences * tokens, heads * head_dim, i);
  out = Matrix(sequences * tokens, heads * head_dim);
  const auto error = [tokens] {
    auto rows = [tokens](Matrix& m) {
      return aq::reference::to_rows(MatrixView<const float>(m.view()).slice_rows(0, tokens));
    };
    aq::reference::Rows ref_q = rows(start[0]), ref_k = rows(start[1]), ref_v = rows(start[2]);
    aq::reference::rotate(ref_q, spec.rope, spec.head_dim);
    aq::reference::rotate(ref_k, spec.rope, spec.head_dim);
    aq::reference::Rows expected = rows(out);
    for (const Index head : {Index{0}, spec.heads - 1})
      aq::reference::attend(spec, {}, ref_q, ref_k, ref_v, static_cast<std::size_t>(tokens - 1),
                            static_cast<std::size_t>(head), expected);
    return aq::reference::difference(MatrixView<const float>(out.view()).slice_rows(0, tokens),
                                     expected);
  };
  const auto t = static_cast<double>(tokens);
  return {.name = aq::str("attention ", heads, " heads x ", tokens, " x ", head_dim, ", 2 seq."),
          .blocks = sequences,
          .work = 2e-9 * sequences * t * (t + 1) * static_cast<double>(heads * head_dim),
          .unit = "GF",
          .reset =
              [] {
                q = start[0];
                k = start[1];
                v = start[2];
              },
          .body =
              [tokens](Index s) {
                const auto part = [&](Matrix& m) {
                  return m.view().slice_rows(s * tokens, tokens);
                };
                aq::runtime::attention(spec, {}, part(q), part(k), part(v), part(out));
              },
          .result = [] { return out.values; },
          .error = error};
}

Case silu_case(Index tokens, Index width, Index blocks) {
  static Matrix start, gate, up;
  start = aq::reference::random_matrix(tokens, width, 1, 4);
  up = aq::reference::random_matrix(tokens, width, 2);
  const Index rows = tokens / blocks;
  const auto error = [] {
    double worst = 0;
    for (std::size_t i = 0; i < gate.values.size(); i += 17) {
      const double x = start.values[i];
      const double expected = x / (1 + std::exp(-x)) * up.values[i];
      worst = std::max(worst, std::abs(gate.values[i] / expected - 1));
    }
    return worst;
  };
  return {.name = aq::str("gated_activation ", tokens, "x", width),
          .blocks = blocks,
          .work = 12e-9 * static_cast<double>(tokens * width),
          .unit = "GB",
          .reset = [] { gate = start; },
          .body =
              [rows](Index b) {
                aq::runtime::gated_activation({}, gate.view().slice_rows(b * rows, rows),
                                              up.view().slice_rows(b * rows, rows));
              },
          .result = [] { return gate.values; },
          .error = error};
}

Case norm_case(Index tokens, Index width, Index blocks) {
  static Matrix x, weight, out;
  x = aq::reference::random_matrix(tokens, width, 1);
  weight = aq::reference::random_matrix(1, width, 2);
  out = Matrix(tokens, width);
  const Index rows = tokens / blocks;
  return {.name = aq::str("rms_norm ", tokens, "x", width),
          .blocks = blocks,
          .work = 8e-9 * static_cast<double>(tokens * width),
          .unit = "GB",
          .reset = {},
          .body =
              [rows](Index b) {
                aq::runtime::rms_norm(x.view().slice_rows(b * rows, rows), weight.values, 1e-5,
                                      out.view().slice_rows(b * rows, rows));
              },
          .result = [] { return out.values; },
          .error =
              [] {
                return aq::reference::difference(
                    out.view(),
                    aq::reference::rms_norm(aq::reference::to_rows(x.view()), weight.values, 1e-5));
              }};
}

}  // namespace

int main() {
  aq::runtime::initialize();
  std::printf("LibTorch %s\n", aq::runtime::torch_version().c_str());
  bool good = run(linear_case(4096, 2048, 1024, 8));
  good &= run(linear_case(128, 2048, 1024, 2));
  good &= run(attention_case(16, 2048, 128));
  good &= run(silu_case(4096, 1024, 8));
  good &= run(norm_case(4096, 2048, 8));
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
