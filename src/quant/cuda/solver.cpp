#include "quant/cuda/solver.h"

#include <mutex>

#include "quant/cpu/hessian.h"
#include "quant/cuda/accelerator.h"
#include "quant/cuda/factor.h"
#ifdef AQ_WITH_CUDA
#include "quant/cuda/gpu.h"
#endif
#include "quant/cuda/hessian.h"
#include "quant/cuda/solve.h"
#include "quant/target.h"

namespace aq {
namespace {

/// Sums, factors and solutions on a device.
class DeviceSolver final : public Solver {
 public:
  explicit DeviceSolver(cuda::Accelerator& device) : device_(device) {}

  std::string name() const override { return device_.name(); }

  void add_tokens(WeightedSum& sum, MatrixView<const float> x, std::span<const std::int32_t> rows,
                  std::span<const float> weights, double weight_sum) const override {
    Matrix scaled = Matrix::uninitialized(rows.empty() ? x.rows : std::ssize(rows), x.columns);
    gather_scaled_reversed(x, rows, weights, scaled.view());
    const std::lock_guard lock(adding_);
    cuda::accumulate_hessian(device_, sum, scaled.view(), weight_sum);
  }

  void add_cross(WeightedSum& sum, MatrixView<const float> d, MatrixView<const float> x,
                 std::span<const std::int32_t> rows, std::span<const float> weights,
                 double weight_sum) const override {
    const CrossTokens tokens = gather_cross(d, x, rows, weights);
    const std::lock_guard lock(adding_);
    cuda::accumulate_cross(device_, sum, tokens, weight_sum);
  }

  Index tasks_at_once() const override { return device_.tasks_at_once(); }

  void factorize(std::span<FactorTask> tasks, const GptqSettings& settings) const override {
    cuda::factorize(device_, tasks, settings);
  }

  void solve(std::span<SolveTask> tasks, const GptqSettings& settings) const override {
    cuda::solve(device_, tasks, settings);
  }

  FactorHeader header_of(const Factor& factor) const override {
    const FactorFacts& facts = factor;
    FactorHeader header{facts, {}};
    if (!factor.data) return header;
    const cuda::DeviceFactor& f = cuda::device_factor(factor);
    header.sizes = {f.lower.size(), f.h.parts().size(), f.diagonal.size(), f.order.size(),
                    lack_size(factor)};
    return header;
  }

  Factor make_factor(const FactorHeader& header) const override {
    if (!header.facts.usable()) return {header.facts};
    const auto f = std::make_shared<cuda::DeviceFactor>();
    f->stride = round_up(header.facts.columns, cuda::kBlock);
    f->lower = {device_, header.sizes[0]};
    f->upper = {device_, header.sizes[0]};
    f->h =
        header.sizes[1] > 0 ? cuda::DevicePairs(device_, header.sizes[1] / 2) : cuda::DevicePairs();
    f->diagonal = {device_, header.sizes[2]};
    if (header.sizes[3] > 0) f->order = {device_, header.sizes[3]};
    return {header.facts, f, room_for_lack(header)};
  }

  /// They go where messages reach them first.
  std::vector<Buffer> arrays_of(Factor& factor) const override {
    std::vector<Buffer> arrays;
    if (!factor.data) return arrays;
    auto& f = static_cast<cuda::DeviceFactor&>(*factor.data);
    const auto add = [&](auto& array) {
      if (array.empty()) return;
      array.share();
      arrays.push_back(
          host_buffer(std::span(array.data(), static_cast<std::size_t>(array.size()))));
    };
    add(f.lower);
    add(f.upper.parts());
    add(f.h.parts());
    add(f.diagonal);
    add(f.order);
    if (const Buffer lack = lack_buffer(factor); !lack.empty()) arrays.push_back(lack);
    return arrays;
  }

 private:
  cuda::Accelerator& device_;
  mutable std::mutex adding_;  ///< threads add to sums one after the other
};

}  // namespace

const Solver& emulated_solver() {
  static const DeviceSolver solver(cuda::emulated_accelerator());
  return solver;
}

#ifdef AQ_WITH_CUDA
const Solver& solver_on_gpu(int number) {
  static const DeviceSolver solver(cuda::gpu_accelerator(number));
  return solver;
}
#endif

}  // namespace aq
