#include "aq/report/matrix_stats.h"

#include <nlohmann/json.hpp>

namespace aq {

std::string stats_to_json(const MatrixStats& stats) {
  nlohmann::ordered_json json{{"method", method_name(stats.method)},
                              {"layer", stats.layer},
                              {"expert", stats.expert},
                              {"tokens", stats.tokens},
                              {"weight_sum", stats.weight_sum},
                              {"damping", stats.damping},
                              {"order", "natural"},
                              {"error", stats.error},
                              {"error_rtn", stats.error_rtn},
                              {"fallback", stats.fallback}};
  if (stats.scales_above > 0) json["scales_above"] = stats.scales_above;
  if (stats.scales_below > 0) json["scales_below"] = stats.scales_below;
  return json.dump();
}

namespace {

constexpr const char* kOperation = "read the statistics";

/// Checks what json.get() would not: it cuts 1.5 and takes true for 1.
struct StatsReader {
  const nlohmann::json& json;
  const std::string& object;

  [[noreturn]] void fail(const char* key) const {
    throw Error(ErrorKind::input, kOperation, object, str("'", key, "' is ", json.at(key).dump()));
  }
  Index whole(const char* key, Index least) const {
    const nlohmann::json& value = json.at(key);
    if (!value.is_number_integer() || value.get<double>() < static_cast<double>(least) ||
        value.get<double>() >= 0x1p63)
      fail(key);
    return value.get<Index>();
  }
  double number(const char* key) const {
    if (!json.at(key).is_number()) fail(key);
    return json.at(key).get<double>();
  }
  Method method() const {
    const auto name = json.at("method").get<std::string>();
    for (const Method method : {Method::gptq, Method::rtn, Method::copy})
      if (name == method_name(method)) return method;
    fail("method");
  }
};

}  // namespace

MatrixStats stats_from_json(const std::string& text, const std::string& object) {
  try {
    const auto json = nlohmann::json::parse(text);
    const StatsReader reader{json, object};
    MatrixStats stats;
    stats.method = reader.method();
    stats.layer = reader.whole("layer", -1);
    stats.expert = reader.whole("expert", -1);
    stats.tokens = reader.whole("tokens", 0);
    stats.weight_sum = reader.number("weight_sum");
    stats.damping = reader.number("damping");
    stats.error = reader.number("error");
    stats.error_rtn = reader.number("error_rtn");
    stats.fallback = json.at("fallback").get<std::string>();
    if (json.contains("scales_above")) stats.scales_above = reader.whole("scales_above", 0);
    if (json.contains("scales_below")) stats.scales_below = reader.whole("scales_below", 0);
    return stats;
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::input, kOperation, object, error.what());
  }
}

}  // namespace aq
