#include "aq/core/json.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <set>
#include <vector>

#include "aq/core/text.h"

namespace aq {
namespace {

constexpr std::size_t kMostLevels = 64;          // of brackets: what walks through a value recurses
constexpr std::size_t kMostValues = 10'000'000;  // each takes 16 bytes and more
constexpr std::size_t kShownBytes = 60;

std::string cut(std::string text) {
  if (text.size() <= kShownBytes) return text;
  std::size_t end = kShownBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;  // UTF-8
  return text.substr(0, end) + "...";
}

// ---- parsing

/// Length of the text in quotes that `text` starts with; all of it when the end is missing.
std::size_t quoted_length(std::string_view text) {
  std::size_t i = 1;
  while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
  return std::min(i + 1, text.size());
}

/// The text with NaN, Infinity and -Infinity in quotes. What is no JSON stays none.
std::string quote_not_finite(std::string_view text) {
  static constexpr std::array<std::string_view, 3> words{"NaN", "Infinity", "-Infinity"};
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const auto* word =
        std::ranges::find_if(words, [&](std::string_view w) { return text.starts_with(w); });
    const bool is_word = word != words.end();
    const std::size_t length = is_word ? word->size() : text[0] == '"' ? quoted_length(text) : 1;
    if (is_word) result += '"';
    result += text.substr(0, length);
    if (is_word) result += '"';
    text.remove_prefix(length);
  }
  return result;
}

/// What matters of "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error
/// while parsing value - invalid literal; last read: '<much>'; expected '}'", without the bytes of
/// the file that no terminal can show.
std::string plain_reason(std::string reason) {
  for (const std::string_view prefix : {"] ", "parse error at "})
    if (const std::size_t at = reason.find(prefix); at != std::string::npos)
      reason.erase(0, at + prefix.size());
  if (const std::size_t read = reason.find("; last read: "); read != std::string::npos) {
    const std::size_t expected = reason.rfind("; expected ");
    const bool follows = expected != std::string::npos && expected > read;
    reason.erase(read, follows ? expected - read : std::string::npos);
  }
  for (char& c : reason)
    if (c < ' ' || c > '~') c = '?';
  return reason.substr(0, 200);
}

/// What people often write, where the parser stopped at byte `at`.
std::string_view usual_mistake(std::string_view text, std::size_t at) {
  if (at >= text.size()) return {};
  if (text[at] == '/' || text[at] == '#') return "; comments are not allowed";
  if (text[at] != '}' && text[at] != ']') return {};
  const std::size_t before = text.substr(0, at).find_last_not_of(" \t\r\n");
  return before != std::string_view::npos && text[before] == ',' ? "; a comma stands before it"
                                                                 : "";
}

/// Follows the parser and refuses what it would take.
template <class Object>
class Watch {
 public:
  explicit Watch(const JsonPlace& place) : place_(place) {}

  void operator()(typename Object::parse_event_t event, const Object& value) {
    using Event = typename Object::parse_event_t;
    if (event == Event::key) return key(value.template get_ref<const std::string&>());
    if (event == Event::object_end || event == Event::array_end) return levels_.pop_back();
    if (++values_ > kMostValues) fail(str("more than ", kMostValues, " values"));
    if (!levels_.empty() && levels_.back().list) ++levels_.back().items;
    if (event == Event::value) return;
    if (levels_.size() == kMostLevels) fail(str("more than ", kMostLevels, " levels of brackets"));
    levels_.push_back({.list = event == Event::array_start});
  }

 private:
  struct Level {
    bool list = false;
    std::size_t items = 0;
    std::set<std::string> keys = {};
    std::string_view key = {};
  };

  void key(const std::string& key) {
    const auto [place, is_new] = levels_.back().keys.insert(key);
    levels_.back().key = *place;
    if (!is_new) where().fail("appears twice");
  }
  JsonPlace where() const {
    JsonPlace where = place_;
    for (const Level& level : levels_)
      where = level.list ? where.item(level.items - 1) : where.at(level.key);
    return where;
  }
  [[noreturn]] void fail(const std::string& reason) const {
    place_.fail("not valid JSON: " + reason);
  }

  const JsonPlace& place_;
  std::vector<Level> levels_;
  std::size_t values_ = 0;
};

// ---- words

std::string known_words(std::span<const std::string_view> words) {
  std::string text;
  for (const std::string_view word : words)
    text += str(text.empty() ? "; known are '" : ", '", word, "'");
  return text;
}

/// "; did you mean 'x'?" for a word with a few wrong letters, in any case, or for the beginning of
/// one word; else empty.
std::string near_word(std::string_view word, std::span<const std::string_view> words) {
  std::string lower(word);
  std::ranges::transform(lower, lower.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string near = did_you_mean(lower, words);
  if (!near.empty() || lower.size() < 3) return near;
  for (const std::string_view known : words)
    if (known.starts_with(lower)) return str("; did you mean '", known, "'?");
  return "";
}

}  // namespace

JsonPlace JsonPlace::at(std::string_view key) const {
  JsonPlace inner = *this;
  inner.path += str(path.empty() ? "" : ".", key.empty() ? "\"\"" : shown_key(key));
  return inner;
}

JsonPlace JsonPlace::item(std::size_t number) const {
  JsonPlace inner = *this;
  inner.path += str("[", number, "]");
  return inner;
}

void JsonPlace::fail(std::string_view reason) const {
  throw Error(kind, operation, file,
              path.empty() ? std::string(reason) : str("'", path, "' ", reason), hint);
}

template <class Object>
Object parse_json(std::string_view text, const JsonPlace& place, JsonDialect dialect) {
  std::string quoted;
  if (dialect == JsonDialect::python) text = quoted = quote_not_finite(text);
  try {
    Watch<Object> watch(place);
    Object object =
        Object::parse(text, [&](int, typename Object::parse_event_t event, const Object& value) {
          watch(event, value);
          return true;
        });
    if (!object.is_object()) place.fail("it is not a JSON object");
    return object;
  } catch (const nlohmann::json::parse_error& error) {
    place.fail(
        str("not valid JSON: ", plain_reason(error.what()), usual_mistake(text, error.byte - 1)));
  } catch (const nlohmann::json::exception& error) {
    place.fail(str("not valid JSON: ", plain_reason(error.what())));
  }
}
template Json parse_json(std::string_view, const JsonPlace&, JsonDialect);
template OrderedJson parse_json(std::string_view, const JsonPlace&, JsonDialect);

JsonValue JsonValue::at(std::string_view key) const {
  const auto found = json.find(key);
  if (found == json.end()) place.at(key).fail("is missing");
  return {*found, place.at(key)};
}

std::optional<JsonValue> JsonValue::find(std::string_view key) const {
  const auto found = json.find(key);
  if (found == json.end()) return std::nullopt;
  return JsonValue{*found, place.at(key)};
}

const std::string& JsonValue::text() const {
  if (!json.is_string()) fail_as("a text");
  return json.get_ref<const std::string&>();
}

bool JsonValue::flag() const {
  if (!json.is_boolean()) fail_as("true or false");
  return json.get<bool>();
}

Index JsonValue::whole(Index least, Index most) const {
  if (!is_whole(json, least, most)) fail_as(str("a whole number in [", least, ", ", most, "]"));
  return json.get<Index>();
}

double JsonValue::number() const {
  if (!json.is_number()) fail_as("a number");
  return json.get<double>();
}

double JsonValue::positive() const {
  if (!json.is_number() || !(json.get<double>() > 0)) fail_as("a number above zero");
  return json.get<double>();
}

std::size_t JsonValue::word(std::span<const std::string_view> words) const {
  if (!json.is_string()) fail_as("a text" + known_words(words));
  const auto found = std::ranges::find(words, text());
  if (found != words.end()) return static_cast<std::size_t>(found - words.begin());
  const std::string near = near_word(text(), words);
  fail(str("is '", shown_key(text()), "', which is not known",
           near.empty() ? known_words(words) : near));
}

void JsonValue::check_keys(std::span<const std::string_view> known,
                           std::span<const std::string_view> more) const {
  if (!json.is_object()) fail_as("an object");
  std::vector<std::string_view> words(known.begin(), known.end());
  words.insert(words.end(), more.begin(), more.end());
  for (const auto& [key, value] : json.items()) {
    if (std::ranges::find(words, key) != words.end()) continue;
    const std::string near = near_word(key, words);
    place.at(key).fail(str("is not known", near.empty() ? known_words(known) : near));
  }
}

void JsonValue::fail_as(std::string_view what) const {
  fail(str("is ", shown(json), ", not ", what));
}

bool is_whole(const Json& value, Index least, Index most) {
  return value.is_number_integer() && value.get<double>() >= static_cast<double>(least) &&
         value.get<double>() <= static_cast<double>(most);
}

std::string shown(const Json& value) {
  return cut(value.dump());
}

std::string shown_key(std::string_view key) {
  const std::string quoted = Json(key).dump();  // line breaks and quotes are escaped
  return cut(quoted.substr(1, quoted.size() - 2));
}

}  // namespace aq
