#pragma once
/// JSON that people write by hand: read strictly, and every complaint names file, line and key.
/// A place in a file is a path such as "/overrides/2/wq". Lines are looked up when there is
/// something to complain about; reading keeps none.

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/index.h"

namespace aq {

using Json = nlohmann::json;

/// The value of `text`: no comments, no trailing commas, no key twice in one object, at most
/// kJsonDepth levels. Throws Error{usage, operation} naming `file` and line.
Json parse_json_strictly(std::string_view text, std::string_view operation,
                         const std::string& file);
inline constexpr std::size_t kJsonDepth = 64;

/// Line (from 1) on which the key or list item at `path` begins; 0 when there is none.
Index json_line(std::string_view text, std::string_view path);

/// A value of the file, so that the functions that read it can say where it stands.
struct JsonPlace {
  std::string_view operation;  ///< "read the recipe"
  std::string_view file, text;
  std::string path;  ///< "/overrides/2"; "" is the whole file

  JsonPlace at(std::string_view key) const;
  std::string line() const;   ///< "my.json:7"
  std::string where() const;  ///< "overrides[2]"
  /// Throws Error{usage}: "read the recipe: my.json:7: overrides[2]: <reason>".
  [[noreturn]] void fail(std::string_view reason) const;
  /// "... overrides[2]: key 'wq' <reason>", on the line of the key if the object has it.
  [[noreturn]] void fail_key(std::string_view key, std::string_view reason) const;
  [[noreturn]] void fail_on_line(Index line, std::string_view reason) const;
};

/// A value or a key as it is shown to people: on one line, cut when it is long.
std::string shown(const Json& value);
std::string shown_key(std::string_view key);
/// "; known are 'a', 'b'"
std::string known_words(std::span<const std::string_view> words);
/// "; did you mean 'x'?", whatever the case of letters, or the known words where none is near.
std::string valid_words(std::string_view word, std::span<const std::string_view> words);

/// Throws for a value that is no object and for keys that are neither in `known` nor in `more`;
/// the latter are not listed where no word is near.
void check_keys(const Json& object, std::span<const std::string_view> known,
                std::span<const std::string_view> more, const JsonPlace& place);

// Values of an object's key; each throws when the value is something else.
bool read_flag(const Json& value, std::string_view key, const JsonPlace& place);
/// The index of the word.
std::size_t read_word(const Json& value, std::string_view key,
                      std::span<const std::string_view> words, const JsonPlace& place);
bool is_whole(const Json& value, Index least, Index most);

}  // namespace aq
