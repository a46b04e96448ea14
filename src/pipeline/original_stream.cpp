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

template <class Work>
auto OriginalStream::forward(const Work& work) const {
  return timed(context_.times, Phase::forward, "the original model", work);
}

std::vector<Lack> OriginalStream::attention() {
  if (x_ == nullptr) return {};
  return {input_lack(layer_.attention_input(*x_))};
}

std::vector<Lack> OriginalStream::latents() {
  if (x_ == nullptr) return {};
  latents_ = forward([&] { return layer_.latents(*x_); });
  std::vector<Lack> lacks;
  for (LinearInput& input : layer_.latent_inputs(latents_))
    lacks.push_back(input_lack(std::move(input)));
  return lacks;
}

std::vector<Lack> OriginalStream::output(const Tensor& x) {
  if (x_ == nullptr) return {};
  forward([&] {
    layer_.add_attention_output(layer_.attention_core(*x_, std::move(latents_)), *x_);
    o_ = context_.original.used(layer_.spec.o);
  });
  return {[this, &x](const Tensor& core, Range rows) {
    const Tensor way =
        runtime::difference(std::as_const(*x_).window(rows), std::as_const(x).window(rows));
    return runtime::difference(way, SharedInput(core).multiply(o_));
  }};
}

std::vector<Lack> OriginalStream::router() {
  if (x_ == nullptr) return {};
  o_ = {};
  drift_ = forward([&] { return layer_.mlp_input(*x_); });  // until mlps() it is the norm itself
  return {input_lack({drift_})};
}

const Drift* OriginalStream::mlps(const Tensor& x, const Tensor& normed, const Routing& routing) {
  if (x_ == nullptr) return nullptr;
  const auto zeros = [&] {
    return Tensor::zeros(x.rows(), x.columns(), x.kind(), Storage::offload);
  };
  {
    const Routing there = forward([&] { return layer_.route(drift_); });
    Tensor y = zeros();
    add_experts(drift_, there, y);
    add_to_stream(y, *x_);
  }
  if (!needs_drift(plan_)) return nullptr;
  owed_ = zeros();
  add_experts(normed, routing, owed_);
  forward([&] { find_drift(x, normed, shares(routing, x.rows())); });
  return &found_.emplace(Drift{context_.original, drift_, owed_});
}

void OriginalStream::add_experts(const Tensor& normed, const Routing& routing, Tensor& y) const {
  const DispatchedRun experts = original_experts(context_, plan_);
  layer_.add_experts(layer_.experts(normed, routing), context_.dispatch ? &experts : nullptr,
                     context_.times, y);
}

/// drift_ is the norm there, and owed_ what the original MLPs give here.
void OriginalStream::find_drift(const Tensor& x, const Tensor& normed,
                                const std::vector<float>& shares) {
  runtime::for_each_range(layer_.batch.sequence_rows, [&](Index, Range rows) {
    const auto less = [rows](Tensor from, const Tensor& value) {
      return runtime::difference(from, value.window(rows));
    };
    runtime::copy(less(drift_.window(rows), normed), drift_.window(rows));
    runtime::copy(less(less(x_->window(rows), x), owed_), owed_.window(rows));
    runtime::scale_rows(std::span(shares).subspan(rows.begin, rows.size()), owed_.window(rows));
  });
}

}  // namespace aq
