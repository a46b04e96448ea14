#include "aq/eval/evaluate.h"

#include <cmath>
#include <numeric>
#include <set>

#include "aq/comm/watchdog.h"
#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/core/timer.h"
#include "aq/forward/finite.h"
#include "aq/run/node_memory.h"
#include "eval/head_sums.h"

namespace aq {
namespace {

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
  if (inputs.reference) return ScoredModel(*inputs.reference);
  const bool original =
      options.against == Against::original ||
      (options.against == Against::automatic && inputs.quantized && fits_beside(inputs, comm));
  if (!original) return std::nullopt;
  return ScoredModel(inputs.files);
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

}  // namespace

EvaluateResult evaluate_model(const EvaluateOptions& options, Communicator& comm) {
  start_scoring("eval", options, comm);
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
    ScoredModel scored(inputs.files, all_of(inputs.matrices()), activations);
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
  start_scoring("inspect", options, comm);
  const Inputs inputs = open_inputs(options, comm);
  Utilization result;
  ScoredModel scored(inputs.files);
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
