#include <algorithm>
#include <cmath>

#include "aq/core/text.h"
#include "page/sections.h"

namespace aq {
namespace {

constexpr std::size_t kListedRanks = 64;
constexpr Index kPrintedRanks = 16;

const PhaseRecord* record_of(const RunSummary* session, Phase phase) {
  if (session == nullptr) return nullptr;
  const auto found = std::ranges::find(session->phases, phase, &PhaseRecord::phase);
  return found == session->phases.end() ? nullptr : &*found;
}

double seconds_of(const RankTimes& rank, Phase phase) {
  const auto found = rank.seconds.find(phase);
  return found == rank.seconds.end() ? 0 : found->second;
}

double total_of(const RankTimes& rank) {
  double sum = 0;
  for (const auto& [phase, seconds] : rank.seconds) sum += seconds;
  return sum;
}

double mean_seconds(const RunSummary& session, Phase phase) {
  double sum = 0;
  for (const RankTimes& rank : session.ranks) sum += seconds_of(rank, phase);
  return session.ranks.empty() ? -1 : sum / static_cast<double>(session.ranks.size());
}

Cell planned_bytes(Index bytes) {
  return bytes_cell(static_cast<double>(bytes));
}

std::string phase_table(const PageRuns& runs) {
  std::vector<Column> columns{
      {"Slowest rank"},
      {"Mean", true, "of all ranks: far below the slowest is an uneven load"},
      {"Time planned", true, "for the machine that quantize was told of"},
      {"Peak memory", true, "of the rank with the most, above its start"},
      {"Memory planned", true, "the most that the plan allows for"}};
  const bool one = runs.size() == 1;
  if (one)
    for (const char* title : {"Read", "Written", "Sent", "Sent, planned"})
      columns.push_back({title});
  HtmlTable table({{"Phase", false}}, columns, labels(runs));
  for (const Phase phase : kPhases) {
    std::vector<Cell> row{code_cell(phase_name(phase))};
    bool any = false;
    for (const PageRun& run : runs) {
      const RunSummary* session = run.report.session();
      const PhaseRecord* record = record_of(session, phase);
      if (record == nullptr) {
        row.resize(row.size() + columns.size(), missing_cell());
        continue;
      }
      any = true;
      row.push_back(seconds_cell(record->seconds));
      double most = 0;
      for (const PhaseRecord& other : session->phases) most = std::max(most, other.seconds);
      row.back().share = most > 0 ? record->seconds / most : 0;
      row.push_back(seconds_cell(mean_seconds(*session, phase)));
      row.push_back(seconds_cell(record->planned_seconds));
      row.push_back(planned_bytes(record->peak_bytes));
      row.push_back(planned_bytes(record->planned_peak_bytes));
      if (one)
        for (const Index bytes :
             {record->read, record->written, record->sent, record->planned_sent})
          row.push_back(planned_bytes(bytes));
    }
    if (any) table.add(std::move(row));
  }
  return table.html();
}

std::string total_table(const PageRuns& runs) {
  HtmlTable table({{"All phases", false}}, {{"Value"}}, labels(runs));
  const auto add = [&](std::string_view title, const auto& cell) {
    std::vector<Cell> row{text_cell(title)};
    for (const PageRun& run : runs) {
      const RunSummary* session = run.report.session();
      row.push_back(session ? cell(*session) : missing_cell());
    }
    table.add(std::move(row));
  };
  add("Ranks", [](const RunSummary& s) { return count_cell(std::ssize(s.ranks)); });
  add("Layers quantized, head included", [](const RunSummary& s) { return count_cell(s.parts); });
  add("Time", [](const RunSummary& s) { return seconds_cell(s.seconds); });
  add("Time, planned", [](const RunSummary& s) { return seconds_cell(s.planned_seconds); });
  add("Peak memory of a rank", [](const RunSummary& s) {
    const auto most = std::ranges::max_element(s.peak_rss_bytes);
    return most == s.peak_rss_bytes.end() ? missing_cell() : planned_bytes(*most);
  });
  add("Peak memory, planned", [](const RunSummary& s) { return planned_bytes(s.planned_bytes); });
  add("Read, planned", [](const RunSummary& s) { return planned_bytes(s.planned_read); });
  add("Written, planned", [](const RunSummary& s) { return planned_bytes(s.planned_written); });
  return table.html();
}

/// Ranks of one run by phase: all of them, or those with the most to do.
std::string rank_table(const RunSummary& session) {
  std::vector<std::size_t> order(session.ranks.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, std::greater<>(),
                           [&](std::size_t i) { return total_of(session.ranks[i]); });
  order.resize(std::min(order.size(), kListedRanks));
  std::ranges::sort(order);
  std::vector<Phase> phases;
  for (const PhaseRecord& record : session.phases) phases.push_back(record.phase);
  std::vector<Column> columns{{"Rank"}, {"Host", false}, {"Peak memory"}};
  for (const Phase phase : phases) columns.push_back({std::string(phase_name(phase))});
  HtmlTable table(columns, {}, {});
  for (const std::size_t i : order) {
    std::vector<Cell> row{count_cell(static_cast<Index>(i)), text_cell(session.ranks[i].host),
                          i < session.peak_rss_bytes.size()
                              ? planned_bytes(session.peak_rss_bytes[i])
                              : missing_cell()};
    for (const Phase phase : phases)
      row.push_back(seconds_cell(seconds_of(session.ranks[i], phase)));
    table.add(std::move(row));
  }
  return table.html();
}

std::string layer_table(const PageRuns& runs) {
  std::vector<Index> layers = keys_of_all<Index>(runs, [](const PageRun& run) {
    std::vector<Index> own;
    for (const auto& [layer, metrics] : run.report.layers) own.push_back(layer);
    return own;
  });
  std::ranges::sort(layers);
  HtmlTable table({{"Layer"}}, {{"Time"}}, labels(runs));
  for (const Index layer : layers) {
    std::vector<Cell> row{count_cell(layer)};
    for (const PageRun& run : runs) {
      const auto found = run.report.layers.find(layer);
      row.push_back(found == run.report.layers.end() ? missing_cell()
                                                     : seconds_cell(found->second.seconds));
    }
    table.add(std::move(row));
  }
  return table.empty() ? "" : details("Time of each layer", table.html(), false);
}

}  // namespace

std::string time_section(const PageRuns& runs) {
  std::string html;
  bool any = false;
  for (const PageRun& run : runs) {
    const std::string whose = runs.size() > 1 ? run.report.label + ": " : "";
    const RunSummary* session = run.report.session();
    any = any || session != nullptr;
    if (session == nullptr)
      html += paragraph(str(whose,
                            "phases and memory are not recorded: no start of the program came "
                            "to its end, or the version that made the run did not record them."),
                        "remark");
    else if (session->parts <= run.report.manifest.layers)
      html += paragraph(str(whose,
                            "the run was done in several starts; shown is, of the starts that "
                            "came to their end, the one that quantized most, ",
                            counted(session->parts, "layer", "layers"), " of ",
                            run.report.manifest.layers, " and the head."),
                        "remark");
  }
  if (any) html += total_table(runs) + phase_table(runs);
  for (const PageRun& run : runs) {
    const RunSummary* session = run.report.session();
    if (session == nullptr || session->ranks.empty()) continue;
    const Index ranks = std::ssize(session->ranks);
    const bool all = ranks <= static_cast<Index>(kListedRanks);
    html += details(str(runs.size() > 1 ? run.report.label + ": " : "",
                        all ? counted(ranks, "rank", "ranks") + " by phase"
                            : str("The ", kListedRanks, " of ", grouped(ranks),
                                  " ranks with the most seconds, by phase")),
                    rank_table(*session), ranks <= kPrintedRanks);
  }
  html += layer_table(runs);
  return section("time", "Time and memory",
                 "A rank waits for the others at the end of each stage, so the slowest rank of a "
                 "phase decides. Time is planned only when quantize was told of the machine.",
                 html);
}

}  // namespace aq
