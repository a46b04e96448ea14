#include "aq/forward/decoder_layer.h"

#include "aq/core/parallel.h"
#include "aq/forward/finite.h"
#include "aq/runtime/pieces.h"
#include "forward/rows.h"

namespace aq {

Matrix RmsNorm::operator()(MatrixView<const float> x) const {
  Matrix normed(x.rows, x.columns);
  runtime::rms_norm(x, weight, eps, normed.view());
  return normed;
}

Matrix DecoderLayer::mlp_input(const Matrix& x) const {
  const RmsNorm norm(model, weights, spec.post_attention_norm);
  Matrix out(x.rows, x.columns);
  parallel_for(batch.sequence_count(), [&](Index sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    runtime::rms_norm(rows_of(x, rows), norm.weight, norm.eps, rows_of(out, rows));
  });
  return out;
}

Routing DecoderLayer::route(const Matrix& normed) const {
  return route_tokens(spec, weights, batch, normed);
}

Routing DecoderLayer::run(Matrix& x, const DispatchedRun* dispatched) const {
  add_attention_output(attention_core(x, latents(x)), x);
  const Matrix normed = mlp_input(x);
  Routing routing = route(normed);
  const ExpertPass pass = experts(normed, routing);
  Matrix y(x.rows, x.columns);
  Index first = 0;
  if (dispatched != nullptr && spec.moe) {
    dispatched->run(pass, y);
    first = spec.moe->routing.experts;
  }
  pass.run({first, std::ssize(routing.experts)}, y);
  add_matrix(y, x);
  return routing;
}

Matrix embed_tokens(const Weights& weights, const Batch& batch) {
  return weights.embeddings(batch.sequences.tokens);
}

void add_matrix(const Matrix& y, Matrix& x) {
  for (Index row = 0; row < x.rows; ++row) {
    const std::span<const float> from = y.view().row(row);
    const std::span<float> to = x.view().row(row);
    for (std::size_t c = 0; c < to.size(); ++c) to[c] += from[c];
    note_finite(ForwardPart::sum, x.view().slice_rows(row, 1));
  }
}

}  // namespace aq
