#include "quant/cuda/factor.h"

#include "quant/cpu/factor.h"
#include "quant/damped_sum.h"

namespace aq::cuda {
namespace {

/// A factor while it is made.
struct Making : FactorFacts {
  FactorTask* task = nullptr;
  std::shared_ptr<DeviceFactor> factor = std::make_shared<DeviceFactor>();
  DeviceArray<float> sum;

  Making(Accelerator& device, FactorTask& of, const FactorFacts& facts,
         const GptqSettings& settings)
      : FactorFacts(facts), task(&of), sum(device, std::span<const float>(of.sum.values)) {
    const Index stride = round_up(columns, kBlock);
    factor->stride = stride;
    factor->lower = {device, stride * stride};
    factor->upper = {device, stride * stride};
    if (settings.refine > 0) factor->h = {device, stride * stride};
    if (settings.act_order == ActOrder::fixed)
      factor->order = {device, std::span<const std::int32_t>(falling_order(
                                   damped_diagonal(of.sum, *this, damping_of(*this, settings))))};
  }

  SumView sum_view(bool ordered) const {
    return {.values = sum.data(),
            .order = ordered ? factor->order.data() : nullptr,
            .scale = static_cast<float>(1 / weight_sum),
            .dead = static_cast<float>(mean_diagonal),
            .added = static_cast<float>(damping * mean_diagonal)};
  }
};
using Batch = std::vector<Making*>;

/// What kernels read of a batch.
struct Tables {
  Index batch, columns, stride;
  DeviceArray<SumView> sums;
  DeviceArray<FactorView> factors;
  DeviceArray<float*> lower;

  Tables(Accelerator& device, const Batch& makings, bool ordered)
      : batch(std::ssize(makings)),
        columns(makings.front()->columns),
        stride(makings.front()->factor->stride) {
    std::vector<SumView> sum_views;
    std::vector<FactorView> views;
    std::vector<float*> lowers;
    for (const Making* making : makings) {
      sum_views.push_back(making->sum_view(ordered));
      views.push_back(making->factor->view());
      lowers.push_back(views.back().lower);
    }
    sums = {device, std::span<const SumView>(sum_views)};
    factors = {device, std::span<const FactorView>(views)};
    lower = {device, std::span<float* const>(lowers)};
  }
};

/// Left-looking at two levels: runs of kRun columns, and blocks in them.
/// @return which are not positive definite
std::vector<int> cholesky(Accelerator& device, const Tables& t) {
  const Index n = t.stride;
  device.launch(FillLower{t.sums.data(), t.factors.data(), t.columns, n}, {n, t.batch});
  const DevicePairs pairs(device, t.batch * n * n);
  const DeviceArray<PairArray> operands = table_of(device, pairs.view(), n * n, t.batch);
  DeviceArray<float> inverses(device, t.batch * kBlock * kBlock);
  DeviceArray<int> failed(device, t.batch);
  failed.clear();
  const auto subtract = [&](Index from, Index to, Index width) {
    // Rows and columns from `to` on, by columns [from, to) of L.
    const Index at = to * n + from;
    device.multiply({t.batch, n - to, width, to - from, operands.data(), at, n, operands.data(), at,
                     n, t.lower.data(), to * n + to, n, true, true});
  };
  for (Index run = 0; run < n; run += kRun) {
    if (run > 0) subtract(0, run, std::min(kRun, n - run));
    for (Index block = run; block < std::min(n, run + kRun); block += kBlock) {
      if (block > run) subtract(run, block, kBlock);
      device.launch(FactorDiagonal{t.factors.data(), inverses.data(), failed.data(), block, n},
                    {1, t.batch});
      device.launch(FactorPanel{t.factors.data(), pairs.view(), inverses.data(), block, n},
                    {(n - block) / kBlock, t.batch});
    }
  }
  return failed.download();
}

/// What row kernels read beside L, of all at once.
void complete(Accelerator& device, const Batch& makings, const GptqSettings& settings) {
  if (makings.empty()) return;
  const Tables t(device, makings, false);
  constexpr Index kSide = FillUpper::kSide;
  device.launch(FillUpper{t.factors.data(), t.stride},
                {t.stride / kSide * (t.stride / kSide), t.batch});
  if (settings.refine > 0)
    device.launch(FillHessian{t.sums.data(), t.factors.data(), t.columns, t.stride},
                  {t.stride, t.batch});
  for (Making* making : makings) {
    making->factor->diagonal = {device, std::span<const float>(damped_diagonal(
                                            making->task->sum, *making, making->damping))};
    const FactorFacts& facts = *making;
    making->task->factor = {facts, making->factor};
  }
}

/// The last rungs of the ladder, which the CPU climbs.
void complete_on_host(Accelerator& device, Making& making, const GptqSettings& settings) {
  Factor host = aq::factorize(making.task->sum, making.columns, settings);
  if (!host.usable()) {
    making.task->factor = std::move(host);
    return;
  }
  const FactorFacts& facts = host;
  static_cast<FactorFacts&>(making) = facts;
  const Matrix upper = factor_upper(host);
  const Index n = making.columns, stride = making.factor->stride;
  std::vector<float> lower(static_cast<std::size_t>(stride * stride));
  for (Index i = 0; i < stride; ++i)
    for (Index j = i; j < stride; ++j)
      lower[(stride - 1 - i) * stride + stride - 1 - j] =
          j < n ? upper(i, j) : (i == j ? 1.0F : 0.0F);
  making.factor->lower = {device, std::span<const float>(lower)};
  complete(device, {&making}, settings);
}

/// Tasks of as many columns: more damping for those that fail, then the CPU.
void climb_ladder(Accelerator& device, std::vector<Making>& makings, const GptqSettings& settings) {
  Batch left;
  for (Making& making : makings) left.push_back(&making);
  double raised = 1;
  for (int step = 0; step <= kDampingSteps && !left.empty(); ++step, raised *= kDampingFactor) {
    for (Making* making : left) {
      making->damping = raised * damping_of(*making, settings);
      making->fallback = step == 0 ? Fallback::none : Fallback::more_damping;
    }
    const std::vector<int> failed =
        cholesky(device, Tables(device, left, settings.act_order == ActOrder::fixed));
    Batch made, still;
    for (std::size_t i = 0; i < left.size(); ++i)
      (failed[i] != 0 ? still : made).push_back(left[i]);
    complete(device, made, settings);
    left = std::move(still);
  }
  for (Making* making : left) complete_on_host(device, *making, settings);
}

}  // namespace

void factorize(Accelerator& device, std::span<FactorTask> tasks, const GptqSettings& settings) {
  for (std::size_t first = 0; first < tasks.size();) {
    std::size_t end = first;
    std::vector<Making> makings;
    for (; end < tasks.size() && tasks[end].columns == tasks[first].columns; ++end) {
      FactorFacts facts;
      const RtnReason reason = examine(tasks[end].sum, tasks[end].columns, facts);
      if (reason == RtnReason::none)
        makings.emplace_back(device, tasks[end], facts, settings);
      else
        tasks[end].factor = not_usable(facts, reason);
    }
    climb_ladder(device, makings, settings);
    for (; first < end; ++first) {
      tasks[first].sum = {};
      take_cross(tasks[first]);
    }
  }
}

WholeFactor whole_factor(const Factor& factor) {
  const DeviceFactor& f = device_factor(factor);
  const std::vector<float> lower = f.lower.download();
  const Index n = factor.columns, last = f.stride - 1;
  WholeFactor whole{Matrix(n, n), {}};
  for (Index i = 0; i < n; ++i)
    for (Index j = i; j < n; ++j) whole.upper(i, j) = lower[(last - i) * f.stride + last - j];
  if (!f.order.empty()) whole.order = f.order.download();
  return whole;
}

}  // namespace aq::cuda
