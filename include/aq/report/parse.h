#pragma once
/// What a run has written of itself, read again.

#include <string>
#include <string_view>
#include <vector>

#include "aq/io/matrix_file.h"
#include "aq/report/summary.h"

namespace aq {

// `object` names the file in errors, which are Error{input}.

/// Of a matrix, from what is stored with it.
LogRow stored_row(const MatrixReader& reader, const std::string& name, const std::string& object);
/// quant_log.csv; the counts of scales are not in it.
std::vector<LogRow> parse_quant_log(std::string_view text, const std::string& object);
/// metrics.jsonl, in the order of the file: a layer that was done again stands there twice. A last
/// line that a killed run left unfinished is left out; `layers` stays 0.
std::vector<LayerMetrics> parse_metrics(std::string_view text, const std::string& object);
/// sessions.jsonl, without what follows from the matrices alone.
std::vector<RunSummary> parse_sessions(std::string_view text, const std::string& object);

}  // namespace aq
