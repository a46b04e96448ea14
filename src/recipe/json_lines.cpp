#include "recipe/json_lines.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "aq/core/error.h"
#include "aq/core/text.h"

namespace aq {
namespace {

/// Passes characters on and keeps the last one that was taken, so that who listens to the parser
/// knows where it is. The parser looks ahead by one character after a number; `last` is that one,
/// and the lines before it are those of the number.
struct WatchedCharacters {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  const char* at;
  const char** last;

  char operator*() const { return *at; }
  WatchedCharacters& operator++() {
    *last = at++;
    return *this;
  }
  bool operator==(const WatchedCharacters& other) const { return at == other.at; }
  bool operator!=(const WatchedCharacters& other) const { return at != other.at; }
};

Index count_lines(const char* begin, const char* end) {
  return 1 + static_cast<Index>(std::count(begin, end, '\n'));
}

/// What matters of "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error
/// while parsing value - invalid literal; last read: '<much>'; expected '}'".
std::string plain_reason(std::string reason) {
  const std::size_t prefix = reason.find(reason.find(": ") == std::string::npos ? "] " : ": ");
  if (prefix != std::string::npos) reason.erase(0, prefix + 2);
  const std::size_t read = reason.find("; last read: ");
  const std::size_t expected = reason.rfind("; expected ");
  if (read != std::string::npos)
    reason.erase(read, expected > read && expected != std::string::npos ? expected - read
                                                                        : std::string::npos);
  return reason;
}

/// Goes through the text once: throws what is wrong with it, and finds the line of one path.
class Scan final : public nlohmann::json_sax<Json> {
 public:
  Scan(std::string_view text, std::string_view operation, std::string_view file,
       std::string_view wanted)
      : text_(text), operation_(operation), file_(file), wanted_(wanted), last_(text.data()) {}

  Index run() {
    const WatchedCharacters begin{text_.data(), &last_};
    Json::sax_parse(begin, WatchedCharacters{text_.data() + text_.size(), &last_}, this);
    return line_;
  }

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return open(false); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(true); }
  bool end_array() override { return close(); }

  bool key(string_t& key) override {
    Level& level = levels_.back();
    if (!level.keys.insert(key).second)
      JsonPlace{operation_, file_, text_, path_.substr(0, level.path_length)}.fail_on_line(
          count_lines(text_.data(), last_),
          str("key '", shown_key(key), "' stands twice in one object"));
    step(key);
    return true;
  }

  bool parse_error(std::size_t, const std::string& token,
                   const nlohmann::detail::exception& error) override {
    const std::string reason = error.what();
    const char wrong = token.empty() ? '\0' : token.back();
    const char* before = last_;
    while (before > text_.data() && std::isspace(static_cast<unsigned char>(before[-1])) != 0)
      --before;
    if ((wrong == '}' || wrong == ']') && before > text_.data() && before[-1] == ',')
      fail(before - 1, str("a comma stands before '", wrong, "'"));
    if ((wrong == '/' || wrong == '#') && reason.find("invalid literal") != std::string::npos)
      fail(last_, "comments are not allowed");
    fail(last_, plain_reason(reason));
  }

 private:
  struct Level {
    bool list = false;
    std::size_t path_length = 0;
    std::size_t items = 0;
    std::set<std::string> keys = {};
  };

  [[noreturn]] void fail(const char* at, const std::string& reason) const {
    throw Error(ErrorKind::usage, operation_, str(file_, ":", count_lines(text_.data(), at)),
                str("not valid JSON: ", reason));
  }

  /// Goes to a key or an item of the innermost value.
  void step(std::string_view name) {
    path_.resize(levels_.back().path_length);
    path_ += '/';
    path_ += name;
    if (line_ == 0 && path_ == wanted_) line_ = count_lines(text_.data(), last_);
  }
  bool value() {
    if (!levels_.empty() && levels_.back().list) step(std::to_string(levels_.back().items++));
    return true;
  }
  bool open(bool list) {
    value();
    if (levels_.size() == kJsonDepth)
      fail(last_, str("more than ", kJsonDepth, " levels of brackets"));
    levels_.push_back({.list = list, .path_length = path_.size()});
    return true;
  }
  bool close() {
    path_.resize(levels_.back().path_length);
    levels_.pop_back();
    return true;
  }

  std::string_view text_, operation_, file_, wanted_;
  const char* last_;
  std::vector<Level> levels_;
  std::string path_;
  Index line_ = 0;
};

std::string lower_case(std::string_view word) {
  std::string lower(word);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

/// "; did you mean 'x'?" for a word with a few wrong letters, in any case, or for the beginning of
/// one word; else empty.
std::string near_word(std::string_view word, std::span<const std::string_view> words) {
  const std::string lower = lower_case(word);
  std::string near = did_you_mean(lower, words);
  if (!near.empty() || lower.size() < 3) return near;
  for (const std::string_view known : words)
    if (known.starts_with(lower)) return str("; did you mean '", known, "'?");
  return "";
}

constexpr std::size_t kShownBytes = 60;

std::string cut(std::string text) {
  if (text.size() <= kShownBytes) return text;
  std::size_t end = kShownBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;  // UTF-8
  return text.substr(0, end) + "...";
}

}  // namespace

Json parse_json_strictly(std::string_view text, std::string_view operation,
                         const std::string& file) {
  Scan(text, operation, file, {}).run();
  return Json::parse(text);
}

Index json_line(std::string_view text, std::string_view path) {
  return path.empty() ? 1 : Scan(text, {}, {}, path).run();
}

JsonPlace JsonPlace::at(std::string_view key) const {
  return {operation, file, text, str(path, "/", key)};
}

std::string JsonPlace::line() const {
  return str(file, ":", json_line(text, path));
}

std::string JsonPlace::where() const {
  std::string words;
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t end = std::min(path.find('/', at + 1), path.size());
    const std::string_view step = std::string_view(path).substr(at + 1, end - at - 1);
    const bool item = at > 0 && step.find_first_not_of("0123456789") == std::string_view::npos;
    words += item ? str("[", step, "]") : str(at > 0 ? "." : "", shown_key(step));
    at = end;
  }
  return words;
}

void JsonPlace::fail(std::string_view reason) const {
  fail_on_line(json_line(text, path), reason);
}

void JsonPlace::fail_key(std::string_view key, std::string_view reason) const {
  const Index line = json_line(text, str(path, "/", key));
  fail_on_line(line > 0 ? line : json_line(text, path), str("key '", shown_key(key), "' ", reason));
}

void JsonPlace::fail_on_line(Index line, std::string_view reason) const {
  throw Error(ErrorKind::usage, operation, str(file, ":", line),
              str(where(), path.empty() ? "" : ": ", reason));
}

std::string shown(const Json& value) {
  return cut(value.dump());
}

std::string shown_key(std::string_view key) {
  const std::string quoted = Json(key).dump();  // line breaks and quotes are escaped
  return cut(quoted.substr(1, quoted.size() - 2));
}

std::string known_words(std::span<const std::string_view> words) {
  std::string text;
  for (const std::string_view word : words)
    text += str(text.empty() ? "; known are '" : ", '", word, "'");
  return text;
}

std::string valid_words(std::string_view word, std::span<const std::string_view> words) {
  std::string near = near_word(word, words);
  return near.empty() ? known_words(words) : near;
}

void check_keys(const Json& object, std::span<const std::string_view> known,
                std::span<const std::string_view> more, const JsonPlace& place) {
  if (!object.is_object()) place.fail(str("is ", shown(object), ", not an object"));
  std::vector<std::string_view> words(known.begin(), known.end());
  words.insert(words.end(), more.begin(), more.end());
  for (const auto& [key, value] : object.items()) {
    if (std::find(words.begin(), words.end(), key) != words.end()) continue;
    const std::string near = near_word(key, words);
    place.fail_key(key, str("is not known", near.empty() ? known_words(known) : near));
  }
}

bool read_flag(const Json& value, std::string_view key, const JsonPlace& place) {
  if (!value.is_boolean()) place.fail_key(key, str("is ", shown(value), ", not true or false"));
  return value.get<bool>();
}

std::size_t read_word(const Json& value, std::string_view key,
                      std::span<const std::string_view> words, const JsonPlace& place) {
  if (!value.is_string())
    place.fail_key(key, str("is ", shown(value), ", not a text", known_words(words)));
  const auto& word = value.get_ref<const std::string&>();
  const auto found = std::find(words.begin(), words.end(), word);
  if (found == words.end())
    place.fail_key(key,
                   str("is '", shown_key(word), "', which is not known", valid_words(word, words)));
  return static_cast<std::size_t>(found - words.begin());
}

bool is_whole(const Json& value, Index least, Index most) {
  return value.is_number_integer() && value.get<double>() >= static_cast<double>(least) &&
         value.get<double>() <= static_cast<double>(most);
}

}  // namespace aq
