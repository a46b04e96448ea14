#include "aq/eval/variants.h"

#include <algorithm>
#include <map>
#include <span>

#include "aq/comm/stop.h"
#include "aq/comm/watchdog.h"
#include "aq/core/log.h"
#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/core/timer.h"
#include "aq/forward/finite.h"
#include "aq/io/compare_ranks.h"
#include "aq/io/quantized_run.h"
#include "aq/io/run_directory.h"
#include "aq/run/node_memory.h"
#include "aq/runtime/operations.h"
#include "eval/head_sums.h"

namespace aq {
namespace {

/// A layer that runs holds about so many times what it reads: norms, heads, outputs of experts.
constexpr Index kLayerShare = 12;
/// Variants of a pass at most: what was measured before a job ends is not lost.
constexpr Index kMostAtOnce = 64;

/// The same tokens `copies` times, as further lanes: what a lane computes does not depend on
/// others.
Batch repeated(const Batch& batch, Index copies) {
  Batch all = batch;
  for (Index copy = 1; copy < copies; ++copy) {
    const Index sequences = copy * batch.sequence_count(), rows = copy * batch.rows();
    all.sequences.tokens.insert(all.sequences.tokens.end(), batch.sequences.tokens.begin(),
                                batch.sequences.tokens.end());
    all.sequences.lengths.insert(all.sequences.lengths.end(), batch.sequences.lengths.begin(),
                                 batch.sequences.lengths.end());
    for (const Range& lane : batch.lane_sequences)
      all.lane_sequences.push_back({lane.begin + sequences, lane.end + sequences});
    for (const Range& sequence : batch.sequence_rows)
      all.sequence_rows.push_back({sequence.begin + rows, sequence.end + rows});
  }
  return all;
}

/// A variant on its way through the layers.
struct Runner {
  Index number = 0;           ///< of the variant
  std::vector<bool> takes;    ///< by LinearSpec::id
  std::vector<Index> layers;  ///< in which it has matrices, ascending; the head is behind all

  bool changes(Index layer) const { return std::ranges::binary_search(layers, layer); }
};

Runner make_runner(const Model& model, const Variant& variant, Index number) {
  const std::vector<const LinearSpec*> linears = all_linears(model);
  Runner runner{number, std::vector<bool>(linears.size()), {}};
  const auto layers = std::ssize(model.layers);
  for (const Index id : variant.linears) {
    runner.takes.at(id) = true;
    const Index layer = linears[id]->layer;
    runner.layers.push_back(layer < 0 ? layers : layer);
  }
  std::ranges::sort(runner.layers);
  runner.layers.erase(std::unique(runner.layers.begin(), runner.layers.end()), runner.layers.end());
  return runner;
}

/// Some variants beside the original, over this rank's windows.
class Pass {
 public:
  /// @param runners  by ascending first layer
  Pass(const Inputs& inputs, std::span<const Runner> runners,
       const std::vector<const MatrixReader*>& files)
      : inputs_(inputs),
        runners_(runners),
        files_(files),
        original_(inputs.files),
        rows_(inputs.batch.rows()),
        states_(rows_ * (std::ssize(runners) + 1), inputs.files.model.hidden) {
    runtime::copy(original_.embed(inputs.batch), state(0));
  }

  /// Collective.
  void run_layers(const std::string& name, Communicator& comm) {
    const auto layers = std::ssize(inputs_.files.model.layers);
    for (const LayerSpec& layer : inputs_.files.model.layers) {
      set_work_place(str(name, ", layer ", layer.index + 1, "/", layers));
      run_layer(layer);
      check_finite(comm, layer);
      stop_if_asked("measure variants", comm);
    }
  }

  /// KL summed by window, of each runner. Collective.
  std::vector<std::vector<double>> distances(Communicator& comm) {
    const Batch& batch = inputs_.batch;
    std::vector<WindowSums> sums(runners_.size(), WindowSums(inputs_.windows.count()));
    if (rows_ > 0) {
      const auto head = original_.head();
      std::vector<std::function<Tensor(const Tensor&)>> heads;
      for (const Runner& runner : runners_)
        heads.push_back(runner.changes(std::ssize(inputs_.files.model.layers))
                            ? model_of(runner).head()
                            : head);
      runtime::for_each_range(batch.sequence_rows, [&](Index sequence, Range rows) {
        const Tensor expected = head(state(0).window(rows));
        note_finite(ForwardPart::head, expected);
        for (std::size_t i = 0; i < runners_.size(); ++i) {
          const Tensor logits = heads[i](final_state(i).window(rows));
          note_finite(ForwardPart::head, logits);
          sums[i].add_distances(inputs_.first_window + sequence, expected, logits, rows.size() - 1);
        }
      });
    }
    check_finite(comm, inputs_.files.model.head);
    std::vector<std::vector<double>> all;
    for (WindowSums& one : sums) {
      gather_windows(one.kl, comm);
      all.push_back(std::move(one.kl));
    }
    return all;
  }

 private:
  /// The original's for 0, then those of the runners.
  Tensor state(Index number) const {
    return states_.window({number * rows_, (number + 1) * rows_});
  }
  Tensor final_state(std::size_t runner) const {
    const Index own = static_cast<Index>(runner) + 1;
    return state(own < begun_ ? own : 0);
  }

  ScoredModel model_of(const Runner& runner) const {
    return ScoredModel(inputs_.files, [&](const LinearSpec& linear) {
      return runner.takes[linear.id] ? files_[runner.number] : nullptr;
    });
  }

  /// Those that have matrices of their own here run by themselves, all others together.
  void run_layer(const LayerSpec& layer) {
    for (; begun_ <= std::ssize(runners_) && runners_[begun_ - 1].changes(layer.index); ++begun_)
      runtime::copy(state(0), state(begun_));
    Index first = 0;  // of those that wait to be run together
    const auto run_together = [&](Index end) {
      if (first == end) return;
      Tensor x = states_.window({first * rows_, end * rows_});
      original_.run(layer, repeated(inputs_.batch, end - first), x);
    };
    for (Index i = 1; i < begun_; ++i) {
      if (!runners_[i - 1].changes(layer.index)) continue;
      run_together(i);
      first = i + 1;
      Tensor x = state(i);
      model_of(runners_[i - 1]).run(layer, inputs_.batch, x);
    }
    run_together(begun_);
  }

  const Inputs& inputs_;
  std::span<const Runner> runners_;
  const std::vector<const MatrixReader*>& files_;  ///< by number of the variant
  ScoredModel original_;
  Index rows_;
  Tensor states_;
  Index begun_ = 1;  ///< states that there are; the others are as yet the original's
};

/// What does not grow with the variants: the packed matrices of a layer, and logits and a head for
/// each thread and each file.
Index fixed_bytes(const Inputs& inputs, std::size_t files) {
  const Model& model = inputs.files.model;
  std::map<Index, Index> weights;  // by layer, -1 for the head
  for (const LinearSpec* linear : all_linears(model))
    weights[linear->layer] += linear->rows * linear->columns;
  Index largest = 0;
  for (const auto& [layer, count] : weights)
    if (layer >= 0) largest = std::max(largest, count);
  const auto longest = std::ranges::max(inputs.windows.length);
  const Index logits = Index{2} * thread_count() * longest * model.vocabulary;
  const Index heads = (1 + static_cast<Index>(files)) * weights[-1];
  return largest + (logits + heads) * static_cast<Index>(sizeof(float));
}

/// Variants that run at one time. Collective.
Index variants_at_once(const Inputs& inputs, std::size_t files, Index memory, Communicator& comm) {
  std::vector<std::int64_t> most{std::max<Index>(inputs.batch.rows(), 1) *
                                 inputs.files.model.hidden * static_cast<Index>(sizeof(float))};
  comm.all_reduce_max(most);
  if (memory <= 0) memory = default_memory(comm, ranks_of_node(comm));
  if (memory <= 0) return 1;  // nothing is known of the machine
  const Index room = (memory - fixed_bytes(inputs, files)) / (most[0] * kLayerShare);
  return std::clamp<Index>(room - 1, 1, kMostAtOnce);
}

}  // namespace

void measure_variants(const EvaluateOptions& options,
                      const std::vector<std::filesystem::path>& runs,
                      const std::vector<Variant>& variants, Index memory,
                      const AfterPass& after_pass, Communicator& comm) {
  start_scoring("measure variants", options, comm);
  const Inputs inputs = open_inputs(options, comm);
  std::vector<MatrixReader> readers;
  for (const std::filesystem::path& run : runs) {
    readers.push_back(open_quantized(run, inputs.files, "measure variants"));
    compare_files("run", {RunDirectory{run}.model()}, comm);
  }
  std::vector<Runner> runners;
  std::vector<const MatrixReader*> files;
  for (const Variant& variant : variants) {
    runners.push_back(make_runner(inputs.files.model, variant, std::ssize(runners)));
    files.push_back(&readers.at(variant.run));
  }
  std::ranges::stable_sort(runners, {}, [](const Runner& runner) { return runner.layers.front(); });
  const Stopwatch watch;
  const Index step = variants_at_once(inputs, runs.size(), memory, comm);
  const auto count = std::ssize(runners), passes = ceil_div(count, step);
  for (Index begin = 0; begin < count; begin += step) {
    const auto these = std::span(runners).subspan(begin, std::min(step, count - begin));
    Pass pass(inputs, these, files);
    pass.run_layers(str("pass ", begin / step + 1, "/", passes), comm);
    const std::vector<std::vector<double>> sums = pass.distances(comm);
    std::map<Index, Estimate> kl;
    for (std::size_t i = 0; i < these.size(); ++i)
      kl[these[i].number] = ratio_estimate(sums[i], inputs.windows.predictions());
    after_pass(kl);
    if (comm.is_first() && passes > 1)
      log_info(str("measured ", begin + std::ssize(these), " of ", count, "  ",
                   duration_text(watch.seconds())));
  }
}

}  // namespace aq
