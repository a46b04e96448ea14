#include "io/json_text.h"

#include <set>
#include <vector>

#include "aq/core/error.h"

namespace aq {

Json parse_json_object(std::string_view text, std::string_view operation,
                       const std::string& object) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        throw Error(ErrorKind::input, operation, object, str("the key '", key, "' appears twice"));
    }
    return true;
  };
  try {
    Json parsed = Json::parse(text, check);
    if (!parsed.is_object())
      throw Error(ErrorKind::input, operation, object, "the text is not a JSON object");
    return parsed;
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::input, operation, object,
                str("no valid JSON: ", std::string(error.what()).substr(0, 200)));
  }
}

}  // namespace aq
