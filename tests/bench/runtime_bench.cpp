/// Speed of the pieces of the forward pass, in fp32 and, where the processor has it, in bf16.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "aq/comm/lanes.h"
#include "aq/core/parallel.h"
#include "aq/runtime/operations.h"
#include "aq/runtime/workspace.h"
#include "bench/bench.h"
#include "runtime/reference.h"

namespace aq::bench {
namespace {

using reference::random_matrix;
using runtime::for_each_range;

double real(Index value) {
  return static_cast<double>(value);
}

/// A piece of `tokens` for each thread, none longer than the pass multiplies at one time.
std::vector<Range> pieces(Index tokens) {
  const Index count = std::max<Index>(thread_count(), ceil_div(tokens, runtime::kProductRows));
  std::vector<Range> ranges;
  for (Index i = 0; i < count; ++i) ranges.push_back(even_share(tokens, count, i));
  return ranges;
}

/// Inputs and output of a piece.
struct Data {
  Tensor x, y, out;
  Matrix start;  ///< where x is changed
};

Trial linear_trial(Index tokens, Index inputs, Index outputs, DType dtype) {
  const auto d = std::make_shared<Data>();
  d->x = Tensor::from(random_matrix(tokens, inputs, 1)).as(dtype);
  d->y = Tensor::from(random_matrix(outputs, inputs, 2)).as(dtype);
  d->out = Tensor(tokens, outputs);
  const auto error = [d] {
    double worst = 0;
    for (const Index row : {Index{0}, d->x.rows() / 2, d->x.rows() - 1}) {
      const Range one{row, row + 1};
      worst = std::max(
          worst, reference::difference(
                     std::as_const(d->out).host().slice_rows(row, 1),
                     reference::linear(reference::to_rows(d->x.window(one).as(DType::f32).host()),
                                       reference::to_rows(d->y.as(DType::f32).host()))));
    }
    return worst;
  };
  return {.work = 2 * real(tokens * inputs) * real(outputs),
          .bound = dtype == DType::bf16 ? Bound::bf16 : Bound::fp32,
          .body =
              [d, ranges = pieces(tokens)] {
                for_each_range(ranges, [&](Index, Range rows) {
                  runtime::linear(d->x.window(rows), d->y, {}, d->out.window(rows));
                });
              },
          .error = error,
          .allowed = dtype == DType::bf16 ? 4e-3 : 1e-5};
}

/// A sequence for each thread; the last query of the first and of the last head is compared.
Trial attention_trial(Index heads, Index tokens, Index head_dim) {
  struct State {
    AttentionSpec spec;
    Matrix start[3], now[3], out;
  };
  const auto s = std::make_shared<State>();
  const Index sequences = thread_count();
  s->spec = reference::plain_attention(heads, heads, head_dim);
  for (unsigned i = 0; i < 3; ++i)
    s->start[i] = random_matrix(sequences * tokens, heads * head_dim, i);
  s->out = Matrix(sequences * tokens, heads * head_dim);
  const auto error = [s, tokens] {
    const AttentionSpec& spec = s->spec;
    const auto rows = [tokens](const Matrix& m) {
      return reference::to_rows(m.view().slice_rows(m.rows - tokens, tokens));
    };
    reference::Rows q = rows(s->start[0]), k = rows(s->start[1]), v = rows(s->start[2]);
    reference::rotate(q, spec.rope, spec.head_dim);
    reference::rotate(k, spec.rope, spec.head_dim);
    reference::Rows expected = rows(s->out);
    for (const Index head : {Index{0}, spec.heads - 1})
      reference::attend(spec, {}, q, k, v, static_cast<std::size_t>(tokens - 1),
                        static_cast<std::size_t>(head), expected);
    return reference::difference(
        std::as_const(s->out).view().slice_rows(s->out.rows - tokens, tokens), expected);
  };
  return {.work = 2 * real(sequences * tokens) * real((tokens + 1) * heads * head_dim),
          .reset = [s] { std::ranges::copy(s->start, s->now); },
          .body =
              [s, sequences, tokens] {
                parallel_for(sequences, [&](Index i) {
                  const auto part = [&](Matrix& m) {
                    return m.view().slice_rows(i * tokens, tokens);
                  };
                  runtime::attention(s->spec, {}, part(s->now[0]), part(s->now[1]), part(s->now[2]),
                                     part(s->out));
                });
              },
          .error = error,
          .allowed = 1e-5};
}

/// x is read, and its norm written.
Trial norm_trial(Index tokens, Index width) {
  constexpr double kEps = 1e-5;
  const auto d = std::make_shared<Data>();
  d->x = Tensor::from(random_matrix(tokens, width, 1));
  d->out = Tensor(tokens, width);
  const auto weight = std::make_shared<Matrix>(random_matrix(1, width, 2));
  return {.work = 2 * sizeof(float) * real(tokens * width),
          .bound = Bound::memory,
          .body =
              [=, ranges = pieces(tokens)] {
                for_each_range(ranges, [&](Index, Range rows) {
                  runtime::rms_norm(d->x.window(rows), weight->values, kEps, d->out.window(rows));
                });
              },
          .error =
              [=] {
                const MatrixView<const float> x = std::as_const(d->x).host();
                return reference::difference(
                    std::as_const(d->out).host(),
                    reference::rms_norm(reference::to_rows(x), weight->values, kEps));
              },
          .allowed = 1e-5};
}

/// Gate and up are read, and gate is written.
Trial activation_trial(Index tokens, Index width) {
  const auto d = std::make_shared<Data>();
  d->start = random_matrix(tokens, width, 1, 4);
  d->x = Tensor::from(d->start);
  d->y = Tensor::from(random_matrix(tokens, width, 2));
  const auto error = [d] {
    const MatrixView<const float> gate = std::as_const(d->x).host();
    const MatrixView<const float> up = std::as_const(d->y).host();
    double worst = 0;
    for (Index t = 0; t < gate.rows; t += 17)
      for (Index c = 0; c < gate.columns; ++c) {
        const double x = d->start(t, c);
        worst = std::max(worst, std::abs(gate(t, c) / (x / (1 + std::exp(-x)) * up(t, c)) - 1));
      }
    return worst;
  };
  return {.work = 3 * sizeof(float) * real(tokens * width),
          .bound = Bound::memory,
          .reset = [d] { std::ranges::copy(d->start.values, d->x.host().data); },
          .body =
              [d, ranges = pieces(tokens)] {
                for_each_range(ranges, [&](Index, Range rows) {
                  Tensor gate = d->x.window(rows);
                  runtime::gated_activation({}, gate, d->y.window(rows));
                });
              },
          .error = error,
          .allowed = 1e-5};
}

/// float32 is read, and bfloat16 written: what comes before a product in bf16.
Trial narrowing_trial(Index tokens, Index width) {
  const auto d = std::make_shared<Data>();
  d->x = Tensor::from(random_matrix(tokens, width, 1));
  d->out = Tensor(tokens, width, {{}, DType::bf16});
  const auto error = [d] {  // the widened value is the nearest multiple of its last bit, or a tie
    const Tensor wide = d->out.as(DType::f32);
    double worst = 0;
    for (Index t = 0; t < d->x.rows(); ++t)
      for (Index c = 0; c < d->x.columns(); ++c) {
        const double x = std::as_const(d->x).host()(t, c);
        const double step = std::ldexp(1, std::ilogb(x) - 7);
        worst = std::max(worst, std::abs(wide.host()(t, c) - std::nearbyint(x / step) * step));
      }
    return worst;
  };
  return {.work = 6 * real(tokens * width),
          .bound = Bound::memory,
          .body =
              [d, ranges = pieces(tokens)] {
                for_each_range(ranges, [&](Index, Range rows) {
                  runtime::copy(d->x.window(rows), d->out.window(rows));
                });
              },
          .error = error};
}

/// A large square product of LibTorch's on each thread.
Load product_load(const Options& options) {
  const Index n = options.small ? 64 : 2048;
  const at::Tensor a = at::ones({n, n}, at::TensorOptions().dtype(at::kBFloat16));
  return {2 * real(n * n) * real(n) * thread_count(), [a] {
            parallel_for(thread_count(), [&](Index) {
              const c10::InferenceMode no_gradients;
              at::get_num_threads();  // hands one thread on to a thread that is new to LibTorch
              at::mm(a, a);
            });
          }};
}

bool has_bf16() {
  return !runtime::bf16_instructions().empty();
}

std::vector<Case> cases(const Options& options) {
  const Index scale = options.small ? 16 : 1;
  const Index width = 2048 / scale, outputs = 1024 / scale;
  std::vector<Case> all;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Index tokens : {512 / scale, 4096 / scale}) {
      if (dtype == DType::bf16 && !has_bf16()) continue;
      all.push_back({str("linear [", tokens, ", ", width, "] x ", outputs, " ",
                         dtype == DType::f32 ? "fp32" : "bf16"),
                     [=] { return linear_trial(tokens, width, outputs, dtype); }});
    }
  const Index length = 2048 / scale, heads = 16 / std::min<Index>(scale, 8);
  const Index tokens = 8192 / scale;
  all.push_back({str("attention ", heads, " x [", length, ", 128]"),
                 [=] { return attention_trial(heads, length, 128); }});
  all.push_back(
      {str("rms_norm [", tokens, ", ", width, "]"), [=] { return norm_trial(tokens, width); }});
  all.push_back({str("activation [", 2 * tokens, ", ", outputs, "]"),
                 [=] { return activation_trial(2 * tokens, outputs); }});
  all.push_back(
      {str("narrow [", tokens, ", ", width, "]"), [=] { return narrowing_trial(tokens, width); }});
  return all;
}

}  // namespace
}  // namespace aq::bench

int main(int argc, char** argv) {
  using namespace aq;
  runtime::initialize();
  bench::Program program{.about = "Speed of the forward pass, beside the peaks of this machine",
                         .cases = bench::cases};
  if (bench::has_bf16())
    program.probes[bench::Bound::bf16].push_back(
        {str("products of LibTorch ", runtime::torch_version()), bench::product_load});
  return bench::run_alone(argc, argv, program);
}
