#include "quant/cuda/batch.h"

#include "aq/core/parallel.h"
#include "aq/quant/output_factor.h"
#include "quant/cuda/factor.h"
#include "quant/solve_task.h"

namespace aq::cuda {
namespace {

Index batch_rows(const SolveTask& task) {
  return round_up(task.weight.rows, kRowTile);
}

TaskView view_of(const SolveTask& task, const GptqSettings& settings) {
  TaskView view{.factor = {}, .grids = grid_search(task, settings)};
  if (const Factor* factor = usable_factor(task)) view.factor = device_factor(*factor).view();
  if (task.scheme.group_size == kPerTensor) {
    view.fixed_scale = task.tensor_grid.scale;
    view.fixed_zero = task.tensor_grid.zero;
  }
  return view;
}

}  // namespace

Batch::Batch(Accelerator& device, std::span<SolveTask* const> tasks, const GptqSettings& settings)
    : device_(device), tasks_(tasks.begin(), tasks.end()) {
  const SolveTask& task = *tasks_.front();
  const Factor* factor = usable_factor(task);
  const bool ordered = factor != nullptr && !device_factor(*factor).order.empty();
  view_.rows = batch_rows(task);
  view_.columns = task.weight.columns;
  view_.stride = round_up(view_.columns, kBlock);
  view_.group = std::max<Index>(group_width(task.scheme, view_.columns), 1);
  view_.groups = group_count(task.scheme, view_.columns);
  view_.has_factor = factor != nullptr;
  view_.weighs_columns = view_.has_factor && settings.scale_search == ScaleSearch::hessian;
  const bool per_tensor = task.scheme.group_size == kPerTensor;
  if (view_.has_factor && task.refine && !device_factor(*factor).h.parts().empty())
    sweeps_ = settings.refine;
  moves_scales_ = refines() && !task.scheme.is_mx() && !per_tensor;
  const bool wide_rounding = !view_.has_factor && view_.group > kBlock;
  fits_on_the_way_ = !per_tensor && view_.groups > 1 && !ordered && !wide_rounding;
  const Index rows = size() * view_.rows;
  const auto floats = [&](Index count) { return DeviceArray<float>(device_, count); };
  weight_ = floats(rows * view_.stride);
  if (ordered) {
    ordered_ = floats(rows * view_.stride);
    ordered_level_ = {device_, rows * view_.stride};
  }
  // A multiple of 8, so that rows begin where 16 bytes can be read at once.
  view_.run = std::min(
      round_up(std::max(gptq_cut().run, refines() ? refine_cut().run : 0), Index{8}), view_.stride);
  scale_ = floats(rows * view_.groups);
  zero_ = floats(rows * view_.groups);
  level_ = {device_, rows * view_.stride};
  loss_ = {device_, rows};
  error_ = {device_, rows * view_.stride};
  if (view_.has_factor) sums_ = floats(rows * view_.run);
  if (refines()) change_ = {device_, rows * view_.run};
  if (view_.has_factor && fits_on_the_way_ && view_.group > kBlock)
    values_ = floats(rows * view_.group);
  if (moves_scales_ && view_.group > kBlock) images_ = floats(rows * view_.run);
  if (refines() && task.output_factor.rows > 0) output_ = floats(rows * kTile);
  upload(settings);
}

void Batch::upload(const GptqSettings& settings) {
  std::vector<TaskView> views;
  std::vector<PairArray> uppers, hs;
  weight_.clear();
  error_.parts().clear();
  level_.clear();
  loss_.clear();
  const Index step = view_.rows * view_.stride;
  for (Index i = 0; i < size(); ++i) {
    const SolveTask& task = *tasks_[static_cast<std::size_t>(i)];
    views.push_back(view_of(task, settings));
    uppers.push_back(views.back().factor.upper);
    hs.push_back(views.back().factor.h);
    device_.upload(weight_.data() + i * step,
                   static_cast<std::size_t>(view_.stride) * sizeof(float), aim_of(task).data,
                   static_cast<std::size_t>(aim_of(task).stride) * sizeof(float),
                   static_cast<std::size_t>(view_.columns) * sizeof(float), task.weight.rows);
  }
  views_ = {device_, std::span<const TaskView>(views)};
  uppers_ = {device_, std::span<const PairArray>(uppers)};
  hs_ = {device_, std::span<const PairArray>(hs)};
  errors_ = table_of(device_, error_.view(), step, size());
  levels_ = table_of(device_, PairArray{level_.data(), nullptr}, step, size());
  changes_ = table_of(device_, change_.view(), view_.rows * view_.run, size());
  sum_table_ = table_of(device_, sums_.data(), view_.rows * view_.run, size());
  image_table_ = table_of(device_, images_.data(), view_.rows * view_.run, size());
  view_.tasks = views_.data();
  view_.weight = weight_.data();
  view_.error = error_.view();
  view_.level = level_.data();
  view_.scale = scale_.data();
  view_.zero = zero_.data();
  view_.loss = loss_.data();
  view_.sums = sums_.data();
  view_.change = change_.view();
  if (couples()) upload_output();
  if (!has_order()) return;
  ordered_.clear();
  over_rows(OrderColumns{view_, weight_.data(), ordered_.data()});
}

void Batch::upload_output() {
  std::vector<float> blocks(static_cast<std::size_t>(output_.size()));
  float* block = blocks.data();
  for (const SolveTask* task : tasks_)
    for (Index r = 0; r < task->weight.rows; r += kRowTile, block += kRowTile * kRowTile)
      output_block(task->output_factor.slice_rows(r, std::min(kRowTile, task->weight.rows - r)),
                   task->factor->tokens, block);
  device_.upload(output_.data(), output_.bytes(), blocks.data(), output_.bytes(), output_.bytes(),
                 1);
  view_.output = output_.data();
}

BatchView Batch::ordered_view() const {
  BatchView view = view_;
  if (!has_order()) return view;
  view.weight = ordered_.data();
  view.level = ordered_level_.data();
  return view;
}

void Batch::multiply(const DeviceArray<PairArray>& a, Index a_offset, Index a_stride,
                     const DeviceArray<PairArray>& b, Index b_offset, const DeviceArray<float*>& c,
                     Index c_offset, Index width, Index depth, bool add) {
  device_.multiply({size(), view_.rows, width, depth, a.data(), a_offset, a_stride, b.data(),
                    b_offset, view_.stride, c.data(), c_offset, view_.run, add});
}

void Batch::errors_times_upper(Index run_first, Index first, Index width, Index from, Index to) {
  multiply(errors_, from, view_.stride, uppers_, first * view_.stride + from, sum_table_,
           first - run_first, width, to - from, first > run_first);
}

void Batch::errors_times_h(Index first, Index width) {
  multiply(errors_, 0, view_.stride, hs_, first * view_.stride, sum_table_, 0, width, view_.columns,
           false);
}

void Batch::add_changes_times_h(Index run_first, Index first, Index width) {
  multiply(changes_, 0, view_.run, hs_, first * view_.stride + run_first, sum_table_,
           first - run_first, width, first - run_first, true);
}

void Batch::levels_times_h(Index first, Index width) {
  multiply(levels_, first, view_.stride, hs_, first * view_.stride + first, image_table_, 0, width,
           width, false);
}

void Batch::restore_order() {
  if (has_order()) over_rows(RestoreOrder{view_, ordered_level_.data()});
}

void Batch::sample() {
  const Index samples = view_.rows / kErrorRowStride, rows = 2 * samples;
  DeviceArray<float> scale(device_, size() * samples * view_.groups);
  DeviceArray<float> zero(device_, size() * samples * view_.groups);
  DevicePairs sampled(device_, size() * rows * view_.stride);
  DeviceArray<float> products(device_, size() * rows * kRun);
  DeviceArray<double> norms(device_, size() * rows);
  norms.clear();
  with_levels(tasks_.front()->scheme, [&](const auto& levels) {
    device_.launch(SampleRows<std::decay_t<decltype(levels)>>{levels, view_, scale.data(),
                                                              zero.data(), sampled.view(), samples},
                   {samples, size()});
  });
  const auto a = table_of(device_, sampled.view(), rows * view_.stride, size());
  const auto c = table_of(device_, products.data(), rows * kRun, size());
  for (Index first = 0; first < view_.columns; first += kRun) {
    const Index width = std::min(kRun, view_.columns - first);
    device_.multiply({size(), rows, width, first + width, a.data(), 0, view_.stride, uppers_.data(),
                      first * view_.stride, view_.stride, c.data(), 0, kRun});
    device_.launch(AddSquares{products.data(), rows, kRun, width, norms.data()}, {rows, size()});
  }
  const std::vector<double> found = norms.download();
  for (Index i = 0; i < size(); ++i) {
    SolveTask& task = *tasks_[static_cast<std::size_t>(i)];
    for (Index r = 0; r < task.weight.rows; r += kErrorRowStride) {
      const Index at = i * rows + r / kErrorRowStride;
      task.norm[static_cast<std::size_t>(r)] = found[static_cast<std::size_t>(at)];
      task.error_rtn[static_cast<std::size_t>(r)] = found[static_cast<std::size_t>(at + samples)];
    }
  }
}

void Batch::finish() {
  const Scheme& scheme = tasks_.front()->scheme;
  const Index words = words_per_row(scheme.bits, view_.columns), rows = size() * view_.rows;
  DeviceArray<std::uint32_t> codes(device_, rows * words);
  DeviceArray<double> weight_error(device_, rows), weight_norm(device_, rows);
  over_rows(FinishRows{view_, scheme.element, scheme.bits, words, codes.data(), weight_error.data(),
                       weight_norm.data()});
  const auto all_codes = codes.download();
  const auto scales = scale_.download(), zeros = zero_.download();
  const auto loss = loss_.download(), errors = weight_error.download(),
             norms = weight_norm.download();
  const auto copy = [](const auto& from, Index first, Index count, auto& to) {
    std::transform(from.begin() + first, from.begin() + first + count, to.begin(), [](auto value) {
      return static_cast<typename std::decay_t<decltype(to)>::value_type>(value);
    });
  };
  for (Index i = 0; i < size(); ++i) {
    SolveTask& task = *tasks_[static_cast<std::size_t>(i)];
    const Index first = i * view_.rows, count = task.weight.rows;
    copy(all_codes, first * words, count * words, task.result.codes);
    if (scheme.group_size != kPerTensor) {
      copy(scales, first * view_.groups, count * view_.groups, task.result.scales);
      if (!scheme.symmetric)
        copy(zeros, first * view_.groups, count * view_.groups, task.result.zeros);
    }
    if (view_.has_factor) copy(loss, first, count, task.error);
    copy(errors, first, count, task.weight_error);
    copy(norms, first, count, task.weight_norm);
    if (task.target.rows > 0)
      parallel_for(ceil_div(count, kRowTile), [&](Index tile) {
        compare_rows(task, tile * kRowTile, std::min(kRowTile, count - tile * kRowTile));
      });
  }
}

}  // namespace aq::cuda
