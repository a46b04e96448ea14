#include "aq/eval/evaluate.h"

#include <cmath>
#include <numeric>
#include <set>

#include "aq/comm/watchdog.h"
#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/core/timer.h"
#include "aq/forward/finite.h"
#include "aq/io/quantized_run.h"
#include "aq/io/run_directory.h"
#include "aq/model/architecture_json.h"
#include "aq/quant/solver.h"
#include "aq/run/node_memory.h"
#include "aq/run/prepare.h"
#include "aq/runtime/operations.h"
#include "eval/scored_model.h"
#include "eval/trace.h"
#include "eval/windows.h"

namespace aq {
namespace {

/// What is scored on one rank: models, and its share of the windows.
struct Inputs {
  ModelFiles files;
  std::optional<MatrixReader> quantized = std::nullopt;
  std::optional<ModelFiles> reference = std::nullopt;  ///< with Against::checkpoint
  Windows windows = {};                                ///< of all ranks
  Batch batch = {};
  Index first_window = 0;  ///< the batch's first sequence

  const MatrixReader* matrices() const { return quantized ? &*quantized : nullptr; }
};

/// Error{input} unless all ranks have read the same. Collective.
void compare_inputs(const Inputs& inputs, const TokenFile& tokens, Communicator& comm) {
  compare_ranks({{"model", inputs.files.checkpoint.fingerprint()},
                 {"architecture", architecture_to_json(inputs.files.row)},
                 {"reference", inputs.reference ? inputs.reference->checkpoint.fingerprint() : ""},
                 {"tokens", tokens.fingerprint(tokens.sequences, tokens.length)}},
                comm);
  compare_checkpoints(inputs.files, comm);
  if (inputs.reference) compare_checkpoints(*inputs.reference, comm);
}

ModelFiles open_reference(const EvaluateOptions& options, const Model& scored) {
  ModelFiles files = open_model(options.reference, options.architecture, options.assume_unused);
  if (files.model.vocabulary != scored.vocabulary)
    throw Error(ErrorKind::usage, "evaluate", "--against " + options.reference.string(),
                str("its vocabulary has ", files.model.vocabulary, " tokens, the one of ",
                    options.model.string(), " ", scored.vocabulary));
  return files;
}

void check_options(const EvaluateOptions& options) {
  if (options.window < 2)
    throw Error(ErrorKind::usage, "evaluate", "--window",
                str(options.window, " tokens leave nothing to predict"));
  if (options.against == Against::original && options.quantized.empty())
    throw Error(ErrorKind::usage, "evaluate", "--against original",
                "it is the original of a run, and there is no --quantized",
                "give the directory of the original checkpoint");
}

Inputs open_inputs(const EvaluateOptions& options, Communicator& comm) {
  check_options(options);
  Inputs inputs{open_model(options.model, options.architecture, options.assume_unused)};
  const Model& model = inputs.files.model;
  if (comm.is_first()) warn_of_assumptions(inputs.files);
  Index longest = std::min(options.window, model.max_positions);
  if (options.against == Against::checkpoint) {
    inputs.reference = open_reference(options, model);
    if (comm.is_first()) warn_of_assumptions(*inputs.reference);
    longest = std::min(longest, inputs.reference->model.max_positions);
  }
  const TokenFile file = TokenFile::open(options.tokens);
  const Sequences rows = file.read(0, file.sequences, file.length, model.vocabulary);
  inputs.windows = cut_windows(rows.lengths, longest, options.max_windows);
  compare_inputs(inputs, file, comm);
  if (inputs.windows.count() == 0)
    throw Error(ErrorKind::input, "evaluate", options.tokens.string(),
                "no window of at least two tokens");
  const LaneLayout layout{inputs.windows.count(), default_lane_count(inputs.windows.count())};
  inputs.batch = make_batch(layout, comm.rank(), comm.size(), [&](Index first, Index count) {
    return tokens_of(inputs.windows, rows, first, count);
  });
  if (inputs.batch.lanes() > 0)
    inputs.first_window = layout.sequences_of_lane(inputs.batch.first_lane).begin;
  if (!options.quantized.empty()) {
    inputs.quantized.emplace(open_quantized(options.quantized, inputs.files, "evaluate"));
    compare_files("--quantized", {RunDirectory{options.quantized}.model()}, comm);
  }
  return inputs;
}

/// Names of the activation formats, each once; empty: no linear has one.
std::vector<std::string> activation_formats(const MatrixReader* quantized) {
  std::set<std::string> formats;
  if (quantized != nullptr)
    for (const std::string& name : quantized->names())
      if (const auto scheme = quantized->activation(name)) formats.insert(to_string(*scheme));
  return {formats.begin(), formats.end()};
}

/// Whether the final hidden states of one more model are a small part of the memory that is free on
/// every rank: a layer takes several times as much while it runs. Collective.
bool fits_beside(const Inputs& inputs, Communicator& comm) {
  constexpr Index kShare = 8;
  std::vector<std::int64_t> most{inputs.batch.rows() * inputs.files.model.hidden *
                                 static_cast<Index>(sizeof(float))};
  comm.all_reduce_max(most);
  const Index free = default_memory(comm, ranks_of_node(comm));
  const bool fits = free <= 0 || most[0] <= free / kShare;
  if (!fits && comm.is_first())
    log_warning(
        str("the original is not scored beside the quantized model: its hidden states take ",
            bytes_text(most[0]), " a rank, more than an eighth of the ", bytes_text(free),
            " that are free (--against original does it nevertheless, more ranks need less "
            "each)"));
  return fits;
}

/// The model to compare with; nothing: none. Collective.
std::optional<ScoredModel> reference_model(const EvaluateOptions& options, const Inputs& inputs,
                                           Communicator& comm) {
  if (inputs.reference) return ScoredModel(*inputs.reference, nullptr, Activations::exact);
  const bool original =
      options.against == Against::original ||
      (options.against == Against::automatic && inputs.quantized && fits_beside(inputs, comm));
  if (!original) return std::nullopt;
  return ScoredModel(inputs.files, nullptr, Activations::exact);
}

/// Ranks meet after every layer, so that the watchdog sees after one layer that a rank is gone, and
/// no rank waits for long when all are well. Collective.
Tensor run_layers(ScoredModel& scored, const Batch& batch, Trace* trace, Communicator& comm) {
  return scored.run_layers(batch, [&](const LayerSpec& layer, const Routing& routing) {
    set_work_place(str("layer ", layer.index + 1, "/", scored.model().layers.size()));
    check_finite(comm, layer);
    if (trace == nullptr || !layer.moe) return;
    trace->moe_layers.push_back(checked_cast<std::int32_t>(layer.index));
    trace->router_index.push_back(routing.index);
    trace->router_weight.push_back(routing.weight);
  });
}

/// A model behind its layers.
struct FinalStates {
  ScoredModel& scored;
  Tensor hidden;  ///< [rows of the batch, hidden]
};

/// Sums over the predicted tokens of each window, in token order.
struct WindowSums {
  std::vector<double> nll, kl, same_top1;

  explicit WindowSums(Index windows)
      : nll(windows, 0.0), kl(windows, 0.0), same_top1(windows, 0.0) {}

  void add_nll(Index window, const Tensor& logits, std::span<const std::int32_t> targets) {
    std::vector<double> values(targets.size());
    runtime::token_nll(logits.host().slice_rows(0, std::ssize(targets)), targets, values);
    for (const double value : values) nll[window] += value;
  }
  void add_distances(Index window, const Tensor& reference, const Tensor& logits, Index tokens) {
    std::vector<runtime::TokenDistance> distances(tokens);
    runtime::compare_distributions(reference.host().slice_rows(0, tokens),
                                   logits.host().slice_rows(0, tokens), distances);
    for (const runtime::TokenDistance& distance : distances) {
      kl[window] += distance.kl;
      same_top1[window] += distance.same_top1 ? 1 : 0;
    }
  }
};

/// Every rank's sums in window order: only one rank has a value other than zero for a window.
void gather_windows(std::vector<double>& sums, Communicator& comm) {
  const std::vector<std::vector<double>> all = all_gather_values(comm, sums);
  std::ranges::fill(sums, 0.0);
  for (const std::vector<double>& values : all)
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += values.at(i);
}

struct HeadSums {
  WindowSums model, reference;
};

/// The heads of both models over the same windows, those of other ranks included. Collective.
HeadSums score_heads(const Inputs& inputs, FinalStates& model, FinalStates* reference, Trace* trace,
                     Communicator& comm) {
  set_work_place(std::string(stage_name(Stage::head)));
  const Batch& batch = inputs.batch;
  HeadSums sums{WindowSums(inputs.windows.count()), WindowSums(inputs.windows.count())};
  const Index vocabulary = model.scored.model().vocabulary;
  if (trace != nullptr) trace->logits.resize(batch.rows() * vocabulary);
  if (batch.rows() > 0) {
    const auto head = model.scored.head();
    const auto reference_head = reference != nullptr ? reference->scored.head() : nullptr;
    runtime::for_each_range(batch.sequence_rows, [&](Index sequence, Range rows) {
      const Index window = inputs.first_window + sequence;
      const auto targets =
          std::span(batch.sequences.tokens).subspan(rows.begin + 1, rows.size() - 1);
      const Tensor logits = head(model.hidden.window(rows));
      note_finite(ForwardPart::head, logits);
      sums.model.add_nll(window, logits, targets);
      if (reference != nullptr) {
        const Tensor expected = reference_head(reference->hidden.window(rows));
        note_finite(ForwardPart::head, expected);
        sums.reference.add_nll(window, expected, targets);
        sums.model.add_distances(window, expected, logits, std::ssize(targets));
      }
      if (trace != nullptr)
        std::copy_n(logits.host().data, rows.size() * vocabulary,
                    trace->logits.begin() + rows.begin * vocabulary);
    });
  }
  check_finite(comm, model.scored.model().head);
  for (std::vector<double>* values :
       {&sums.model.nll, &sums.reference.nll, &sums.model.kl, &sums.model.same_top1})
    gather_windows(*values, comm);
  return sums;
}

Score score_of(const WindowSums& sums, const std::vector<Index>& predictions) {
  const double mean = ratio_estimate(sums.nll, predictions).mean;
  return {mean, std::exp(mean), std::nullopt};
}

Comparison comparison_of(const HeadSums& sums, const std::vector<Index>& predictions) {
  std::vector<double> losses = sums.model.nll;
  for (std::size_t i = 0; i < losses.size(); ++i) losses[i] -= sums.reference.nll[i];
  return {.kl = ratio_estimate(sums.model.kl, predictions),
          .loss = ratio_estimate(losses, predictions),
          .same_top1 = ratio_estimate(sums.model.same_top1, predictions)};
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
                {"--against", str(static_cast<int>(options.against))},
                {"--trace given", given(options.trace)}},
               comm);
}

}  // namespace

EvaluateResult evaluate_model(const EvaluateOptions& options, Communicator& comm) {
  start("eval", options, comm);
  const Stopwatch watch;
  const Inputs inputs = open_inputs(options, comm);
  const std::vector<Index> predictions = inputs.windows.predictions();
  EvaluateResult result;
  result.windows = inputs.windows.count();
  result.predictions = std::accumulate(predictions.begin(), predictions.end(), Index{0});
  result.activation_formats = activation_formats(inputs.matrices());

  std::optional<ScoredModel> original = reference_model(options, inputs, comm);
  std::optional<FinalStates> reference =
      original ? std::optional<FinalStates>(
                     FinalStates{*original, run_layers(*original, inputs.batch, nullptr, comm)})
               : std::nullopt;
  const auto score = [&](Activations activations, Trace* trace) {
    ScoredModel scored(inputs.files, inputs.matrices(), activations);
    FinalStates states{scored, run_layers(scored, inputs.batch, trace, comm)};
    const HeadSums sums =
        score_heads(inputs, states, reference ? &*reference : nullptr, trace, comm);
    Score scores = score_of(sums.model, predictions);
    if (reference) {
      scores.comparison = comparison_of(sums, predictions);
      result.reference = score_of(sums.reference, predictions);
    }
    return scores;
  };
  Trace trace;
  const bool traced = !options.trace.empty();
  result.score = score(Activations::exact, traced ? &trace : nullptr);
  if (traced) write_trace(options.trace, trace, inputs.files.model, inputs.windows.length, comm);
  if (!result.activation_formats.empty())
    result.with_activations = score(Activations::rounded, nullptr);
  result.seconds = watch.seconds();
  return result;
}

Utilization expert_utilization(const EvaluateOptions& options, Communicator& comm) {
  start("inspect", options, comm);
  const Inputs inputs = open_inputs(options, comm);
  Utilization result;
  ScoredModel scored(inputs.files, nullptr, Activations::exact);
  scored.run_layers(inputs.batch, [&](const LayerSpec& layer, const Routing& routing) {
    check_finite(comm, layer);
    std::vector<std::int64_t> counts = routed_tokens(layer, routing);
    comm.all_reduce_sum(counts);
    result.expert_tokens.push_back(std::move(counts));
  });
  for (const Index length : inputs.windows.length) result.tokens += length;
  return result;
}

}  // namespace aq
