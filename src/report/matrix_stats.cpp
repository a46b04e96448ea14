#include "aq/report/matrix_stats.h"

#include <nlohmann/json.hpp>

namespace aq {

std::string stats_to_json(const MatrixStats& stats) {
  return nlohmann::ordered_json{{"method", method_name(stats.method)},
                                {"layer", stats.layer},
                                {"expert", stats.expert},
                                {"tokens", stats.tokens},
                                {"weight_sum", stats.weight_sum},
                                {"damping", stats.damping},
                                {"order", "natural"},
                                {"error", stats.error},
                                {"error_rtn", stats.error_rtn},
                                {"fallback", stats.fallback}}
      .dump();
}

MatrixStats stats_from_json(const std::string& text, const std::string& object) {
  try {
    const auto json = nlohmann::json::parse(text);
    MatrixStats stats;
    const auto method = json.at("method").get<std::string>();
    for (const Method candidate : {Method::gptq, Method::rtn, Method::copy})
      if (method == method_name(candidate)) stats.method = candidate;
    stats.layer = json.at("layer").get<Index>();
    stats.expert = json.at("expert").get<Index>();
    stats.tokens = json.at("tokens").get<std::int64_t>();
    stats.weight_sum = json.at("weight_sum").get<double>();
    stats.damping = json.at("damping").get<double>();
    stats.error = json.at("error").get<double>();
    stats.error_rtn = json.at("error_rtn").get<double>();
    stats.fallback = json.at("fallback").get<std::string>();
    return stats;
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::input, "read the statistics", object, error.what());
  }
}

}  // namespace aq
