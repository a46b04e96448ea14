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

}  // namespace

DispatchedRun original_experts(const StageContext& context, const LayerPlan& plan) {
  return {context.transport, context.lanes, plan, [&](std::span<const std::int64_t> tokens) {
            return place_experts(plan, tokens, std::vector<bool>(tokens.size(), false),
                                 context.comm.size());
          }};
}

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
  forward(
      [&] { layer_.add_attention_output(layer_.attention_core(*x_, std::move(latents_)), *x_); });
  if (!plan_.stage(Stage::o).needs_hessian()) return {};
  const auto o = std::make_shared<UsedLinear>(context_.original.used(layer_.spec.o));
  return {[this, &x, o](const Tensor& core, Range rows) {
    const Tensor way =
        runtime::difference(std::as_const(*x_).window(rows), std::as_const(x).window(rows));
    return runtime::difference(way, SharedInput(core).multiply(*o));
  }};
}

std::vector<Lack> OriginalStream::router() {
  if (x_ == nullptr) return {};
  normed_ = forward([&] { return layer_.mlp_input(*x_); });
  return {input_lack({normed_})};
}

const Drift* OriginalStream::mlps(const Tensor& x, const Tensor& normed, const Routing& routing,
                                  std::span<const ExpertCalibration> calibrations) {
  if (x_ == nullptr) return nullptr;
  const auto zeros = [&] {
    return Tensor::zeros(x.rows(), x.columns(), x.kind(), Storage::offload);
  };
  input_lack_ = std::move(normed_);
  {
    const Routing there = forward([&] { return layer_.route(input_lack_); });
    Tensor y = zeros();
    add_experts(input_lack_, there, y);
    add_to_stream(y, *x_);
  }
  if (!needs_drift(plan_)) return nullptr;
  output_lack_ = zeros();
  add_experts(normed, routing, output_lack_);
  const std::vector<float> factors = shares(routing, x.rows(), calibrations);
  const auto subtract = [](const Tensor& from, const Tensor& value, Tensor to) {
    runtime::copy(runtime::difference(from, value), std::move(to));
  };
  forward([&] {
    runtime::for_each_range(layer_.batch.sequence_rows, [&](Index, Range rows) {
      subtract(input_lack_.window(rows), normed.window(rows), input_lack_.window(rows));
      const Tensor way = runtime::difference(x_->window(rows), x.window(rows));
      subtract(way, output_lack_.window(rows), output_lack_.window(rows));
      runtime::scale_rows(std::span(factors).subspan(rows.begin, rows.size()),
                          output_lack_.window(rows));
    });
  });
  return &drift_.emplace(Drift{context_.original, input_lack_, output_lack_});
}

/// 1 / Σ s² of each token, over the MLPs whose down makes up for a part.
std::vector<float> OriginalStream::shares(const Routing& routing, Index tokens,
                                          std::span<const ExpertCalibration> calibrations) const {
  std::vector<float> squares(static_cast<std::size_t>(tokens), 0.0F);
  for (const WavePlan& wave : plan_.waves)
    for (Index e = wave.experts.begin; e < wave.experts.end; ++e) {
      const bool takes = wave.down.tasks[e - wave.experts.begin].needs_hessian &&
                         calibrations[e].tokens == CalibratedOn::routed;
      const TokenList& list = routing.experts[e];
      for (std::size_t i = 0; takes && i < list.rows.size(); ++i)
        squares[list.rows[i]] += list.weights[i] * list.weights[i];
    }
  for (float& square : squares) square = square > 0 ? 1 / square : 0;
  return squares;
}

void OriginalStream::add_experts(const Tensor& normed, const Routing& routing, Tensor& y) const {
  const DispatchedRun experts = original_experts(context_, plan_);
  layer_.add_experts(layer_.experts(normed, routing), context_.dispatch ? &experts : nullptr,
                     context_.times, y);
}

}  // namespace aq
