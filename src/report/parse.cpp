#include "aq/report/parse.h"

#include "aq/core/error.h"
#include "aq/core/json.h"

namespace aq {
namespace {

constexpr Index kMost = Index{1} << 62;
constexpr Index kMostSequence = Index{1} << 20;  // ranks, or experts of a layer

/// Calls `use` with the object of each whole line.
template <class Use>
void each_line(std::string_view text, const std::string& object, const Use& use) {
  for (Index line = 1;; ++line) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return;
    const JsonPlace place{
        .operation = "read the records of a run", .file = object, .path = str("line ", line)};
    const Json json = parse_json(text.substr(0, end), place);
    use(JsonValue{json, place});
    text.remove_prefix(end + 1);
  }
}

template <class Number, class Read>
std::vector<Number> list(const JsonValue& value, const Read& read) {
  if (!value.json.is_array() || static_cast<Index>(value.json.size()) > kMostSequence)
    value.fail_as("a list");
  std::vector<Number> numbers;
  for (std::size_t i = 0; i < value.json.size(); ++i) numbers.push_back(read(value.item(i)));
  return numbers;
}

std::vector<Index> whole_numbers(const JsonValue& value) {
  return list<Index>(value, [](const JsonValue& item) { return item.whole(0, kMost); });
}

Phase phase_of(const JsonValue& value) {
  std::array<std::string_view, kPhases.size()> names;
  for (std::size_t i = 0; i < kPhases.size(); ++i) names[i] = phase_name(kPhases[i]);
  return kPhases[value.word(names)];
}

PhaseRecord phase_record(const JsonValue& value) {
  PhaseRecord record{.phase = phase_of(value.at("phase")),
                     .seconds = value.at("seconds").number(),
                     .peak_bytes = value.at("peak_bytes").whole(0, kMost),
                     .read = value.at("read").whole(0, kMost),
                     .written = value.at("written").whole(0, kMost),
                     .sent = value.at("sent").whole(0, kMost),
                     .received = value.at("received").whole(0, kMost)};
  if (const auto most = value.find("most_sent")) record.most_sent = most->whole(0, kMost);
  if (const auto most = value.find("most_received")) record.most_received = most->whole(0, kMost);
  if (const auto planned = value.find("planned_seconds"))
    record.planned_seconds = planned->number();
  if (const auto planned = value.find("planned_peak_bytes"))
    record.planned_peak_bytes = planned->whole(0, kMost);
  if (const auto planned = value.find("planned_sent"))
    record.planned_sent = planned->whole(0, kMost);
  return record;
}

std::vector<RankTimes> rank_times(const JsonValue& value) {
  const std::vector<std::string> hosts =
      list<std::string>(value.at("hosts"), [](const JsonValue& item) { return item.text(); });
  std::vector<RankTimes> ranks;
  for (const std::string& host : hosts) ranks.push_back({host, {}});
  const JsonValue milliseconds = value.at("milliseconds");
  for (const Phase phase : kPhases) {
    const auto found = milliseconds.find(phase_name(phase));
    if (!found) continue;
    const std::vector<Index> times = whole_numbers(*found);
    if (times.size() != ranks.size()) found->fail("has not one number for each rank");
    for (std::size_t rank = 0; rank < times.size(); ++rank)
      ranks[rank].seconds[phase] = static_cast<double>(times[rank]) / 1e3;
  }
  return ranks;
}

}  // namespace

LogRow stored_row(const MatrixReader& reader, const std::string& name, const std::string& object) {
  const auto [scheme, shape] = reader.describe(name);
  return {name, shape.first, shape.second, scheme,
          stats_from_json(reader.stats(name), str(object, ": ", name))};
}

std::vector<LayerMetrics> parse_metrics(std::string_view text, const std::string& object) {
  std::vector<LayerMetrics> all;
  each_line(text, object, [&](const JsonValue& line) {
    LayerMetrics metrics{.layer = line.at("layer").whole(0, kMostSequence),
                         .resumed = line.at("resumed").flag(),
                         .seconds = line.at("seconds").number(),
                         .expert_tokens = {}};
    if (const auto tokens = line.find("expert_tokens"))
      metrics.expert_tokens = whole_numbers(*tokens);
    all.push_back(std::move(metrics));
  });
  return all;
}

std::vector<RunSummary> parse_sessions(std::string_view text, const std::string& object) {
  std::vector<RunSummary> all;
  each_line(text, object, [&](const JsonValue& line) {
    RunSummary summary;
    summary.untouched = line.at("untouched").whole(0, kMost);
    summary.scales_above = line.at("scales_above").whole(0, kMost);
    summary.scales_below = line.at("scales_below").whole(0, kMost);
    summary.hessians_reused = line.at("hessians_reused").flag();
    summary.parts = line.at("parts").whole(0, kMost);
    summary.seconds = line.at("total_seconds").number();
    summary.planned_seconds = line.at("planned_seconds").number();
    summary.peak_rss_bytes = whole_numbers(line.at("peak_rss_bytes"));
    summary.planned_bytes = line.at("planned_bytes").whole(0, kMost);
    summary.planned_read = line.at("planned_read").whole(-1, kMost);
    summary.planned_written = line.at("planned_written").whole(-1, kMost);
    summary.phases = list<PhaseRecord>(line.at("phases"), phase_record);
    summary.ranks = rank_times(line.at("ranks"));
    all.push_back(std::move(summary));
  });
  return all;
}

}  // namespace aq
