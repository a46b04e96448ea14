#pragma once
/// What a run did, in figures: matrices by method, fallbacks, errors, time, memory.

#include <map>
#include <string>
#include <vector>

#include "aq/core/timer.h"
#include "aq/formats/scheme.h"
#include "aq/report/matrix_stats.h"

namespace aq {

/// One row of quant_log.csv.
struct LogRow {
  std::string name;
  Index rows = 0, columns = 0;
  Scheme scheme;
  MatrixStats stats;
};

/// One phase of a run, measured and as planned; negative: not planned.
struct PhaseRecord {
  Phase phase = Phase::embed;
  double seconds = 0, planned_seconds = -1;             ///< of the slowest rank
  Index peak_bytes = 0, planned_peak_bytes = -1;        ///< of the rank with the most
  Index read = 0, written = 0, sent = 0, received = 0;  ///< bytes of all ranks
  Index most_sent = 0, most_received = 0;               ///< bytes of the rank with the most
  Index planned_sent = -1;
};

/// What a rank did, in seconds by phase.
struct RankTimes {
  std::string host;
  std::map<Phase, double> seconds;
};

struct RunSummary {
  Index matrices = 0;                        ///< quantized
  Index untouched = 0;                       ///< linears that stay as they are
  std::map<std::string, Index> by_method;    ///< "gptq", "rtn"
  std::map<std::string, Index> fallbacks;    ///< by kind, without "none"
  Index starved = 0;                         ///< starved experts
  Index scales_above = 0, scales_below = 0;  ///< what float16 does not reach
  double mean_bits = 0;                      ///< stored bits a weight, scales and zeros included
  double error = 0, error_rtn = 0;           ///< mean over the GPTQ matrices
  bool hessians_reused = false;              ///< kept ones of another run: nothing was summed
  double seconds = 0;
  std::map<Phase, double> phase_seconds;  ///< of the first rank
  std::vector<Index> peak_rss_bytes;      ///< by rank, above the start
  Index planned_bytes = 0;
  Index offloaded_bytes = 0, planned_offloaded = 0;  ///< in files, of the rank with the most
  std::vector<PhaseRecord> phases;
  Index planned_read = -1, planned_written = -1;  ///< bytes of all ranks
  Index parts = 0;              ///< layers, and the head, that this start of the program quantized
  double planned_seconds = -1;  ///< of all phases; negative: no machine was named
  std::vector<RankTimes> ranks;
};

/// Three significant digits, for people.
std::string short_number(double value);

/// The part of the summary that follows from the matrices.
RunSummary summarize(const std::vector<LogRow>& rows);
/// Number of matrices that are not what was asked for, starved ones included.
Index fallback_count(const RunSummary& summary);

/// quant_log.csv: a header and one line a matrix; the same bytes for the same rows.
std::string quant_log_csv(const std::vector<LogRow>& rows);
/// The closing text for people.
std::string summary_text(const RunSummary& summary);
/// Object for --json.
std::string summary_json(const RunSummary& summary);
/// The same as a line of sessions.jsonl.
std::string session_line(const RunSummary& summary);

/// One line of metrics.jsonl.
struct LayerMetrics {
  Index layer = 0, layers = 0;
  bool resumed = false;
  double seconds = 0;
  std::vector<std::int64_t> expert_tokens;  ///< empty for a dense layer
};
std::string metrics_line(const LayerMetrics& metrics, const std::vector<LogRow>& rows);
/// "layer  3/16  gptq 195  error 0.021 (rtn 0.034)  tokens/expert 311..9120  4.2 s"
std::string layer_text(const LayerMetrics& metrics, const std::vector<LogRow>& rows);

}  // namespace aq
