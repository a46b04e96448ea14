#include <algorithm>
#include <array>
#include <cmath>

#include "aq/core/text.h"
#include "page/sections.h"

namespace aq {
namespace {

/// One thing that was looked at: "good", "note" (worth a look) or "bad".
struct Check {
  std::string_view mark;
  std::string text;
};

Check check_finished(const RunReport& run) {
  std::string state;
  if (run.status) state = str("; the state written last is “", run.status->state, "”");
  if (run.status && !run.status->message.empty()) state += str(": ", run.status->message);
  if (!run.finished()) return {"bad", str("Not finished: ", missing_part(run), " on disk", state)};
  std::string text = str("Finished: ", counted(run.manifest.layers, "layer", "layers"),
                         " and the head are on disk");
  const bool has_model = run.model_bytes > 0;
  if (!has_model)
    text += str(", but ", run.merged ? "model.h5 is" : "model.h5 and quant_log.csv are",
                " not written: start the same command again");
  constexpr std::array<std::string_view, 3> kEnded{"failed", "died", "stopped"};
  if (run.status && std::ranges::find(kEnded, run.status->state) != kEnded.end())
    return {"bad", text + state};
  return {has_model ? "good" : "note", text};
}

Check check_starved(const PageRun& run) {
  const RunFigures& figures = run.figures;
  if (figures.expert_count == 0) return {"good", "No routed experts were quantized"};
  const Index starved = figures.summary.starved;
  const std::string of_all = str(" of ", grouped(figures.expert_count), " experts");
  std::string text = starved == 0 ? "No expert was starved of calibration tokens"
                                  : str(grouped(starved), of_all, " were starved: fewer than ",
                                        setting(run.report, "min_tokens"), " tokens");
  if (figures.unused_experts > 0)
    text += str("; ", grouped(figures.unused_experts), " saw no token at all");
  return {starved + figures.unused_experts > 0 ? "note" : "good", text};
}

Check check_fallbacks(const RunFigures& figures) {
  std::string kinds;
  for (const auto& [kind, count] : figures.summary.fallbacks)
    if (!kind.starts_with("starved"))
      kinds += str(kinds.empty() ? "" : ", ", kind, " ", grouped(count));
  if (kinds.empty()) return {"good", "No matrix fell back to another method"};
  return {"note", "Matrices fell back: " + kinds};
}

/// Of `count` matrices, or of none.
Check check_count(Index count, std::string_view mark, std::string_view none,
                  std::string_view some) {
  if (count == 0) return {"good", std::string(none)};
  return {mark, str(counted(count, "matrix", "matrices"), some)};
}

std::vector<Check> checks_of(const PageRun& run) {
  const RunFigures& figures = run.figures;
  std::vector<Check> checks{
      check_finished(run.report),
      check_count(figures.not_finite, "bad", "Every recorded figure is finite",
                  " with a figure that is infinite or NaN"),
      check_count(figures.as_zeros, "bad", "No matrix is as far off as zeros would be",
                  " as far from the weights, or from what they put out, as zeros would be"),
      check_starved(run),
      check_fallbacks(figures),
      check_count(figures.worse_than_rtn, "note", "No matrix is worse than rounded to nearest",
                  " with a larger error than rounded to nearest")};
  if (figures.unmeasured > 0)
    checks.push_back({"note", str(counted(figures.unmeasured, "matrix", "matrices"),
                                  " without a Hessian: the error was not measured")});
  return checks;
}

std::string sign_of(std::string_view mark) {
  return mark == "good" ? "✓" : mark == "note" ? "!" : "✕";
}

std::string verdict_html(const PageRun& run, bool several) {
  const std::vector<Check> checks = checks_of(run);
  const auto bad = std::ranges::count(checks, "bad", &Check::mark);
  const auto notes = std::ranges::count(checks, "note", &Check::mark);
  const std::string_view mark = bad > 0 ? "bad" : notes > 0 ? "note" : "good";
  const std::string title = bad > 0     ? "Do not use it before this is understood"
                            : notes > 0 ? "Good, with something to look at"
                                        : "Nothing stands against this run";
  std::string html = str("<div class=\"verdict ", mark, "\"><h3>");
  if (several) html += str("<span class=\"label\">", escape_html(run.report.label), "</span> ");
  html += str(escape_html(title), "</h3><ul>");
  for (const Check& check : checks)
    html += str("<li class=\"", check.mark, "\"><span class=\"sign\">", sign_of(check.mark),
                "</span>", escape_html(check.text), "</li>\n");
  return html + "</ul></div>\n";
}

/// "gptq int4 g128 (96.2 % of the weights), gptq int8 per-channel (3.8 %)"
std::string recipe_line(const RunReport& run) {
  constexpr std::size_t kShown = 3;
  std::map<std::string, double> weights;
  double all = 0;
  for (const LogRow& row : run.log) {
    const auto here = static_cast<double>(row.rows * row.columns);
    weights[str(method_name(row.stats.method), " ", to_string(row.scheme))] += here;
    all += here;
  }
  std::vector<std::pair<double, std::string>> parts;
  for (const auto& [what, count] : weights) parts.emplace_back(count, what);
  std::ranges::sort(parts, std::greater<>());
  if (parts.size() == 1) return parts.front().second;
  std::string line;
  for (std::size_t i = 0; i < std::min(parts.size(), kShown); ++i)
    line += str(i == 0 ? "" : ", ", parts[i].second, " (", fixed(parts[i].first / all * 100, 1),
                i == 0 ? " % of the weights)" : " %)");
  if (parts.size() > kShown) line += str(" and ", parts.size() - kShown, " more");
  return line;
}

std::string ratio_text(double before, double after) {
  return before > 0 && after > 0 ? str(" (", fixed(after / before * 100, 1), " %)") : "";
}

Cell size_cell(double before, double after) {
  const auto text = [](double bytes) { return bytes_text(static_cast<Index>(bytes)); };
  if (!(before > 0))
    return after > 0 ? text_cell(text(after) + " after; before not known") : missing_cell();
  if (!(after > 0)) return text_cell(text(before) + " before; after not known");
  return text_cell(str(text(before), " → ", text(after), ratio_text(before, after)));
}

Cell or_missing(const std::string& text) {
  return text.empty() ? missing_cell() : text_cell(text);
}

std::string model_text(const RunReport& run) {
  std::string text = model_name(run);
  if (run.source)
    text += str(" (", run.source->architecture, ", ",
                fixed(static_cast<double>(run.source->parameters) / 1e6, 1), " M parameters)");
  return text;
}

std::string facts_table(const PageRuns& runs) {
  HtmlTable table({{"", false}}, {{"", false}}, labels(runs));
  const auto row = [&](std::string_view title, const auto& cell) {
    std::vector<Cell> cells{text_cell(title)};
    for (const PageRun& run : runs) cells.push_back(cell(run));
    table.add(std::move(cells));
  };
  row("Model", [](const PageRun& run) { return or_missing(model_text(run.report)); });
  row("Recipe", [](const PageRun& run) { return or_missing(recipe_line(run.report)); });
  row("Matrices", [](const PageRun& run) {
    const RunSummary* session = run.report.session();
    return text_cell(str(grouped(run.figures.summary.matrices), " quantized",
                         session ? str(", ", grouped(session->untouched), " untouched") : ""));
  });
  row("Bits a weight", [](const PageRun& run) {
    return run.figures.weights > 0 ? text_cell(str(fixed(run.figures.bits / run.figures.weights, 3),
                                                   " in quantized matrices, scales included"))
                                   : missing_cell();
  });
  row("Quantized matrices",
      [](const PageRun& run) { return size_cell(run.figures.stored_bytes, run.figures.bits / 8); });
  row("Whole checkpoint, about", [](const PageRun& run) {
    const auto all = static_cast<double>(run.report.source_bytes);
    const double after = all - run.figures.stored_bytes + run.figures.bits / 8;
    return size_cell(all, run.report.finished() ? after : 0);
  });
  row("Mean error", [](const PageRun& run) {
    const RunSummary& summary = run.figures.summary;
    if (!(summary.error_rtn > 0)) return missing_cell();
    return text_cell(str(significant(summary.error), " of the output’s energy; rounded to nearest ",
                         significant(summary.error_rtn), " (ratio ",
                         fixed(run.figures.error_ratio(), 3), ")"));
  });
  row("Time", [](const PageRun& run) {
    const RunSummary* session = run.report.session();
    if (session == nullptr) return missing_cell();
    const Index parts = run.report.manifest.layers + 1;
    return text_cell(
        str(duration_text(session->seconds), " on ",
            counted(std::ssize(session->ranks), "rank", "ranks"),
            session->parts < parts ? str(" for ", session->parts, " of ", parts, " parts") : ""));
  });
  return table.html();
}

}  // namespace

std::vector<std::string> labels(const PageRuns& runs) {
  std::vector<std::string> all;
  for (const PageRun& run : runs) all.push_back(run.report.label);
  return all;
}

std::string model_name(const RunReport& run) {
  const std::filesystem::path path = run.told("model");
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

std::string missing_part(const RunReport& run) {
  if (run.finished()) return "";
  return str(run.complete_layers(), " of ", counted(run.manifest.layers, "layer", "layers"));
}

std::string summary_section(const PageRuns& runs) {
  std::string html;
  for (const PageRun& run : runs) html += verdict_html(run, runs.size() > 1);
  return section("summary", "Summary", "",
                 "<div class=\"verdicts\">" + html + "</div>" + facts_table(runs));
}

}  // namespace aq
