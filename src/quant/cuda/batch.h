#pragma once
/// The arrays of tasks that are solved together.

#include "quant/cuda/accelerator.h"

namespace aq::cuda {

/// How the columns of a batch are cut: runs, whose sums over all columns before them are one
/// product, and blocks, of one launch each. By scheme and width alone.
struct Cut {
  Index block, run;

  /// @param group  columns that share a grid, where grids are fitted or moved; else 0
  static Cut of(Index group) {
    if (group <= 0) return {kBlock, kRun};
    if (group > kBlock) return {kBlock, group};
    const Index block = kBlock / group * group;
    return {block, std::max(kRun / block, Index{1}) * block};
  }
};

/// Tasks of equal shape, scheme and kind.
class Batch {
 public:
  Batch(Accelerator& device, std::span<SolveTask* const> tasks, const GptqSettings& settings);

  Accelerator& device() const { return device_; }
  const BatchView& view() const { return view_; }
  Index size() const { return std::ssize(tasks_); }
  bool has_order() const { return !ordered_.empty(); }
  bool refines() const { return sweeps_ > 0; }
  int sweeps() const { return sweeps_; }
  /// Sweeps of a tile's rows together follow, as many.
  bool couples() const { return !output_.empty(); }
  bool moves_scales() const { return moves_scales_; }  ///< in sweeps
  bool fits_on_the_way() const { return fits_on_the_way_; }
  /// In an order of its own every column has the grid of another group.
  Cut gptq_cut() const { return Cut::of(view_.groups > 1 && !has_order() ? view_.group : 0); }
  Cut refine_cut() const { return Cut::of(moves_scales_ || view_.groups > 1 ? view_.group : 0); }

  /// What GPTQ works on: weights and levels in the order of rounding.
  BatchView ordered_view() const;

  /// sums of columns [first, first + width) of a run = columns [from, to) of E times U; added in a
  /// run's later blocks, whose sums have begun.
  void errors_times_upper(Index run_first, Index first, Index width, Index from, Index to);
  /// The same of all E, or (added) of what refining changed in a run, times H.
  void errors_times_h(Index first, Index width);
  void add_changes_times_h(Index run_first, Index first, Index width);
  /// images of a group = its levels times H.
  void levels_times_h(Index first, Index width);

  void clear_sums() { sums_.clear(); }
  float* values() const { return values_.data(); }  ///< `[batch rows, group]`, for wide groups
  float* images() const { return images_.data(); }  ///< `[batch rows, run]`
  /// Columns back in the order in which they are stored.
  void restore_order();
  /// Squared norms of sampled rows times U, and of their round-to-nearest errors.
  void sample();
  /// Codes, grids and figures to the tasks.
  void finish();

 private:
  template <class Kernel>
  void over_rows(const Kernel& kernel) {
    device_.launch(kernel, {view_.rows, size()});
  }
  void upload(const GptqSettings& settings);
  void upload_output();
  void multiply(const DeviceArray<PairArray>& a, Index a_offset, Index a_stride,
                const DeviceArray<PairArray>& b, Index b_offset, const DeviceArray<float*>& c,
                Index c_offset, Index width, Index depth, bool add);

  Accelerator& device_;
  std::vector<SolveTask*> tasks_;
  BatchView view_;
  int sweeps_ = 0;
  bool moves_scales_ = false, fits_on_the_way_ = false;
  DeviceArray<TaskView> views_;
  DeviceArray<float> weight_, ordered_, scale_, zero_, sums_, values_, images_, output_;
  DevicePairs error_, change_;
  DeviceArray<std::uint16_t> level_, ordered_level_;
  DeviceArray<double> loss_;
  DeviceArray<PairArray> errors_, changes_, levels_, uppers_, hs_;
  DeviceArray<float*> sum_table_, image_table_;
};

/// Calls function(levels) with the levels of the batch's element.
template <class Function>
void with_levels(const Scheme& scheme, const Function& function) {
  if (scheme.is_float())
    function(float_levels(scheme.element));
  else
    function(IntegerLevels{grid_rule(scheme).top});
}

}  // namespace aq::cuda
