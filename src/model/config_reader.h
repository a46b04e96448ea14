#pragma once
/// Typed access to the keys of config.json with errors that name file and key.

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "aq/model/architecture.h"

namespace aq {

class ConfigReader {
 public:
  /// Throws Error{input} unless the text is one JSON object.
  ConfigReader(std::string_view text, std::string_view file);

  /// Present and not null.
  bool has(std::string_view key) const;
  /// A whole number in [1, 2^31]; Error{input} when absent or something else.
  Index positive(std::string_view key) const;
  Index positive_or(std::string_view key, Index otherwise) const;
  /// A finite number above zero.
  double number_or(std::string_view key, double otherwise) const;
  bool flag_or(std::string_view key, bool otherwise) const;
  std::string text_or(std::string_view key, std::string_view otherwise) const;
  std::optional<double> optional_number(std::string_view key) const;
  const nlohmann::json& json() const { return *json_; }
  /// An object inside; nothing when absent or null.
  std::optional<ConfigReader> object(std::string_view key) const;

  /// The first of the keys that is there; empty when none is.
  std::string first_of(const Keys& keys) const;
  /// The values that an architecture's row asks for.
  Index get(const Size& size) const;
  double get(const Real& real) const;
  bool get(const Flag& flag) const;
  /// A whole number in [0, 2^31]; `otherwise` without any of the keys.
  Index count_or(const Keys& keys, Index otherwise) const;

  [[noreturn]] void fail(std::string_view key, std::string_view reason,
                         std::string_view hint = {}) const;

 private:
  ConfigReader(std::shared_ptr<const nlohmann::json> value, std::string file)
      : json_(std::move(value)), file_(std::move(file)) {}
  const nlohmann::json& at(std::string_view key) const;
  Index whole(std::string_view key, Index least) const;

  std::shared_ptr<const nlohmann::json> json_;  // shared with the objects inside
  std::string file_;
};

/// Error{input}: the architecture that config.json names is not in the table `reason`.
[[noreturn]] void refuse_unknown_architecture(const ConfigReader& config, std::string_view reason);

}  // namespace aq
