#include "aq/eval/evaluate.h"

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "aq/comm/watchdog.h"
#include "aq/core/timer.h"
#include "aq/forward/decoder_layer.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/io/quantized_run.h"
#include "aq/io/run_directory.h"
#include "aq/model/architecture_json.h"
#include "aq/quant/solver.h"
#include "aq/run/prepare.h"
#include "aq/runtime/operations.h"
#include "eval/trace.h"

namespace aq {
namespace {

/// Windows of a token file: a row is cut into windows of `window` tokens, the shorter tail
/// included.
struct Windows {
  std::vector<Index> row, begin, length;
  Index count() const { return static_cast<Index>(row.size()); }
};

Windows cut_windows(const std::vector<Index>& lengths, Index window, Index most) {
  Windows windows;
  for (std::size_t row = 0; row < lengths.size(); ++row)
    for (Index begin = 0; begin < lengths[row]; begin += window) {
      const Index length = std::min(window, lengths[row] - begin);
      if (length < 2) continue;  // nothing to predict
      if (most > 0 && windows.count() == most) return windows;
      windows.row.push_back(static_cast<Index>(row));
      windows.begin.push_back(begin);
      windows.length.push_back(length);
    }
  return windows;
}

/// The tokens of windows [first, first + count).
Sequences tokens_of(const Windows& windows, const Sequences& rows, Index first, Index count) {
  std::vector<Index> row_begin{0};
  for (const Index length : rows.lengths) row_begin.push_back(row_begin.back() + length);
  Sequences out;
  for (auto w = static_cast<std::size_t>(first); w < static_cast<std::size_t>(first + count); ++w) {
    const Index begin = row_begin[windows.row[w]] + windows.begin[w];
    out.tokens.insert(out.tokens.end(), rows.tokens.begin() + begin,
                      rows.tokens.begin() + begin + windows.length[w]);
    out.lengths.push_back(windows.length[w]);
  }
  return out;
}

/// An evaluation in work on one rank.
class Evaluation {
 public:
  Evaluation(const EvaluateOptions& options, Communicator& comm)
      : files_(open_model(options.model, options.architecture, options.assume_unused)),
        weights_(files_.checkpoint, files_.model) {
    if (comm.is_first()) warn_of_assumptions(files_);
    if (options.window < 2)
      throw Error(ErrorKind::usage, "evaluate", "--window",
                  str(options.window, " tokens leave nothing to predict"));
    const TokenFile file = TokenFile::open(options.tokens);
    const Sequences rows = file.read(0, file.sequences, file.length, model().vocabulary);
    windows_ = cut_windows(rows.lengths, std::min(options.window, model().max_positions),
                           options.max_windows);
    compare_input(file, comm);
    if (windows_.count() == 0)
      throw Error(ErrorKind::input, "evaluate", options.tokens.string(),
                  "no window of at least two tokens");
    const LaneLayout layout{windows_.count(), default_lane_count(windows_.count())};
    batch_ = make_batch(layout, comm.rank(), comm.size(), [&](Index first, Index count) {
      return tokens_of(windows_, rows, first, count);
    });
    first_window_ = batch_.lanes() > 0 ? layout.sequences_of_lane(batch_.first_lane).begin : 0;
    if (!options.quantized.empty()) {
      quantized_.emplace(open_quantized(options.quantized, files_, "evaluate"));
      compare_files("--quantized", {RunDirectory{options.quantized}.model()}, comm);
    }
  }

  const Model& model() const { return files_.model; }
  const Windows& windows() const { return windows_; }

  /// Names of the activation formats, each once; empty: no linear has one.
  std::vector<std::string> activation_formats() const {
    std::set<std::string> formats;
    if (quantized_)
      for (const std::string& name : quantized_->names())
        if (const auto scheme = quantized_->activation(name)) formats.insert(to_string(*scheme));
    return {formats.begin(), formats.end()};
  }
  /// From now on the inputs of linears are rounded by their activation formats.
  void round_activations() { rounds_activations_ = true; }

  /// Runs all layers; `after_layer` sees each layer's routing. Returns the final hidden states.
  Tensor run_layers(const std::function<void(const LayerSpec&, const Routing&)>& after_layer) {
    Tensor x = embed_tokens(weights_, batch_);
    for (const LayerSpec& layer : model().layers) {
      load_layer(layer.index);
      after_layer(layer, DecoderLayer{model(), layer, weights_, batch_}.run(x));
      weights_.clear();
    }
    return x;
  }

  /// -log p of every predicted token, summed by window in token order; `[windows]`, zero for the
  /// windows of other ranks.
  std::vector<double> window_nll(const Tensor& x, Trace& trace) {
    std::vector<double> sums(windows_.count(), 0.0);
    if (batch_.rows() == 0) return sums;
    load_layer(-1);
    const UsedLinear head = weights_.used(model().head);
    weights_.clear();
    const RmsNorm norm(model(), weights_, model().final_norm);
    const Index vocabulary = model().vocabulary;
    if (trace.wanted) trace.logits.resize(batch_.rows() * vocabulary);
    runtime::for_each_range(batch_.sequence_rows, [&](Index sequence, Range rows) {
      const Tensor logits = SharedInput(norm(x.window(rows))).multiply(head);
      note_finite(ForwardPart::head, logits);
      std::vector<double> nll(rows.size() - 1);
      const std::span<const std::int32_t> tokens(batch_.sequences.tokens);
      runtime::token_nll(logits.host().slice_rows(0, rows.size() - 1),
                         tokens.subspan(rows.begin + 1, nll.size()), nll);
      double& sum = sums[first_window_ + sequence];
      for (const double value : nll) sum += value;
      if (trace.wanted)
        std::copy_n(logits.host().data, rows.size() * vocabulary,
                    trace.logits.begin() + rows.begin * vocabulary);
    });
    return sums;
  }

 private:
  /// Error{input} unless all ranks have read the same. Collective.
  void compare_input(const TokenFile& tokens, Communicator& comm) const {
    compare_ranks({{"model", files_.checkpoint.fingerprint()},
                   {"architecture", architecture_to_json(files_.row)},
                   {"tokens", tokens.fingerprint(tokens.sequences, tokens.length)}},
                  comm);
    compare_checkpoints(files_, comm);
  }

  /// The quantized matrices of one layer, or of the head for -1.
  void load_layer(Index index) {
    if (!quantized_) return;
    for (const LinearSpec* linear : all_linears(model()))
      if (linear->layer == index && quantized_->has(linear->name))
        put(quantized_->read(linear->name));
  }

  void put(NamedMatrix named) {
    weights_.put(named.name, std::move(named.matrix),
                 rounds_activations_ ? named.activation : std::nullopt);
  }

  ModelFiles files_;
  Weights weights_;
  Windows windows_;
  Batch batch_;
  Index first_window_ = 0;
  bool rounds_activations_ = false;
  std::optional<MatrixReader> quantized_;
};

/// Every rank's sums in window order: only one rank has a value other than zero for a window.
std::vector<double> gather_windows(const std::vector<double>& mine, Communicator& comm) {
  std::vector<double> all(mine.size(), 0.0);
  for (const std::vector<double>& values : all_gather_values(comm, mine))
    for (std::size_t i = 0; i < all.size(); ++i) all[i] += values.at(i);
  return all;
}

/// -log p of all predicted tokens. Collective: ranks meet after every layer, so that the watchdog
/// sees after one layer that a rank is gone, and no rank waits for long when all are well.
double total_nll(Evaluation& evaluation, Trace& trace, Communicator& comm) {
  const Tensor x = evaluation.run_layers([&](const LayerSpec& layer, const Routing& routing) {
    set_work_place(str("layer ", layer.index + 1, "/", evaluation.model().layers.size()));
    check_finite(comm, layer);
    if (!trace.wanted || !layer.moe) return;
    trace.moe_layers.push_back(checked_cast<std::int32_t>(layer.index));
    trace.router_index.push_back(routing.index);
    trace.router_weight.push_back(routing.weight);
  });
  set_work_place(std::string(stage_name(Stage::head)));
  const std::vector<double> mine = evaluation.window_nll(x, trace);
  check_finite(comm, evaluation.model().head);
  const std::vector<double> sums = gather_windows(mine, comm);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void start(std::string_view command, const EvaluateOptions& options, Communicator& comm) {
  runtime::initialize();
  use_single_threaded_blas();
  const auto given = [](const std::filesystem::path& path) { return path.empty() ? "no" : "yes"; };
  compare_told({{"command", std::string(command)},
                {"--architecture given", given(options.architecture)},
                {"--quantized given", given(options.quantized)},
                {"--window", str(options.window)},
                {"--max-windows", str(options.max_windows)},
                {"--trace given", given(options.trace)}},
               comm);
}

}  // namespace

EvaluateResult evaluate_model(const EvaluateOptions& options, Communicator& comm) {
  start("eval", options, comm);
  const Stopwatch watch;
  Evaluation evaluation(options, comm);
  Trace trace;
  trace.wanted = !options.trace.empty();
  EvaluateResult result;
  const Windows& windows = evaluation.windows();
  for (const Index length : windows.length) result.predictions += length - 1;
  const auto predictions = static_cast<double>(result.predictions);
  result.windows = windows.count();
  result.mean_nll = total_nll(evaluation, trace, comm) / predictions;
  result.perplexity = std::exp(result.mean_nll);
  if (trace.wanted) write_trace(options.trace, trace, evaluation.model(), windows.length, comm);
  result.activation_formats = evaluation.activation_formats();
  if (!result.activation_formats.empty()) {
    evaluation.round_activations();
    Trace none;
    result.activation_mean_nll = total_nll(evaluation, none, comm) / predictions;
    result.activation_perplexity = std::exp(result.activation_mean_nll);
  }
  result.seconds = watch.seconds();
  return result;
}

Utilization expert_utilization(const EvaluateOptions& options, Communicator& comm) {
  start("inspect", options, comm);
  Evaluation evaluation(options, comm);
  Utilization result;
  evaluation.run_layers([&](const LayerSpec& layer, const Routing& routing) {
    check_finite(comm, layer);
    std::vector<std::int64_t> counts = routed_tokens(layer, routing);
    comm.all_reduce_sum(counts);
    result.expert_tokens.push_back(std::move(counts));
  });
  for (const Index length : evaluation.windows().length) result.tokens += length;
  return result;
}

}  // namespace aq
