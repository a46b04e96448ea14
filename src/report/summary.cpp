#include "aq/report/summary.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "aq/core/text.h"

namespace aq {
namespace {

using Json = nlohmann::ordered_json;

std::string counts_text(const std::map<std::string, Index>& counts) {
  std::string text;
  for (const auto& [name, count] : counts) text += str(text.empty() ? "" : ", ", name, " ", count);
  return text.empty() ? "none" : text;
}

}  // namespace

std::string short_number(double value) {
  std::ostringstream out;
  out.precision(3);
  out << value;
  return out.str();
}

RunSummary summarize(const std::vector<LogRow>& rows) {
  RunSummary summary;
  double bits = 0, weights = 0;
  Index with_error = 0;
  std::set<std::pair<Index, Index>> starved;
  for (const LogRow& row : rows) {
    ++summary.matrices;
    ++summary.by_method[std::string(method_name(row.stats.method))];
    if (row.stats.fallback != "none") ++summary.fallbacks[row.stats.fallback];
    if (row.stats.fallback.starts_with("starved"))
      starved.emplace(row.stats.layer, row.stats.expert);
    summary.scales_above += row.stats.scales_above;
    summary.scales_below += row.stats.scales_below;
    bits += static_cast<double>(stored_bits(row.scheme, row.rows, row.columns));
    weights += static_cast<double>(row.rows * row.columns);
    if (row.stats.error_rtn > 0) {
      summary.error += row.stats.error;
      summary.error_rtn += row.stats.error_rtn;
      ++with_error;
    }
  }
  summary.starved = static_cast<Index>(starved.size());
  summary.mean_bits = weights > 0 ? bits / weights : 0;
  if (with_error > 0) {
    summary.error /= static_cast<double>(with_error);
    summary.error_rtn /= static_cast<double>(with_error);
  }
  return summary;
}

Index fallback_count(const RunSummary& summary) {
  Index count = 0;
  for (const auto& [kind, number] : summary.fallbacks) count += number;
  return count;
}

std::string summary_text(const RunSummary& summary) {
  std::string text;
  const auto line = [&](std::string_view name, const std::string& value) {
    text += str("  ", name, std::string(14 - name.size(), ' '), value, "\n");
  };
  line("matrices", str(summary.matrices, " quantized (", counts_text(summary.by_method), "), ",
                       summary.untouched, " untouched"));
  line("fallbacks", counts_text(summary.fallbacks));
  line("starved", str(summary.starved, " experts"));
  if (summary.scales_above + summary.scales_below > 0)
    line("scales", str(summary.scales_above, " above and ", summary.scales_below,
                       " below what float16 holds: its largest and least are stored"));
  line("mean bits", fixed(summary.mean_bits, 3) + " a weight, scales included");
  if (summary.error_rtn > 0)
    line("error", str(short_number(summary.error), " of the output's energy, round to nearest ",
                      short_number(summary.error_rtn), " (ratio ",
                      fixed(summary.error / summary.error_rtn, 3), ")"));
  if (summary.hessians_reused) line("hessians", "reused, no forward pass");
  std::string phases;
  for (const auto& [phase, seconds] : summary.phase_seconds)
    phases += str(phases.empty() ? "" : ", ", phase_name(phase), " ", duration_text(seconds));
  line("time", str(duration_text(summary.seconds), " (", phases, ")"));
  std::string peaks;
  for (const Index bytes : summary.peak_rss_bytes)
    peaks += str(peaks.empty() ? "" : ", ", bytes_text(bytes));
  line("peak memory", str(peaks, " by rank; planned ", bytes_text(summary.planned_bytes)));
  if (summary.planned_offloaded > 0)
    line("offloaded",
         str(bytes_text(summary.offloaded_bytes), " on the rank with the most; planned ",
             bytes_text(summary.planned_offloaded)));
  return text;
}

namespace {

Json phases_json(const std::vector<PhaseRecord>& phases) {
  Json all = Json::array();
  for (const PhaseRecord& phase : phases) {
    Json json{{"phase", phase_name(phase.phase)},
              {"seconds", phase.seconds},
              {"peak_bytes", phase.peak_bytes},
              {"read", phase.read},
              {"written", phase.written},
              {"sent", phase.sent},
              {"received", phase.received},
              {"most_sent", phase.most_sent},
              {"most_received", phase.most_received}};
    if (phase.planned_seconds >= 0) json["planned_seconds"] = phase.planned_seconds;
    if (phase.planned_peak_bytes >= 0) json["planned_peak_bytes"] = phase.planned_peak_bytes;
    if (phase.planned_sent >= 0) json["planned_sent"] = phase.planned_sent;
    all.push_back(std::move(json));
  }
  return all;
}

/// Of each phase an array by rank, in milliseconds: short with thousands of ranks.
Json ranks_json(const std::vector<RankTimes>& ranks) {
  Json hosts = Json::array(), phases = Json::object();
  for (const RankTimes& rank : ranks) hosts.push_back(rank.host);
  for (const Phase phase : kPhases) {
    const auto seconds = [&](const RankTimes& rank) {
      const auto found = rank.seconds.find(phase);
      return found == rank.seconds.end() ? 0.0 : found->second;
    };
    if (std::ranges::none_of(ranks, [&](const RankTimes& rank) { return seconds(rank) > 0; }))
      continue;
    for (const RankTimes& rank : ranks)
      phases[std::string(phase_name(phase))].push_back(std::llround(seconds(rank) * 1e3));
  }
  return {{"hosts", std::move(hosts)}, {"milliseconds", std::move(phases)}};
}

Json summary_object(const RunSummary& summary) {
  return Json{{"matrices", summary.matrices},
              {"untouched", summary.untouched},
              {"by_method", summary.by_method},
              {"fallbacks", summary.fallbacks},
              {"starved", summary.starved},
              {"scales_above", summary.scales_above},
              {"scales_below", summary.scales_below},
              {"mean_bits", summary.mean_bits},
              {"error", summary.error},
              {"error_rtn", summary.error_rtn},
              {"hessians_reused", summary.hessians_reused},
              {"parts", summary.parts},
              {"total_seconds", summary.seconds},
              {"planned_seconds", summary.planned_seconds},
              {"seconds", by_name(summary.phase_seconds)},
              {"peak_rss_bytes", summary.peak_rss_bytes},
              {"planned_bytes", summary.planned_bytes},
              {"offloaded_bytes", summary.offloaded_bytes},
              {"planned_offloaded", summary.planned_offloaded},
              {"planned_read", summary.planned_read},
              {"planned_written", summary.planned_written},
              {"phases", phases_json(summary.phases)},
              {"ranks", ranks_json(summary.ranks)}};
}

}  // namespace

std::string summary_json(const RunSummary& summary) {
  return summary_object(summary).dump(1) + "\n";
}

std::string session_line(const RunSummary& summary) {
  return summary_object(summary).dump() + "\n";
}

std::string metrics_line(const LayerMetrics& metrics, const std::vector<LogRow>& rows) {
  const RunSummary summary = summarize(rows);
  Json json{{"layer", metrics.layer},         {"resumed", metrics.resumed},
            {"seconds", metrics.seconds},     {"matrices", summary.matrices},
            {"by_method", summary.by_method}, {"fallbacks", summary.fallbacks},
            {"starved", summary.starved},     {"mean_bits", summary.mean_bits},
            {"error", summary.error},         {"error_rtn", summary.error_rtn}};
  if (!metrics.expert_tokens.empty()) json["expert_tokens"] = metrics.expert_tokens;
  return json.dump() + "\n";
}

std::string layer_text(const LayerMetrics& metrics, const std::vector<LogRow>& rows) {
  const RunSummary summary = summarize(rows);
  const std::string total = str(metrics.layers);
  const std::string number = str(metrics.layer + 1);
  std::string text =
      str("layer ", std::string(total.size() - number.size(), ' '), number, "/", total);
  if (metrics.resumed) text += "  from disk";
  text += str("  ", counts_text(summary.by_method));
  if (summary.error_rtn > 0)
    text += str("  error ", short_number(summary.error), " (rtn ", short_number(summary.error_rtn),
                ")");
  if (!metrics.expert_tokens.empty()) {
    const auto [least, most] =
        std::minmax_element(metrics.expert_tokens.begin(), metrics.expert_tokens.end());
    text += str("  tokens/expert ", *least, "..", *most);
  }
  if (!summary.fallbacks.empty()) text += str("  fallbacks: ", counts_text(summary.fallbacks));
  return text + str("  ", duration_text(metrics.seconds));
}

}  // namespace aq
