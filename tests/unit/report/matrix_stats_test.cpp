#include "aq/report/matrix_stats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "aq/core/error.h"

namespace aq {
namespace {

MatrixStats some_stats() {
  return {.layer = 3,
          .expert = 17,
          .method = Method::rtn,
          .tokens = 123456789012,
          .weight_sum = 0.1 + 0.2,
          .damping = 1e-300,
          .error = 1.0 / 3,
          .error_rtn = 5e-324,
          .fallback = "starved_rtn"};
}

TEST(StatsJson, ExactText) {
  MatrixStats stats;
  stats.layer = 2;
  stats.tokens = 40;
  stats.weight_sum = 12.5;
  stats.damping = 0.01;
  stats.error = 0.25;
  stats.error_rtn = 0.5;
  EXPECT_EQ(stats_to_json(stats),
            R"({"method":"gptq","layer":2,"expert":-1,"tokens":40,"weight_sum":12.5,)"
            R"("damping":0.01,"order":"natural","error":0.25,"error_rtn":0.5,"fallback":"none"})");
}

TEST(StatsJson, EveryFieldComesBackExactly) {
  for (const Method method : {Method::gptq, Method::rtn, Method::copy}) {
    MatrixStats stats = some_stats();
    stats.method = method;
    const MatrixStats back = stats_from_json(stats_to_json(stats), "m");
    EXPECT_EQ(back.layer, stats.layer);
    EXPECT_EQ(back.expert, stats.expert);
    EXPECT_EQ(back.method, stats.method);
    EXPECT_EQ(back.tokens, stats.tokens);
    EXPECT_EQ(back.weight_sum, stats.weight_sum);
    EXPECT_EQ(back.damping, stats.damping);
    EXPECT_EQ(back.error, stats.error);
    EXPECT_EQ(back.error_rtn, stats.error_rtn);
    EXPECT_EQ(back.fallback, stats.fallback);
  }
}

TEST(StatsJson, KeysThatAreNotKnownDoNotHarm) {
  auto json = nlohmann::json::parse(stats_to_json(some_stats()));
  json["added_later"] = {1, 2};
  EXPECT_EQ(stats_from_json(json.dump(), "m").tokens, 123456789012);
}

void expect_refused(const std::string& text) {
  try {
    stats_from_json(text, "shards/x.h5 model.layers.0.o");
    ADD_FAILURE() << "accepted " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_THAT(error.what(), testing::HasSubstr("shards/x.h5 model.layers.0.o"));
  }
}

TEST(StatsJson, DamagedTextIsAnErrorThatNamesTheMatrix) {
  const std::string whole = stats_to_json(some_stats());
  for (std::size_t length = 0; length < whole.size(); ++length)
    expect_refused(whole.substr(0, length));
  for (const char* text : {"null", "[]", "3", "{}", "\"gptq\"", "{\"method\": \"gptq\"}", "\xff"})
    expect_refused(text);
}

TEST(StatsJson, AMissingOrWrongFieldIsAnError) {
  for (const char* key : {"method", "layer", "expert", "tokens", "weight_sum", "damping", "error",
                          "error_rtn", "fallback"}) {
    auto json = nlohmann::json::parse(stats_to_json(some_stats()));
    json[key] = nullptr;
    expect_refused(json.dump());
    json[key] = nlohmann::json::array({1});
    expect_refused(json.dump());
    json.erase(key);
    expect_refused(json.dump());
  }
}

TEST(StatsJson, AValueThatCannotBeIsAnError) {
  const auto with = [](const char* key, nlohmann::json value) {
    auto json = nlohmann::json::parse(stats_to_json(some_stats()));
    json[key] = std::move(value);
    return json.dump();
  };
  for (const char* method : {"", "GPTQ", "awq", "?"}) expect_refused(with("method", method));
  for (const char* key : {"layer", "expert", "tokens"}) {
    expect_refused(with(key, 1.5));
    expect_refused(with(key, 1e300));
    expect_refused(with(key, true));
    expect_refused(with(key, 18446744073709551615u));
    expect_refused(with(key, -2));
  }
  for (const char* key : {"layer", "expert"}) {
    EXPECT_NO_THROW(stats_from_json(with(key, (1 << 20) - 1), "m"));
    expect_refused(with(key, 1 << 20));
  }
  expect_refused(with("tokens", -1));
  for (const char* key : {"weight_sum", "damping", "error", "error_rtn", "weight_error"})
    expect_refused(with(key, true));
}

}  // namespace
}  // namespace aq
