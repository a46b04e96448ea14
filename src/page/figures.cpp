#include "page/figures.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "aq/core/json.h"

namespace aq {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

bool is_finite(const MatrixStats& stats) {
  return std::isfinite(stats.error) && std::isfinite(stats.error_rtn) &&
         std::isfinite(stats.weight_sum) && std::isfinite(stats.damping);
}

/// The experts of a layer, as many as its router counted or the log names.
void add_expert(const LogRow& row, RunFigures& figures) {
  const MatrixStats& stats = row.stats;
  std::vector<ExpertFigures>& experts = figures.experts[stats.layer];
  if (std::ssize(experts) <= stats.expert) experts.resize(stats.expert + 1);
  ExpertFigures& expert = experts[stats.expert];
  const bool is_first = expert.weights == 0;
  const bool starved = stats.fallback.starts_with("starved");
  if (is_first) {  // gate and up share their sum, down has one of the same tokens
    const bool own_tokens = !starved && stats.weight_sum > 0;
    expert.tokens = own_tokens ? stats.tokens : -1;
    expert.weight = own_tokens ? stats.weight_sum : kNone;
  }
  if (expert.fallback == "none") expert.fallback = stats.fallback;
  expert.starved = expert.starved || starved;
  expert.errors.add(stats);
  expert.weights += static_cast<double>(row.rows * row.columns);
  expert.bits += static_cast<double>(stored_bits(row.scheme, row.rows, row.columns));
}

/// What the router counted is better than what calibrated the expert.
void use_routed_counts(const RunReport& run, RunFigures& figures) {
  const bool all_tokens = setting(run, "expert_tokens") == "\"all\"";
  if (all_tokens)
    for (auto& [layer, experts] : figures.experts)
      for (ExpertFigures& expert : experts) {
        expert.tokens = -1;
        expert.weight = kNone;
      }
  for (const auto& [layer, metrics] : run.layers) {
    const std::vector<std::int64_t>& tokens = metrics.expert_tokens;
    if (tokens.empty()) continue;
    std::vector<ExpertFigures>& experts = figures.experts[layer];
    if (experts.size() < tokens.size())  // those that the recipe leaves as they are
      experts.resize(tokens.size(), {.weight = kNone, .errors = {}});
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      experts[i].tokens = tokens[i];
      if (tokens[i] == 0) experts[i].weight = 0;
    }
  }
}

/// NaN where the checkpoint does not tell.
double stored_bytes(const RunReport& run, const std::string& name) {
  if (!run.source) return kNone;
  const auto found = run.source->stored_bytes.find(name);
  return found == run.source->stored_bytes.end() ? kNone : found->second;
}

}  // namespace

void ErrorMean::add(const MatrixStats& stats) {
  if (!(stats.error_rtn > 0) || !is_finite(stats)) return;
  error_sum += stats.error;
  rtn_sum += stats.error_rtn;
  worst = std::max(worst, stats.error);
  ++matrices;
}

double ErrorMean::error() const {
  return matrices > 0 ? error_sum / static_cast<double>(matrices) : kNone;
}

double ErrorMean::rtn() const {
  return matrices > 0 ? rtn_sum / static_cast<double>(matrices) : kNone;
}

double RunFigures::error_ratio() const {
  return summary.error_rtn > 0 ? summary.error / summary.error_rtn : kNone;
}

RunFigures figures_of(const RunReport& run) {
  RunFigures figures;
  figures.summary = summarize(run.log);
  for (const LogRow& row : run.log) {
    const MatrixStats& stats = row.stats;
    const std::string kind = module_kind(row.name, stats.layer, stats.expert);
    if (!figures.by_kind.contains(kind)) figures.kinds.push_back(kind);
    KindFigures& one = figures.by_kind[kind];
    const auto weights = static_cast<double>(row.rows * row.columns);
    const auto bits = static_cast<double>(stored_bits(row.scheme, row.rows, row.columns));
    ++one.matrices;
    one.weights += weights;
    one.bits += bits;
    one.all.add(stats);
    one.by_layer[stats.layer].add(stats);
    const double stored = stored_bytes(run, row.name);
    one.stored_bytes += stored;
    figures.stored_bytes += stored;
    figures.weights += weights;
    figures.bits += bits;
    figures.not_finite += !is_finite(stats);
    figures.as_zeros += stats.error >= 1 || stats.weight_error >= 1;
    figures.worse_than_rtn += stats.error_rtn > 0 && stats.error > stats.error_rtn;
    figures.unmeasured += stats.error_rtn == 0;
    if (stats.expert >= 0) add_expert(row, figures);
  }
  use_routed_counts(run, figures);
  for (const auto& [layer, experts] : figures.experts) {
    figures.expert_count += std::ssize(experts);
    figures.unused_experts += std::ranges::count(experts, 0, &ExpertFigures::tokens);
  }
  return figures;
}

std::string setting(const RunReport& run, const std::string& key) {
  const Json settings = Json::parse(run.identity("settings"), nullptr, false);
  return settings.is_object() && settings.contains(key) ? settings.at(key).dump() : "";
}

}  // namespace aq
