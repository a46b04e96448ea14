#include "aq/report/parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "aq/core/error.h"

namespace aq {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

LogRow row(std::string name, const char* format) {
  LogRow row{.name = std::move(name),
             .rows = 10,
             .columns = 64,
             .scheme = *scheme_from_format(format),
             .stats = {.layer = 7,
                       .expert = 5,
                       .tokens = 311,
                       .weight_sum = 100.0 / 3,
                       .damping = 0.01,
                       .error = 1.0 / 7,
                       .error_rtn = 2.0 / 7,
                       .weight_error = 12.5,
                       .fallback = "more_damping"}};
  return row;
}

std::string error_of(const auto& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(ParseQuantLog, EveryFormatComesBack) {
  std::vector<LogRow> rows;
  for (const std::string_view format : format_names())
    rows.push_back(row("model.layers.7.up", std::string(format).c_str()));
  rows.back().scheme.group_size = rows.back().scheme.is_nvfp4() ? 16 : kPerChannel;
  const std::vector<LogRow> read = parse_quant_log(quant_log_csv(rows), "log");
  ASSERT_EQ(read.size(), rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(read[i].scheme, rows[i].scheme) << i;
    EXPECT_EQ(read[i].rows, 10);
    EXPECT_EQ(stats_to_json(read[i].stats), stats_to_json(rows[i].stats));
  }
}

TEST(ParseQuantLog, AsymmetricAndRoundedAndNamesWithCommas) {
  LogRow odd = row("a, \"b\",c", "int3");
  odd.scheme.symmetric = false;
  odd.scheme.group_size = kPerTensor;
  odd.scheme.scale_type = ScaleType::f32;
  odd.stats = {.method = Method::rtn, .error = std::numeric_limits<double>::infinity()};
  const std::vector<LogRow> read = parse_quant_log(quant_log_csv({odd}), "log");
  ASSERT_THAT(read, SizeIs(1));
  EXPECT_EQ(read[0].name, odd.name);
  EXPECT_EQ(read[0].scheme, odd.scheme);
  EXPECT_EQ(read[0].stats.method, Method::rtn);
  EXPECT_EQ(read[0].stats.layer, -1);
  EXPECT_EQ(read[0].stats.error, odd.stats.error);
}

/// Logs from before there was a column weight_error.
TEST(ParseQuantLog, TheFirstForm) {
  const auto read = parse_quant_log(
      "name,layer,expert,method,format,symmetric,group_size,scale_dtype,rows,columns,bits,tokens,"
      "weight_sum,damping,error,error_rtn,fallback\n"
      "lm_head,-1,-1,rtn,int8,false,-1,fp32,2,3,24,7,0.5,0,0.125,0.25,rtn\n",
      "log");
  ASSERT_THAT(read, SizeIs(1));
  EXPECT_EQ(read[0].stats.error_rtn, 0.25);
  EXPECT_EQ(read[0].stats.weight_error, -1);
  EXPECT_EQ(read[0].stats.fallback, "rtn");
}

TEST(ParseQuantLog, ErrorsNameTheLine) {
  const std::string text = quant_log_csv({row("a", "int4"), row("b", "int4")});
  const auto parse = [](const std::string& log) {
    return error_of([&] { parse_quant_log(log, "the log"); });
  };
  EXPECT_THAT(parse("name\n"), HasSubstr("the log: line 1 is not the header"));
  EXPECT_THAT(parse(text.substr(0, text.size() - 1)), HasSubstr("line 3 is cut off"));
  std::string damaged = text;
  damaged.replace(damaged.find("int4"), 4, "int9");
  EXPECT_THAT(parse(damaged), HasSubstr("line 2 is no row"));
  damaged = text;
  damaged.replace(damaged.find("\nb,7"), 4, "\nb,x");
  EXPECT_THAT(parse(damaged), HasSubstr("line 3 is no row"));
}

TEST(ParseQuantLog, NumbersThatCannotBe) {
  const auto parse = [](const LogRow& one) { return parse_quant_log(quant_log_csv({one}), "log"); };
  constexpr Index kMost = Index{1} << 20;
  LogRow large = row("a", "int4");
  large.rows = Index{1} << 31;
  large.stats.layer = large.stats.expert = kMost - 1;
  EXPECT_THAT(parse(large), SizeIs(1));
  std::vector<LogRow> bad(5, large);
  bad[0].stats.layer = kMost;
  bad[1].stats.expert = kMost;
  bad[2].rows = (Index{1} << 31) + 1;
  std::swap(bad[3].rows, bad[3].columns);
  ++bad[3].columns;
  bad[4].columns = Index{1} << 26;
  for (const LogRow& one : bad)
    EXPECT_THAT(error_of([&] { parse(one); }), HasSubstr("line 2 is no row"));
}

TEST(ParseMetrics, ComesBackAndTheUnfinishedLineIsLeftOut) {
  const LayerMetrics layer{.layer = 3, .layers = 9, .seconds = 4.5, .expert_tokens = {5, 0, 12}};
  const std::string text = metrics_line(layer, {row("a", "int4")});
  const auto read = parse_metrics(text + text + text.substr(0, 20), "metrics");
  ASSERT_THAT(read, SizeIs(2));
  EXPECT_EQ(read[1].layer, 3);
  EXPECT_EQ(read[1].seconds, 4.5);
  EXPECT_THAT(read[1].expert_tokens, ElementsAre(5, 0, 12));
  EXPECT_THAT(error_of([] { parse_metrics("{\"layer\": 1}\n", "the metrics"); }),
              HasSubstr("the metrics"));
}

TEST(ParseSessions, ComesBack) {
  RunSummary summary = summarize({row("a", "int4")});
  summary.parts = 5;
  summary.seconds = 12.25;
  summary.planned_seconds = 9.5;
  summary.untouched = 2;
  summary.peak_rss_bytes = {10, 20};
  summary.planned_bytes = 30;
  summary.phases = {
      {.phase = Phase::solve, .seconds = 2.5, .peak_bytes = 7, .most_sent = 3, .planned_sent = 4},
      {.phase = Phase::reduce, .planned_seconds = 0.5, .planned_peak_bytes = 8}};
  summary.ranks = {{"one", {{Phase::solve, 1.25}}},
                   {"two \"2\"", {{Phase::solve, 2.5}, {Phase::reduce, 0.125}}}};
  const auto read = parse_sessions(session_line(summary) + session_line(summary), "sessions");
  ASSERT_THAT(read, SizeIs(2));
  RunSummary back = read[1];
  back.matrices = summary.matrices;  // what follows from the matrices is not read
  back.by_method = summary.by_method;
  back.fallbacks = summary.fallbacks;
  back.mean_bits = summary.mean_bits;
  back.error = summary.error;
  back.error_rtn = summary.error_rtn;
  EXPECT_EQ(session_line(back), session_line(summary));
  EXPECT_EQ(back.ranks[1].host, "two \"2\"");
  EXPECT_EQ(back.ranks[0].seconds.at(Phase::reduce), 0);
}

}  // namespace
}  // namespace aq
