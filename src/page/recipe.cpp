#include <algorithm>
#include <cmath>

#include "aq/core/json.h"
#include "aq/core/text.h"
#include "page/sections.h"

namespace aq {
namespace {

constexpr std::size_t kMostRecipe = std::size_t{1} << 16;  // bytes of it that are shown

/// Cells of one fact of all runs, marked where the runs differ.
std::vector<Cell> facts(const std::string& title, const std::vector<std::string>& values) {
  const bool differ = std::ranges::any_of(
      values, [&](const std::string& value) { return value != values.front(); });
  std::vector<Cell> row{text_cell(title)};
  for (const std::string& value : values)
    row.push_back(value.empty() ? missing_cell() : text_cell(value, differ ? "different" : ""));
  return row;
}

template <class Value>
std::vector<std::string> values_of(const PageRuns& runs, const Value& value) {
  std::vector<std::string> values;
  for (const PageRun& run : runs) values.push_back(value(run.report));
  return values;
}

/// As assigned; without the checkpoint as the log has it.
KindCounts assigned(const RunReport& run) {
  if (run.source) return run.source->assigned;
  KindCounts counts;
  for (const LogRow& row : run.log)
    count_kind(module_kind(row.name, row.stats.layer, row.stats.expert),
               str(method_name(row.stats.method), " ", to_string(row.scheme)), counts);
  return counts;
}

std::string module_table(const PageRuns& runs) {
  std::vector<KindCounts> of_runs;
  for (const PageRun& run : runs) of_runs.push_back(assigned(run.report));
  KindCounts all;  // of every run, those of one kind together
  for (const KindCounts& counts : of_runs)
    for (const auto& [key, count] : counts) count_kind(key[0], key[1], all);
  const auto place = [&](const std::string& kind) {
    return std::ranges::find(all, kind, [](const auto& one) { return one.first[0]; });
  };
  KindCounts rows = all;
  std::ranges::stable_sort(rows, {}, [&](const auto& one) { return place(one.first[0]); });
  HtmlTable table({{"Linear", false}, {"What is done", false}}, {{"Linears"}}, labels(runs));
  for (const auto& [key, ignored] : rows) {
    std::vector<Cell> row{code_cell(key[0]), text_cell(key[1])};
    for (const KindCounts& counts : of_runs) {
      const auto found = std::ranges::find(counts, key, &KindCounts::value_type::first);
      row.push_back(found == counts.end() ? missing_cell() : count_cell(found->second));
    }
    table.add(std::move(row));
  }
  return table.html();
}

std::vector<std::string> setting_names(const PageRun& run) {
  const auto json = OrderedJson::parse(run.report.identity("settings"), nullptr, false);
  std::vector<std::string> names;
  if (json.is_object())
    for (const auto& [key, value] : json.items()) names.push_back(key);
  return names;
}

std::string settings_table(const PageRuns& runs) {
  HtmlTable table({{"Setting", false}}, {{"Value", false}}, labels(runs));
  for (const std::string& key : keys_of_all<std::string>(runs, setting_names)) {
    std::vector<Cell> row = facts(key, values_of(runs, [&](const RunReport& run) {
                                    const std::string value = setting(run, key);
                                    const bool quoted = value.starts_with('"');
                                    return quoted ? value.substr(1, value.size() - 2) : value;
                                  }));
    row.front() = code_cell(key);
    table.add(std::move(row));
  }
  return table.html();
}

Cell verdict_cell(const RunReport& run, std::string_view target) {
  if (!run.source) return missing_cell();
  const auto found = std::ranges::find(run.source->verdicts, target, &Verdict::target);
  if (found == run.source->verdicts.end()) return missing_cell();
  const bool notes = found->served() && !found->objections.empty();
  return text_cell(verdict_text(*found), !found->served() ? "bad" : notes ? "note" : "good");
}

}  // namespace

std::string size_section(const PageRuns& runs) {
  const bool one = runs.size() == 1;
  std::vector<Column> columns{{"Matrices"},
                              {"Bits a weight", true, "scales and zeros included"},
                              {"Before", true, "bytes in the checkpoint"},
                              {"After"}};
  if (one) columns.insert(columns.end(), {{"After ÷ before"}, {"Weights"}});
  HtmlTable table({{"Linear", false}}, columns, labels(runs));
  const auto cells = [one](Index matrices, double weights, double before, double bits,
                           std::vector<Cell>& row) {
    row.push_back(count_cell(matrices));
    row.push_back(number_cell(bits / weights, fixed(bits / weights, 3)));
    row.push_back(bytes_cell(before));
    row.push_back(bytes_cell(bits / 8));
    if (!one) return;
    const double share = bits / 8 / before;
    row.push_back(number_cell(share, str(fixed(share * 100, 1), " %")));
    row.push_back(count_cell(static_cast<Index>(weights)));
  };
  for (const std::string& kind :
       keys_of_all<std::string>(runs, [](const PageRun& run) { return run.figures.kinds; })) {
    std::vector<Cell> row{code_cell(kind)};
    for (const PageRun& run : runs) {
      const auto found = run.figures.by_kind.find(kind);
      const KindFigures kinds = found == run.figures.by_kind.end() ? KindFigures{} : found->second;
      cells(kinds.matrices, kinds.weights, kinds.stored_bytes, kinds.bits, row);
    }
    table.add(std::move(row));
  }
  if (table.empty()) return section("size", "Bits and bytes", "No matrix is on disk yet.", "");
  std::vector<Cell> total{text_cell("All quantized")};
  for (const PageRun& run : runs)
    cells(run.figures.summary.matrices, run.figures.weights, run.figures.stored_bytes,
          run.figures.bits, total);
  table.add_total(std::move(total));
  std::string html = table.html();
  for (const PageRun& run : runs) {
    const std::string whose = runs.size() > 1 ? run.report.label + ": " : "";
    if (run.report.source_bytes > 0)
      html += paragraph(
          str(whose, "Files of the checkpoint: ", bytes_text(run.report.source_bytes),
              run.report.model_bytes > 0 ? str("; model.h5: ", bytes_text(run.report.model_bytes),
                                               ", the quantized matrices alone")
                                         : ""),
          "remark");
  }
  return section("size", "Bits and bytes", "", html);
}

std::string recipe_section(const PageRuns& runs) {
  std::string html = module_table(runs) + "<h3>Settings</h3>\n" + settings_table(runs);
  for (const PageRun& run : runs) {
    const std::string text = run.report.told("recipe"), file = run.report.told("recipe_file");
    if (text.empty()) continue;
    const std::string title = str(runs.size() > 1 ? run.report.label + ": " : "",
                                  "The recipe as written", file.empty() ? "" : ", " + file);
    html += text.size() > kMostRecipe ? paragraph(str(title, ": ", bytes_text(std::ssize(text)),
                                                      ", to be found in manifest.json"),
                                                  "remark")
                                      : details(title, str("<pre>", escape_html(text), "</pre>"));
  }
  return section("recipe", "Recipe",
                 "What is done with each kind of linear, with all settings as they were in force.",
                 html);
}

std::string servers_section(const PageRuns& runs) {
  std::string html;
  HtmlTable table({{"Server", false}}, {{"Loads the exported checkpoint", false}}, labels(runs));
  for (const std::string_view target : serving_targets()) {
    std::vector<Cell> row{code_cell(target)};
    for (const PageRun& run : runs) row.push_back(verdict_cell(run.report, target));
    table.add(std::move(row));
  }
  html += table.html();
  for (const PageRun& run : runs)
    if (!run.report.source)
      html += paragraph(str(run.report.label,
                            ": not known, and neither are the bytes before, since the "
                            "checkpoint was not read. ",
                            run.report.no_source),
                        "remark");
  return section(
      "servers", "Servers",
      "Whether vLLM (from compressed-tensors and from GPTQ), transformers and SGLang will "
      "load what aq-dist export makes of the run; docs/serving.md has the rules.",
      html);
}

std::string provenance_section(const PageRuns& runs) {
  HtmlTable table({{"", false}}, {{"Value", false}}, labels(runs));
  const auto add = [&](const std::string& title, const auto& value) {
    table.add(facts(title, values_of(runs, value)));
  };
  const auto told = [&](const std::string& title, const char* key) {
    add(title, [key](const RunReport& run) { return run.told(key); });
  };
  const auto identity = [&](const std::string& title, const char* key) {
    add(title, [key](const RunReport& run) { return run.identity(key); });
  };
  add("Run directory", [](const RunReport& run) { return run.directory.string(); });
  add("State", [](const RunReport& run) { return run.status ? run.status->state : ""; });
  told("Checkpoint", "model");
  identity("Checkpoint’s fingerprint", "model");
  identity("Architecture", "architecture");
  told("Calibration tokens", "calibration");
  told("Hessians of", "hessians");
  identity("Tokens’ fingerprint", "tokens");
  add("Sequences × tokens", [](const RunReport& run) {
    return str(run.identity("sequences"), " × ", run.identity("sequence_length"));
  });
  identity("Lanes", "lanes");
  identity("Numerics", "numerics");
  told("Ranks", "ranks");
  told("Threads a rank", "threads");
  return section("provenance", "What the run was made from",
                 runs.size() > 1 ? "Where the runs differ, the values are marked." : "",
                 table.html());
}

}  // namespace aq
