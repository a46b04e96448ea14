#include "io/json_text.h"

#include <set>
#include <vector>

#include "aq/core/error.h"

namespace aq {
namespace {

constexpr int kMostLevels = 64;                  // of brackets: what walks through a value recurses
constexpr std::size_t kMostValues = 10'000'000;  // each takes 16 bytes and more

/// What the JSON library says, without the bytes of the file that no terminal can show.
std::string shown_reason(std::string_view what) {
  std::string reason(what.substr(0, 200));
  for (char& c : reason)
    if (c < ' ' || c > '~') c = '?';
  return reason;
}

}  // namespace

Json parse_json_object(std::string_view text, std::string_view operation,
                       const std::string& object) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::size_t values = 0;
  const auto fail = [&](const std::string& reason) {
    throw Error(ErrorKind::input, operation, object, reason);
  };
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMostLevels) fail(str("more than ", kMostLevels, " levels of brackets"));
    if (++values > kMostValues) fail(str("more than ", kMostValues, " values"));
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        fail(str("the key '", key.substr(0, 100), "' appears twice"));
    }
    return true;
  };
  try {
    Json parsed = Json::parse(text, check);
    if (!parsed.is_object()) fail("the text is not a JSON object");
    return parsed;
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::input, operation, object,
                str("no valid JSON: ", shown_reason(error.what())));
  }
}

}  // namespace aq
