#pragma once
/// Typed access to the keys of config.json with errors that name file and key.

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/json.h"
#include "aq/model/architecture.h"

namespace aq {

/// The JSON object of config.json as Python writes it. Throws Error{input}.
Json parse_config(std::string_view text, std::string_view file);

/// Every key that is asked for is recorded, in the objects inside as well: what nobody asks for is
/// refused in the end (known_keys.h).
class ConfigReader {
 public:
  ConfigReader(std::string_view text, std::string_view file);

  /// Present and not null.
  bool has(std::string_view key) const;
  /// Present and null: what the key stands for is switched off, where absent is the default.
  bool is_null(std::string_view key) const;
  /// A whole number in [1, 2^31]; Error{input} when absent or something else.
  Index positive(std::string_view key) const;
  Index positive_or(std::string_view key, Index otherwise) const;
  /// A finite number above zero.
  double number_or(std::string_view key, double otherwise) const;
  bool flag_or(std::string_view key, bool otherwise) const;
  std::string text_or(std::string_view key, std::string_view otherwise) const;
  std::optional<double> optional_number(std::string_view key) const;
  const Json& json() const { return *json_; }
  /// An object inside; nothing when absent or null.
  std::optional<ConfigReader> object(std::string_view key) const;

  /// Records keys as understood although their values are not needed: something that was read
  /// already makes them without meaning.
  void disregard(const Keys& keys) const;
  /// Error{input} unless the flag `key`, where it is there, is `fact`: what the row says anyway.
  void agree(std::string_view key, bool fact, std::string_view what) const;

  /// The first of the keys that is there; empty when none is. Error{input} when another one of them
  /// has another value.
  std::string first_of(const Keys& keys) const;
  /// The values that an architecture's row asks for.
  Index get(const Size& size) const;
  double get(const Real& real) const;
  bool get(const Flag& flag) const;
  /// A whole number in [0, 2^31]; `otherwise` without any of the keys.
  Index count_or(const Keys& keys, Index otherwise) const;

  [[noreturn]] void fail(std::string_view key, std::string_view reason,
                         std::string_view hint = {}) const;

  /// Keys that nobody asked for as paths, "rope_scaling.factor", with their values; those whose
  /// value is null only in the objects inside, where null may stand for anything.
  std::vector<std::pair<std::string, const Json*>> unread() const;
  const std::string& file() const { return file_; }

 private:
  struct Trace {
    std::set<std::string, std::less<>> read, entered;  // paths; of keys, of objects
  };
  ConfigReader(const ConfigReader& outer, std::string_view key);
  JsonValue at(std::string_view key) const;
  Index whole(std::string_view key, Index least) const;

  std::shared_ptr<const Json> json_;  // shared with the objects inside
  std::shared_ptr<Trace> trace_ = std::make_shared<Trace>();
  std::string path_;  // of an object inside, with a dot behind it
  std::string file_;
};

/// Error{input}: the architecture that config.json names is not in the table `reason`.
[[noreturn]] void refuse_unknown_architecture(const ConfigReader& config, std::string_view reason);

}  // namespace aq
