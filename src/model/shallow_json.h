#pragma once
/// JSON from files that are not to be trusted. Private to src/model.

#include <nlohmann/json.hpp>
#include <string>
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

/// What the JSON library says, cut, without the bytes of the file that no terminal can show.
inline std::string shown_reason(std::string_view what) {
  std::string reason(what.substr(0, 300));
  for (char& c : reason)
    if (c < ' ' || c > '~') c = '?';
  return reason;
}

}  // namespace aq
