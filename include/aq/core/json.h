#pragma once
/// JSON from files that are not to be trusted: read strictly, and every complaint names file and
/// place.

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "aq/core/index.h"

namespace aq {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  ///< members in the order of the text

/// Where a value stands.
struct JsonPlace {
  ErrorKind kind = ErrorKind::input;
  std::string_view operation;  ///< "read the recipe"
  std::string_view file;
  std::string_view hint = {};
  std::string path = {};  ///< "overrides[2].wq"; empty is the whole file

  JsonPlace at(std::string_view key) const;
  JsonPlace item(std::size_t number) const;
  /// Throws "read the recipe: my.json: 'overrides[2].wq' <reason> (hint)".
  [[noreturn]] void fail(std::string_view reason) const;
};

/// `python`: also NaN, Infinity and -Infinity, which Python writes, as texts ("NaN"): who needs a
/// number there refuses them, any other can go on.
enum class JsonDialect { standard, python };

/// The object that `text` is: no comments, no trailing commas, no key twice in one object, at most
/// 64 levels and ten million values. Fails at `place`.
template <class Object = Json>
Object parse_json(std::string_view text, const JsonPlace& place,
                  JsonDialect dialect = JsonDialect::standard);
extern template Json parse_json(std::string_view, const JsonPlace&, JsonDialect);
extern template OrderedJson parse_json(std::string_view, const JsonPlace&, JsonDialect);

/// A value and where it stands. A value that is not what is asked for fails at its place, with the
/// value and what it should be.
struct JsonValue {
  const Json& json;
  JsonPlace place;

  bool has(std::string_view key) const { return json.contains(key); }
  JsonValue at(std::string_view key) const;  ///< a member, which must be there
  std::optional<JsonValue> find(std::string_view key) const;
  JsonValue item(std::size_t number) const { return {json.at(number), place.item(number)}; }

  const std::string& text() const;
  bool flag() const;
  Index whole(Index least, Index most) const;
  double number() const;
  double positive() const;  ///< a number above zero
  /// The index of the word.
  std::size_t word(std::span<const std::string_view> words) const;
  /// An object with no keys but those in `known` and in `more`; the latter are not listed.
  void check_keys(std::span<const std::string_view> known,
                  std::span<const std::string_view> more = {}) const;
  /// "is <the value>, not <what>"
  [[noreturn]] void fail_as(std::string_view what) const;
  [[noreturn]] void fail(std::string_view reason) const { place.fail(reason); }
};

/// A whole number, not 1.0, in [least, most].
bool is_whole(const Json& value, Index least, Index most);
/// A value or a key as it is shown to people: on one line, cut when it is long.
std::string shown(const Json& value);
std::string shown_key(std::string_view key);

}  // namespace aq
