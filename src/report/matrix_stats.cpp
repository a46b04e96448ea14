#include "aq/report/matrix_stats.h"

#include <algorithm>
#include <array>

#include "aq/core/json.h"

namespace aq {

std::string stats_to_json(const MatrixStats& stats) {
  OrderedJson json{{"method", method_name(stats.method)},
                   {"layer", stats.layer},
                   {"expert", stats.expert},
                   {"tokens", stats.tokens},
                   {"weight_sum", stats.weight_sum},
                   {"damping", stats.damping},
                   {"order", "natural"},
                   {"error", stats.error},
                   {"error_rtn", stats.error_rtn},
                   {"fallback", stats.fallback}};
  if (stats.weight_error >= 0) json["weight_error"] = stats.weight_error;
  if (stats.scales_above > 0) json["scales_above"] = stats.scales_above;
  if (stats.scales_below > 0) json["scales_below"] = stats.scales_below;
  return json.dump();
}

MatrixStats stats_from_json(const std::string& text, const std::string& object) {
  constexpr Index kMost = Index{1} << 62;
  constexpr Index kLast = (Index{1} << 20) - 1;  // layer, or expert of a layer
  constexpr std::array kMethods{Method::gptq, Method::rtn, Method::copy};
  const JsonPlace place{ErrorKind::input, "read the statistics", object};
  const Json json = parse_json(text, place);
  const JsonValue top{json, place};
  std::array<std::string_view, kMethods.size()> names;
  std::ranges::transform(kMethods, names.begin(), method_name);
  MatrixStats stats;
  stats.method = kMethods[top.at("method").word(names)];
  stats.layer = top.at("layer").whole(-1, kLast);
  stats.expert = top.at("expert").whole(-1, kLast);
  stats.tokens = top.at("tokens").whole(0, kMost);
  stats.weight_sum = top.at("weight_sum").number();
  stats.damping = top.at("damping").number();
  stats.error = top.at("error").number();
  stats.error_rtn = top.at("error_rtn").number();
  stats.fallback = top.at("fallback").text();
  if (const auto error = top.find("weight_error")) stats.weight_error = error->number();
  if (const auto scales = top.find("scales_above")) stats.scales_above = scales->whole(0, kMost);
  if (const auto scales = top.find("scales_below")) stats.scales_below = scales->whole(0, kMost);
  return stats;
}

}  // namespace aq
