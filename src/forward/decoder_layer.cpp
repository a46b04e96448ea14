#include "aq/forward/decoder_layer.h"

#include "aq/comm/timed.h"
#include "aq/forward/finite.h"
#include "aq/runtime/operations.h"

namespace aq {

Tensor RmsNorm::operator()(const Tensor& x) const {
  Tensor normed(x.rows(), x.columns(), x.kind());
  runtime::rms_norm(x, weight, eps, normed.window());
  return normed;
}

Tensor RmsNorm::operator()(const Tensor& x, std::span<const Range> ranges) const {
  return runtime::rms_norm(x, weight, eps, ranges, Storage::offload);
}

Tensor LinearInput::rows(Range range) const {
  const Tensor window = x.window(range);
  if (norm) return (*norm)(window);
  return window.kind() == runtime::TensorKind{} ? window.window() : window.as(DType::f32);
}

Tensor DecoderLayer::mlp_input(const Tensor& x) const {
  return RmsNorm(model, weights, spec.post_attention_norm)(x, batch.sequence_rows);
}

Routing DecoderLayer::route(const Tensor& normed) const {
  return route_tokens(spec, weights, batch, normed);
}

Routing DecoderLayer::run(Tensor& x, const DispatchedRun* dispatched) const {
  add_attention_output(attention_core(x, latents(x)), x);
  const Tensor normed = mlp_input(x);
  Routing routing = route(normed);
  Tensor y = Tensor::zeros(x.rows(), x.columns(), x.kind(), Storage::offload);
  PhaseTimes unused;
  add_experts(experts(normed, routing), dispatched, unused, y);
  add_to_stream(y, x);
  return routing;
}

void DecoderLayer::add_experts(const ExpertPass& pass, const DispatchedRun* dispatched,
                               PhaseTimes& times, Tensor& y) const {
  Index first = 0;
  if (dispatched != nullptr && spec.moe) {
    dispatched->run(pass, times, y);
    first = spec.moe->routing.experts;
  }
  timed(times, Phase::forward, "experts", [&] {
    pass.run({first, std::ssize(pass.routing.experts)}, y);
  });
}

Tensor embed_tokens(const Weights& weights, const Batch& batch) {
  return weights.embeddings(batch.sequences.tokens);
}

void add_to_stream(const Tensor& y, Tensor& x) {
  runtime::add(y, x.window());
  note_finite(ForwardPart::sum, x);
}

}  // namespace aq
