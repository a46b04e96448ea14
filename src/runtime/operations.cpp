/// Operations over tensors: on the CPU those of pieces.h over their elements.

#include "aq/runtime/operations.h"

#include <algorithm>
#include <functional>

#include "aq/core/error.h"
#include "aq/core/parallel.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {

void for_each_range(std::span<const Range> ranges, const std::function<void(Index, Range)>& chain) {
  parallel_for(std::ssize(ranges), [&](Index i) {
    const Range rows = ranges[i];
    if (rows.size() > 0) chain(i, rows);
  });
}

Tensor embed(const Tensor& table, std::span<const std::int32_t> tokens, Storage storage) {
  Tensor out(std::ssize(tokens), table.columns(), table.kind(), storage);
  embed(table.host(), tokens, out.host());
  return out;
}

void rms_norm(const Tensor& x, std::span<const float> weight, double eps, Tensor out) {
  rms_norm(x.host(), weight, eps, out.host());
}

Tensor rms_norm(const Tensor& x, std::span<const float> weight, double eps,
                std::span<const Range> ranges, Storage storage) {
  Tensor out(x.rows(), x.columns(), x.kind(), storage);
  for_each_range(
      ranges, [&](Index, Range rows) { rms_norm(x.window(rows), weight, eps, out.window(rows)); });
  return out;
}

void attention(const AttentionSpec& spec, const AttentionVectors& vectors, Tensor q, Tensor k,
               Tensor v, Tensor out) {
  attention(spec, vectors, q.host(), k.host(), v.host(), out.host());
}

void attention_gradient(const AttentionSpec& spec, const AttentionVectors& vectors, Tensor q,
                        Tensor k, Tensor v, const Tensor& gradient) {
  attention_gradient(spec, vectors, q.host(), k.host(), v.host(), gradient.host());
}

void expand_latent(const AttentionSpec& spec, const Tensor& kv, const Tensor& rope_key, Tensor& k,
                   Tensor& v) {
  expand_latent(spec, kv.host(), rope_key.host(), k.host(), v.host());
}

void expand_latent_gradient(const AttentionSpec& spec, const Tensor& k, const Tensor& v,
                            Tensor kv) {
  expand_latent_gradient(spec, k.host(), v.host(), kv.host());
}

void gated_activation(const GatedActivation& activation, Tensor& gate, const Tensor& up) {
  gated_activation(activation, gate.host(), up.host());
}

Tensor gather_rows(const Tensor& x, std::span<const std::int32_t> rows) {
  Tensor out(std::ssize(rows), x.columns(), x.kind());
  const MatrixView<const float> from = x.host();
  const MatrixView<float> to = out.host();
  for (Index i = 0; i < to.rows; ++i) std::ranges::copy(from.row(rows[i]), to.row(i).begin());
  return out;
}

void add(const Tensor& y, Tensor x) {
  const MatrixView<const float> from = y.host();
  const MatrixView<float> to = x.host();
  AQ_CHECK(from.rows == to.rows && from.columns == to.columns, "[", from.rows, ", ", from.columns,
           "] to [", to.rows, ", ", to.columns, "]");
  for (Index t = 0; t < to.rows; ++t) add(to.row(t).data(), from.row(t).data(), to.columns);
}

void scale_rows(std::span<const float> factors, Tensor x) {
  const MatrixView<float> to = x.host();
  AQ_CHECK(std::ssize(factors) == to.rows, factors.size(), " factors for ", to.rows, " rows");
  for (Index t = 0; t < to.rows; ++t)
    for (float& value : to.row(t)) value *= factors[static_cast<std::size_t>(t)];
}

Tensor difference(const Tensor& x, const Tensor& y) {
  Tensor out(x.rows(), x.columns(), x.kind());
  const MatrixView<const float> from = x.host(), less = y.host();
  const MatrixView<float> to = out.host();
  AQ_CHECK(from.rows == less.rows && from.columns == less.columns, "[", from.rows, ", ",
           from.columns, "] less [", less.rows, ", ", less.columns, "]");
  for (Index t = 0; t < to.rows; ++t)
    std::ranges::transform(from.row(t), less.row(t), to.row(t).begin(), std::minus<>{});
  return out;
}

void add_weighted(const Tensor& x, std::span<const std::int32_t> rows,
                  std::span<const float> weights, Tensor& y) {
  const MatrixView<const float> from = x.host();
  const MatrixView<float> to = y.host();
  AQ_CHECK(std::ssize(rows) == from.rows && rows.size() == weights.size(), from.rows, " rows to ",
           rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i)
    add_scaled(to.row(rows[i]).data(), weights[i], from.row(static_cast<Index>(i)).data(),
               to.columns);
}

}  // namespace aq::runtime
