#pragma once
/// What the files that make up the recipe share.

#include <vector>

#include "aq/core/json.h"
#include "aq/recipe/recipe.h"

namespace aq {

/// Adds the annotations of `object` to `annotations`.
void read_annotations(const Json& object, Annotations& annotations);
/// Throws for keys that are neither in `known` nor annotations.
void check_rule_keys(const JsonValue& object, std::span<const std::string_view> known);

/// The object "gptq".
QuantizeSettings read_settings(const JsonValue& object);

JsonPlace place_of(const Recipe& recipe, const Rule& rule);

/// The rules that apply to one linear, in file order.
class RuleStack {
 public:
  RuleStack(const Recipe& recipe, const LinearSpec& linear);
  /// One rule alone, to see whether its keys fit each other.
  RuleStack(const Recipe& recipe, const Rule& rule) : recipe_(recipe), rules_{&rule} {}

  /// How the weights are stored; nothing when no format is named, or "bf16".
  std::optional<Scheme> weights() const;
  /// How the E8M0 scales are found; of other formats always `best`.
  ScaleRule scale_rule(const Scheme& scheme) const;
  /// How the inputs are rounded; nothing when they stay as they are.
  std::optional<Scheme> inputs() const;
  bool skipped() const;
  Method method() const;
  /// An override names a format.
  bool named() const;
  Annotations annotations() const;

 private:
  /// The last rule that has the key, not before `since`; null when none has.
  template <class Value>
  const Rule* last(std::optional<Value> Rule::*key, const Rule* since = nullptr) const;
  /// The rule with which the key got the value that it has in the end.
  template <class Value>
  const Rule* change(std::optional<Value> Rule::*key) const;
  [[noreturn]] void fail(const Rule& rule, std::string_view key, const std::string& reason) const;

  const Recipe& recipe_;
  std::vector<const Rule*> rules_;  ///< of recipe_.rules, so that addresses tell the file order
  std::string linear_;              ///< its name, for messages
};

}  // namespace aq
