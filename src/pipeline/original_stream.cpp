#include "pipeline/original_stream.h"

#include <algorithm>

#include "aq/forward/shared_input.h"
#include "aq/runtime/operations.h"

namespace aq {
namespace {

/// Whether any MLP is quantized by what it lacks.
bool needs_drift(const LayerPlan& plan) {
  return std::ranges::any_of(plan.waves, [](const WavePlan& wave) {
    return wave.gate_up.needs_hessian() || wave.down.needs_hessian();
  });
}

/// 1 / Σ s² over the MLPs of each token.
std::vector<float> shares(const Routing& routing, Index tokens) {
  std::vector<float> squares(static_cast<std::size_t>(tokens), 0.0F);
  for (const TokenList& list : routing.experts)
    for (std::size_t i = 0; i < list.rows.size(); ++i)
      squares[static_cast<std::size_t>(list.rows[i])] += list.weights[i] * list.weights[i];
  for (float& square : squares) square = square > 0 ? 1 / square : 0;
  return squares;
}

}  // namespace

DispatchedRun original_experts(const StageContext& context, const LayerPlan& plan) {
  return {context.transport, context.lanes, plan, [&](std::span<const std::int64_t> tokens) {
            return place_experts(plan, tokens, std::vector<bool>(tokens.size(), false),
                                 context.comm.size());
          }};
}

OriginalStream::OriginalStream(const StageContext& context, const DecoderLayer& own,
                               const LayerPlan& plan, Tensor* x)
    : context_(context),
      plan_(plan),
      layer_{own.model, own.spec, context.original, own.batch},
      x_(x) {}

std::vector<Lack> OriginalStream::attention() {
  if (x_ == nullptr) return {};
  return {input_lack(layer_.attention_input(*x_))};
}

std::vector<Lack> OriginalStream::latents() {
  if (x_ == nullptr) return {};
  latents_ = layer_.latents(*x_);
  std::vector<Lack> lacks;
  for (LinearInput& input : layer_.latent_inputs(latents_))
    lacks.push_back(input_lack(std::move(input)));
  return lacks;
}

std::vector<Lack> OriginalStream::output(const Tensor& x) {
  if (x_ == nullptr) return {};
  layer_.add_attention_output(layer_.attention_core(*x_, std::move(latents_)), *x_);
  o_ = context_.original.used(layer_.spec.o);
  return {[this, &x](const Tensor& core, Range rows) {
    const Tensor way =
        runtime::difference(std::as_const(*x_).window(rows), std::as_const(x).window(rows));
    return runtime::difference(way, SharedInput(core).multiply(o_));
  }};
}

std::vector<Lack> OriginalStream::router() {
  if (x_ == nullptr) return {};
  o_ = {};
  drift_ = layer_.mlp_input(*x_);  // until mlps() it is the norm itself
  return {input_lack({drift_})};
}

const Drift* OriginalStream::mlps(const Tensor& x, const Tensor& normed, const Routing& routing) {
  if (x_ == nullptr) return nullptr;
  const DispatchedRun experts = original_experts(context_, plan_);
  const DispatchedRun* dispatched = context_.dispatch ? &experts : nullptr;
  {
    const Routing own_routing = layer_.route(drift_);
    Tensor y = Tensor::zeros(x.rows(), x.columns(), x.kind(), Storage::offload);
    layer_.add_experts(layer_.experts(drift_, own_routing), dispatched, y);
    add_to_stream(y, *x_);
  }
  if (!needs_drift(plan_)) return nullptr;
  runtime::for_each_range(layer_.batch.sequence_rows, [&](Index, Range rows) {
    runtime::copy(runtime::difference(std::as_const(drift_).window(rows), normed.window(rows)),
                  drift_.window(rows));
  });
  owed_ = owed(x, normed, routing, dispatched);
  return &found_.emplace(Drift{context_.original, drift_, owed_});
}

/// Collective.
Tensor OriginalStream::owed(const Tensor& x, const Tensor& normed, const Routing& routing,
                            const DispatchedRun* dispatched) const {
  Tensor y = Tensor::zeros(x.rows(), x.columns(), x.kind(), Storage::offload);
  layer_.add_experts(layer_.experts(normed, routing), dispatched, y);
  const std::vector<float> factors = shares(routing, x.rows());
  runtime::for_each_range(layer_.batch.sequence_rows, [&](Index, Range rows) {
    const Tensor way = runtime::difference(std::as_const(*x_).window(rows), x.window(rows));
    runtime::copy(runtime::difference(way, std::as_const(y).window(rows)), y.window(rows));
    runtime::scale_rows(std::span(factors).subspan(rows.begin, rows.size()), y.window(rows));
  });
  return y;
}

}  // namespace aq
