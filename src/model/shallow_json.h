#pragma once
/// JSON from files that are not to be trusted. Private to src/model.

#include <nlohmann/json.hpp>
#include <string_view>

namespace aq {

/// Parses `text`; more than 64 levels of brackets are an nlohmann::json::exception as any other
/// mistake: what walks through a value recurses.
template <class Json>
Json parse_shallow(std::string_view text) {
  constexpr int kMostLevels = 64;
  bool deep = false;
  Json parsed = Json::parse(text, [&](int depth, typename Json::parse_event_t, Json&) {
    deep = deep || depth > kMostLevels;
    return !deep;  // what lies deeper is left out
  });
  if (deep)
    throw Json::other_error::create(501, "more than 64 levels of brackets",
                                    static_cast<const Json*>(nullptr));
  return parsed;
}

}  // namespace aq
