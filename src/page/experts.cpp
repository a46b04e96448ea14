#include <algorithm>
#include <numeric>

#include "aq/core/text.h"
#include "page/sections.h"

namespace aq {
namespace {

constexpr Index kFolded = 12;  // rows; more are shown when asked for

std::vector<Index> layers_with_experts(const PageRuns& runs) {
  std::vector<Index> layers = keys_of_all<Index>(runs, [](const PageRun& run) {
    std::vector<Index> own;
    for (const auto& [layer, experts] : run.figures.experts) own.push_back(layer);
    return own;
  });
  std::ranges::sort(layers);
  return layers;
}

const std::vector<ExpertFigures>* experts_of(const PageRun& run, Index layer) {
  const auto found = run.figures.experts.find(layer);
  return found == run.figures.experts.end() ? nullptr : &found->second;
}

/// Least, median, most, most / mean, without a token, starved.
std::vector<Cell> use_of_layer(const std::vector<ExpertFigures>* experts) {
  std::vector<Cell> missing(6, missing_cell());
  if (experts == nullptr || experts->empty()) return missing;
  std::vector<Index> tokens;
  for (const ExpertFigures& expert : *experts)
    if (expert.tokens >= 0) tokens.push_back(expert.tokens);
  const Cell starved = count_cell(std::ranges::count(*experts, true, &ExpertFigures::starved));
  missing.back() = starved;
  if (tokens.size() < experts->size()) return missing;
  std::ranges::sort(tokens);
  const double mean = static_cast<double>(std::reduce(tokens.begin(), tokens.end())) /
                      static_cast<double>(tokens.size());
  const double skew = mean > 0 ? static_cast<double>(tokens.back()) / mean : 0;
  return {count_cell(tokens.front()),
          count_cell(tokens[tokens.size() / 2]),
          count_cell(tokens.back()),
          number_cell(skew, fixed(skew, 2)),
          count_cell(std::ranges::count(tokens, 0)),
          starved};
}

/// "12 (no token), 45 (3 tokens)", in the order of the experts.
std::string starved_text(const std::vector<ExpertFigures>& experts) {
  std::string text;
  for (Index e = 0; e < std::ssize(experts); ++e) {
    if (!experts[e].starved) continue;
    text += str(text.empty() ? "" : ", ", e);
    if (experts[e].tokens >= 0) text += str(" (", grouped(experts[e].tokens), ")");
  }
  return text;
}

/// What was done with the starved experts of a layer.
std::string starved_remedy(const std::vector<ExpertFigures>& experts) {
  const auto first = std::ranges::find(experts, true, &ExpertFigures::starved);
  if (first == experts.end()) return "";
  return first->fallback == "starved_rtn" ? "rounded to nearest" : "calibrated on all tokens";
}

}  // namespace

std::string experts_section(const PageRuns& runs) {
  const std::vector<Index> layers = layers_with_experts(runs);
  if (layers.empty())
    return section("experts", "Expert utilisation", "No run has routed experts on disk.", "");
  std::string html;
  for (const PageRun& run : runs)
    if (run.report.layers.empty() && !run.report.log.empty())
      html += paragraph(str(run.report.label,
                            ": what the router sent to each expert is not recorded; "
                            "shown is what calibrated them, where that is the same."),
                        "remark");
  html += "<div id=\"maps\" class=\"figure\"></div>\n";
  HtmlTable table({{"Layer"}},
                  {{"Least"},
                   {"Median"},
                   {"Most"},
                   {"Most ÷ mean", true, "1 is an even load"},
                   {"No token", true, "experts without any token"},
                   {"Starved", true, "experts with fewer tokens than min_tokens"}},
                  labels(runs));
  for (const Index layer : layers) {
    std::vector<Cell> row{count_cell(layer)};
    for (const PageRun& run : runs)
      for (Cell& cell : use_of_layer(experts_of(run, layer))) row.push_back(std::move(cell));
    table.add(std::move(row));
  }
  html += details("Tokens an expert, layer by layer", table.html());
  return section(
      "experts", "Expert utilisation",
      "Calibration tokens that the router sent to each expert. An expert with few tokens "
      "has a Hessian that says little; one that stays dark in every layer of a large "
      "calibration set points to calibration text unlike what the model was trained on.",
      html);
}

std::string starved_section(const PageRuns& runs) {
  Index layers = 0;
  HtmlTable table({{"Layer"}}, {{"Starved"}, {"Experts (tokens)", false}, {"What was done", false}},
                  labels(runs));
  for (const Index layer : layers_with_experts(runs)) {
    bool any = false;
    std::vector<Cell> row{count_cell(layer)};
    for (const PageRun& run : runs) {
      const std::vector<ExpertFigures>* experts = experts_of(run, layer);
      const Index count = experts ? std::ranges::count(*experts, true, &ExpertFigures::starved) : 0;
      any = any || count > 0;
      row.push_back(experts ? count_cell(count) : missing_cell());
      row.push_back(text_cell(count > 0 ? starved_text(*experts) : ""));
      row.push_back(text_cell(count > 0 ? starved_remedy(*experts) : ""));
    }
    if (!any) continue;
    ++layers;
    table.add(std::move(row));
  }
  if (table.empty())
    return section("starved", "Starved experts",
                   "None: every quantized expert had as many tokens as the recipe asks for.", "");
  return section(
      "starved", "Starved experts",
      "Experts with fewer calibration tokens than min_tokens, by number, with the tokens "
      "that the router sent to them.",
      layers > kFolded ? details(str(layers, " layers with starved experts"), table.html())
                       : table.html());
}

}  // namespace aq
