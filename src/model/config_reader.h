#pragma once
/// Typed access to the keys of config.json with errors that name file and key.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "aq/core/index.h"

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
  const nlohmann::json& json() const { return json_; }
  /// An object inside; nothing when absent or null.
  std::optional<ConfigReader> object(std::string_view key) const;

  [[noreturn]] void fail(std::string_view key, std::string_view reason,
                         std::string_view hint = {}) const;

 private:
  ConfigReader(nlohmann::json value, std::string file)
      : json_(std::move(value)), file_(std::move(file)) {}
  const nlohmann::json& at(std::string_view key) const;

  nlohmann::json json_;
  std::string file_;
};

}  // namespace aq
