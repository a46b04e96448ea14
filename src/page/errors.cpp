#include <algorithm>
#include <cmath>

#include "aq/core/text.h"
#include "page/sections.h"

namespace aq {
namespace {

constexpr std::size_t kWorst = 20, kListed = 200;

const std::vector<Column> kErrorColumns{
    {"GPTQ", true, "mean of the relative errors of the matrices"},
    {"Nearest", true, "the same, had they been rounded to nearest"},
    {"Ratio", true, "GPTQ ÷ nearest: below 1 is better"}};

std::vector<Cell> error_cells(const ErrorMean& mean) {
  const double ratio = mean.error() / mean.rtn();
  return {error_cell(mean.error()), error_cell(mean.rtn()), number_cell(ratio, fixed(ratio, 3))};
}

void append(std::vector<Cell> cells, std::vector<Cell>& row) {
  for (Cell& cell : cells) row.push_back(std::move(cell));
}

std::vector<std::string> kinds_of(const PageRuns& runs) {
  return keys_of_all<std::string>(runs, [](const PageRun& run) { return run.figures.kinds; });
}

const KindFigures* kind_of(const PageRun& run, const std::string& kind) {
  const auto found = run.figures.by_kind.find(kind);
  return found == run.figures.by_kind.end() ? nullptr : &found->second;
}

std::string kind_table(const PageRuns& runs, const std::vector<std::string>& kinds) {
  std::vector<Column> columns = kErrorColumns;
  columns.push_back({"Worst", true, "the largest error of one matrix"});
  columns.push_back({"Measured", true, "matrices with a Hessian"});
  HtmlTable table({{"Linear", false}}, columns, labels(runs));
  const auto cells = [](const ErrorMean& mean) {
    std::vector<Cell> row = error_cells(mean);
    row.push_back(mean.matrices > 0 ? error_cell(mean.worst) : missing_cell());
    row.push_back(count_cell(mean.matrices));
    return row;
  };
  std::vector<Cell> total{text_cell("All")};
  for (const PageRun& run : runs) {
    ErrorMean all;
    for (const LogRow& row : run.report.log) all.add(row.stats);
    append(cells(all), total);
  }
  for (const std::string& kind : kinds) {
    std::vector<Cell> row{code_cell(kind)};
    for (const PageRun& run : runs) {
      const KindFigures* figures = kind_of(run, kind);
      append(cells(figures ? figures->all : ErrorMean{}), row);
    }
    table.add(std::move(row));
  }
  table.add_total(std::move(total));
  return table.html();
}

std::string layer_table(const PageRuns& runs, const std::vector<std::string>& kinds) {
  HtmlTable table({{"Layer"}, {"Linear", false}}, kErrorColumns, labels(runs));
  Index layers = 0;
  for (const PageRun& run : runs) layers = std::max(layers, run.report.manifest.layers);
  for (Index layer = 0; layer <= layers; ++layer) {
    const Index key = layer == layers ? -1 : layer;  // what is outside the layers comes last
    for (const std::string& kind : kinds) {
      bool any = false;
      std::vector<Cell> row{key < 0 ? missing_cell() : count_cell(key), code_cell(kind)};
      for (const PageRun& run : runs) {
        const KindFigures* figures = kind_of(run, kind);
        const bool has = figures != nullptr && figures->by_layer.contains(key);
        any = any || has;
        append(error_cells(has ? figures->by_layer.at(key) : ErrorMean{}), row);
      }
      if (any) table.add(std::move(row));
    }
  }
  return table.html();
}

std::vector<const LogRow*> worst_rows(const RunReport& run) {
  std::vector<const LogRow*> rows;
  for (const LogRow& row : run.log)
    if (row.stats.error_rtn > 0) rows.push_back(&row);
  const auto count = static_cast<std::ptrdiff_t>(std::min(rows.size(), kWorst));
  std::partial_sort(rows.begin(), rows.begin() + count, rows.end(),
                    [](const LogRow* a, const LogRow* b) {
                      return a->stats.error != b->stats.error ? a->stats.error > b->stats.error
                                                              : a->name < b->name;
                    });
  rows.resize(static_cast<std::size_t>(count));
  return rows;
}

/// Matrices of one run, with what the log says of them.
std::string matrix_table(const std::vector<const LogRow*>& rows) {
  HtmlTable table({{"Matrix", false},
                   {"Stored as", false},
                   {"Tokens"},
                   {"Damping"},
                   {"GPTQ"},
                   {"Nearest"},
                   {"Fallback", false}},
                  {}, {});
  for (const LogRow* row : rows) {
    const MatrixStats& stats = row->stats;
    const bool measured = stats.error_rtn > 0;
    table.add({code_cell(row->name), text_cell(to_string(row->scheme)), count_cell(stats.tokens),
               number_cell(stats.damping, shortest(stats.damping)),
               measured ? error_cell(stats.error) : missing_cell(),
               measured ? error_cell(stats.error_rtn) : missing_cell(),
               text_cell(stats.fallback == "none" ? "" : stats.fallback)});
  }
  return table.html();
}

std::string_view meaning(std::string_view fallback) {
  if (fallback == "starved_all_tokens")
    return "too few tokens came to the expert: calibrated on all tokens of its layer";
  if (fallback == "starved_rtn") return "too few tokens came to the expert: rounded to nearest";
  if (fallback == "more_damping")
    return "the Hessian could not be factored: damping was raised tenfold until it could";
  if (fallback == "float64") return "the Hessian could be factored in float64 only";
  if (fallback == "rtn") return "no usable Hessian, or errors beyond float32: rounded to nearest";
  if (fallback == "scale_range")
    return "scales beyond what float16 holds: its largest or least value is stored";
  return "";
}

}  // namespace

std::string error_section(const PageRuns& runs) {
  const std::vector<std::string> kinds = kinds_of(runs);
  if (kinds.empty()) return section("error", "Error", "No matrix is on disk yet.", "");
  std::string html = kind_table(runs, kinds);
  html += "<div id=\"charts\" class=\"figure\"></div>\n";
  html += details("Layer by layer", layer_table(runs, kinds), false);
  for (const PageRun& run : runs)
    if (const auto rows = worst_rows(run.report); !rows.empty())
      html +=
          details(str(runs.size() > 1 ? run.report.label + ": the " : "The ",
                      counted(std::ssize(rows), "matrix", "matrices"), " with the largest error"),
                  matrix_table(rows));
  return section("error", "Error",
                 "Relative error of what a linear puts out on the calibration tokens: "
                 "‖(W − Q)X‖² ÷ ‖WX‖². 0 is exact, 1 is as far off as zeros would be. GPTQ should "
                 "be below rounding to nearest everywhere, most where a linear has few bits.",
                 html);
}

std::string fallback_section(const PageRuns& runs) {
  const auto kinds = keys_of_all<std::string>(runs, [](const PageRun& run) {
    std::vector<std::string> own;
    for (const auto& [kind, count] : run.figures.summary.fallbacks) own.push_back(kind);
    return own;
  });
  if (kinds.empty())
    return section("fallbacks", "Fallbacks", "None: every matrix was made as the recipe says.", "");
  HtmlTable table({{"Fallback", false}, {"What it means", false}}, {{"Matrices"}}, labels(runs));
  for (const std::string& kind : kinds) {
    std::vector<Cell> row{code_cell(kind), text_cell(meaning(kind))};
    for (const PageRun& run : runs) {
      const auto& counts = run.figures.summary.fallbacks;
      const auto found = counts.find(kind);
      row.push_back(count_cell(found == counts.end() ? 0 : found->second));
    }
    table.add(std::move(row));
  }
  std::string html = table.html();
  for (const PageRun& run : runs) {
    std::vector<const LogRow*> rows;
    for (const LogRow& row : run.report.log)
      if (row.stats.fallback != "none" && !row.stats.fallback.starts_with("starved"))
        rows.push_back(&row);
    if (rows.empty()) continue;
    const std::size_t all = rows.size();
    rows.resize(std::min(all, kListed));
    html += details(
        str(runs.size() > 1 ? run.report.label + ": " : "",
            counted(static_cast<Index>(all), "matrix", "matrices"), " but for starved experts",
            all > kListed ? str("; the first ", kListed, ", quant_log.csv has all") : ""),
        matrix_table(rows));
  }
  return section("fallbacks", "Fallbacks",
                 "Matrices that are not what the recipe asks for, since their calibration did not "
                 "allow it. Starved experts are listed above.",
                 html);
}

}  // namespace aq
