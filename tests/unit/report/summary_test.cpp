#include "aq/report/summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace aq {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

/// 64 columns of int4 in groups of 32: 8 words and 2 scales of 16 bits a row = 4.5 bits a weight.
LogRow gptq_row() {
  return {.name = "model.layers.0.mlp.experts.5.up_proj",
          .rows = 10,
          .columns = 64,
          .scheme = {.bits = 4, .group_size = 32},
          .stats = {.layer = 0,
                    .expert = 5,
                    .method = Method::gptq,
                    .tokens = 311,
                    .weight_sum = 100.25,
                    .damping = 0.01,
                    .error = 0.02,
                    .error_rtn = 0.04,
                    .weight_error = 0.005}};
}

/// 3 columns of int8 asymmetric per channel: 1 word, a scale of 32 and a zero of 8 bits a row
/// = 24 bits a weight.
LogRow rtn_row() {
  return {.name = "lm_head",
          .rows = 2,
          .columns = 3,
          .scheme = {.bits = 8,
                     .symmetric = false,
                     .group_size = kPerChannel,
                     .scale_type = ScaleType::f32},
          .stats = {.method = Method::rtn}};
}

LogRow with_fallback(LogRow row, Index layer, Index expert, const char* fallback) {
  row.stats.layer = layer;
  row.stats.expert = expert;
  row.stats.fallback = fallback;
  return row;
}

TEST(QuantLog, ExactText) {
  EXPECT_EQ(quant_log_csv({gptq_row(), with_fallback(rtn_row(), -1, -1, "rtn")}),
            "name,layer,expert,method,format,symmetric,group_size,scale_dtype,rows,columns,bits,"
            "tokens,weight_sum,damping,error,error_rtn,weight_error,fallback\n"
            "model.layers.0.mlp.experts.5.up_proj,0,5,gptq,int4,true,32,bf16,10,64,4.5,311,100.25,"
            "0.01,0.02,0.04,0.005,none\n"
            "lm_head,-1,-1,rtn,int8,false,-1,fp32,2,3,24,0,0,0,0,0,,rtn\n");
}

TEST(QuantLog, EveryLineHasTheHeadersColumns) {
  const std::string text = quant_log_csv({gptq_row(), rtn_row(), gptq_row()});
  std::vector<std::ptrdiff_t> commas;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    commas.push_back(std::count(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                text.begin() + static_cast<std::ptrdiff_t>(end), ','));
    begin = end + 1;
  }
  EXPECT_THAT(commas, ElementsAre(17, 17, 17, 17));
  EXPECT_EQ(text.rfind(quant_log_csv({}), 0), 0u) << "no rows: the header alone";
}

TEST(Summarize, HandMadeRows) {
  LogRow better = gptq_row();
  better.stats.error = 0.04;
  better.stats.error_rtn = 0.10;
  const RunSummary summary = summarize({
      gptq_row(),
      better,
      with_fallback(rtn_row(), 1, 7, "starved_rtn"),
      with_fallback(rtn_row(), 1, 7, "starved_rtn"),
      with_fallback(gptq_row(), 2, 7, "starved_all_tokens"),
      with_fallback(gptq_row(), 2, 8, "more_damping"),
  });
  EXPECT_EQ(summary.matrices, 6);
  EXPECT_THAT(summary.by_method, ElementsAre(Pair("gptq", 4), Pair("rtn", 2)));
  EXPECT_THAT(summary.fallbacks, ElementsAre(Pair("more_damping", 1), Pair("starved_all_tokens", 1),
                                             Pair("starved_rtn", 2)));
  EXPECT_EQ(summary.starved, 2) << "experts, not matrices";
  EXPECT_EQ(fallback_count(summary), 4);
  EXPECT_DOUBLE_EQ(summary.mean_bits, (4 * 640 * 4.5 + 2 * 6 * 24) / (4 * 640 + 2 * 6));
  EXPECT_DOUBLE_EQ(summary.error, (0.02 * 3 + 0.04) / 4);
  EXPECT_DOUBLE_EQ(summary.error_rtn, (0.04 * 3 + 0.10) / 4);
}

TEST(Summarize, Nothing) {
  const RunSummary summary = summarize({});
  EXPECT_EQ(summary.matrices, 0);
  EXPECT_EQ(summary.mean_bits, 0);
  EXPECT_EQ(summary.error, 0);
  EXPECT_TRUE(summary.by_method.empty());
  EXPECT_EQ(fallback_count(summary), 0);
}

RunSummary finished_run() {
  RunSummary summary = summarize({gptq_row(), with_fallback(rtn_row(), 1, 7, "starved_rtn")});
  summary.untouched = 5;
  summary.seconds = 245;
  summary.phase_seconds = {{Phase::solve, 12.34}, {Phase::read, 0.5}};
  summary.peak_rss_bytes = {Index{3} << 20, Index{1} << 20};
  summary.planned_bytes = Index{4} << 20;
  return summary;
}

TEST(SummaryJson, HasTheDocumentedKeys) {
  const auto json = nlohmann::json::parse(summary_json(finished_run()));
  EXPECT_EQ(json.at("matrices"), 2);
  EXPECT_EQ(json.at("by_method"), (nlohmann::json{{"gptq", 1}, {"rtn", 1}}));
  EXPECT_EQ(json.at("fallbacks"), (nlohmann::json{{"starved_rtn", 1}}));
  EXPECT_EQ(json.at("starved"), 1);
  EXPECT_DOUBLE_EQ(json.at("mean_bits"), (640 * 4.5 + 6 * 24) / 646);
  EXPECT_EQ(json.at("seconds"), (nlohmann::json{{"read", 0.5}, {"solve", 12.34}}));
  EXPECT_EQ(json.at("peak_rss_bytes"), (nlohmann::json{3145728, 1048576}));
  EXPECT_EQ(json.at("planned_bytes"), 4194304);
  EXPECT_EQ(json.at("untouched"), 5);
  EXPECT_EQ(summary_json(finished_run()).back(), '\n');
}

/// Objects stay objects and lists stay lists where there is nothing in them.
TEST(SummaryJson, KeepsItsTypesWhenEmpty) {
  const auto json = nlohmann::json::parse(summary_json({}));
  for (const char* key : {"by_method", "fallbacks", "seconds"})
    EXPECT_TRUE(json.at(key).is_object()) << key;
  EXPECT_TRUE(json.at("peak_rss_bytes").is_array());
}

TEST(SummaryText, SaysWhatHappened) {
  const std::string text = summary_text(finished_run());
  for (const char* part : {"2 quantized (gptq 1, rtn 1), 5 untouched", "starved_rtn 1", "1 expert",
                           "0.02", "0.04", "ratio 0.500", "4 min 05 s", "read 500 ms, solve 12.3 s",
                           "3.0 MiB, 1.0 MiB by rank", "planned 4.0 MiB", "4.681 a weight"})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_THAT(summary_text(summarize({gptq_row()})), HasSubstr("none"));
}

TEST(LayerText, ExactLines) {
  const LogRow row = gptq_row();
  EXPECT_EQ(
      layer_text({.layer = 2, .layers = 16, .seconds = 4.2, .expert_tokens = {9120, 311, 500}},
                 {row, row}),
      "layer  3/16  gptq 2  error 0.02 (rtn 0.04)  tokens/expert 311..9120  4.2 s");
  EXPECT_EQ(
      layer_text({.layer = 9, .layers = 10, .seconds = 0.25, .expert_tokens = {}}, {rtn_row()}),
      "layer 10/10  rtn 1  250 ms");
  EXPECT_EQ(
      layer_text({.layer = 0, .layers = 100, .resumed = true, .seconds = 1, .expert_tokens = {}},
                 {with_fallback(rtn_row(), 0, 3, "starved_rtn")}),
      "layer   1/100  from disk  rtn 1  fallbacks: starved_rtn 1  1.0 s");
  EXPECT_EQ(layer_text({.layer = 0, .layers = 1, .seconds = 1, .expert_tokens = {}}, {}),
            "layer 1/1  none  1.0 s");
}

TEST(MetricsLine, IsOneLineOfJson) {
  const std::string line = metrics_line(
      {.layer = 2, .layers = 16, .resumed = false, .seconds = 4.5, .expert_tokens = {7, 0, 12}},
      {gptq_row(), with_fallback(rtn_row(), 2, 1, "starved_rtn")});
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json.at("layer"), 2);
  EXPECT_EQ(json.at("resumed"), false);
  EXPECT_EQ(json.at("seconds"), 4.5);
  EXPECT_EQ(json.at("matrices"), 2);
  EXPECT_EQ(json.at("starved"), 1);
  EXPECT_EQ(json.at("expert_tokens"), (nlohmann::json{7, 0, 12}));
  EXPECT_FALSE(nlohmann::json::parse(metrics_line({}, {})).contains("expert_tokens"));
}

}  // namespace
}  // namespace aq
