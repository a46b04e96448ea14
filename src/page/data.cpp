#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "aq/core/json.h"
#include "page/sections.h"

namespace aq {
namespace {

/// Three digits, which is what a shade or a line shows; null where there is none.
OrderedJson rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g", value);
  const double number = std::strtod(text.data(), nullptr);
  if (number == std::floor(number) && std::abs(number) < 1e15)
    return static_cast<std::int64_t>(number);
  return number;
}

template <class Value>
OrderedJson list_of(const std::vector<ExpertFigures>& experts, const Value& value) {
  OrderedJson list = OrderedJson::array();
  for (const ExpertFigures& expert : experts) list.push_back(value(expert));
  return list;
}

/// Of each layer with experts a list of values, one an expert.
OrderedJson experts_json(const RunFigures& figures) {
  OrderedJson json = OrderedJson::array();
  for (const auto& [layer, experts] : figures.experts) {
    OrderedJson starved = OrderedJson::array();
    for (Index e = 0; e < std::ssize(experts); ++e)
      if (experts[e].starved) starved.push_back(e);
    json.push_back(
        {{"layer", layer},
         {"tokens", list_of(experts,
                            [](const ExpertFigures& expert) {
                              return expert.tokens < 0 ? OrderedJson(nullptr)
                                                       : OrderedJson(expert.tokens);
                            })},
         {"weight", list_of(experts, [](const auto& expert) { return rounded(expert.weight); })},
         {"error",
          list_of(experts, [](const auto& expert) { return rounded(expert.errors.error()); })},
         {"nearest",
          list_of(experts, [](const auto& expert) { return rounded(expert.errors.rtn()); })},
         {"bits", list_of(experts,
                          [](const auto& expert) {
                            return rounded(expert.weights > 0 ? expert.bits / expert.weights
                                                              : std::nan(""));
                          })},
         {"starved", std::move(starved)}});
  }
  return json;
}

/// Of each kind of linear its errors by layer; what is outside the layers has none.
OrderedJson errors_json(const RunFigures& figures) {
  OrderedJson json = OrderedJson::array();
  for (const std::string& kind : figures.kinds) {
    OrderedJson layers = OrderedJson::array(), error = layers, nearest = layers;
    for (const auto& [layer, mean] : figures.by_kind.at(kind).by_layer) {
      if (layer < 0 || mean.matrices == 0) continue;
      layers.push_back(layer);
      error.push_back(rounded(mean.error()));
      nearest.push_back(rounded(mean.rtn()));
    }
    if (!layers.empty())
      json.push_back({{"kind", kind}, {"layers", layers}, {"error", error}, {"nearest", nearest}});
  }
  return json;
}

}  // namespace

std::string page_data(const PageRuns& runs) {
  OrderedJson json = OrderedJson::array();
  for (const PageRun& run : runs) {
    const std::string exponent = setting(run.report, "routing_exponent");
    json.push_back({{"label", run.report.label},
                    {"exponent", exponent.empty() ? "1" : exponent},
                    {"experts", experts_json(run.figures)},
                    {"errors", errors_json(run.figures)}});
  }
  const OrderedJson page{{"runs", std::move(json)}};
  return page.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace aq
