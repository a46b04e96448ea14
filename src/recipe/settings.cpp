// The object "gptq" of a recipe: one table for the file, the flags of `quantize` and the manifest.

#include <algorithm>
#include <charconv>
#include <functional>

#include "aq/core/text.h"
#include "recipe/recipe_parts.h"

namespace aq {
namespace {

struct Setting {
  std::string_view key, help;
  bool whole = false;                        ///< a whole number
  double least = 0, most = 0;                ///< of a number
  std::vector<std::string_view> words = {};  ///< not empty: one of these, in the order of its enum
  std::function<Json(const QuantizeSettings&)> get = {};
  std::function<void(QuantizeSettings&, const Json&)> set = {};
};

template <class Member>
Setting number(std::string_view key, double least, double most, std::string_view help,
               Member member) {
  using Value = std::remove_cvref_t<decltype(member(std::declval<QuantizeSettings&>()))>;
  return {.key = key,
          .help = help,
          .whole = std::is_integral_v<Value>,
          .least = least,
          .most = most,
          .get = [=](const QuantizeSettings& settings) -> Json { return member(settings); },
          .set = [=](QuantizeSettings& settings,
                     const Json& value) { member(settings) = value.get<Value>(); }};
}

template <class Member>
Setting choice(std::string_view key, const std::vector<std::string_view>& words,
               std::string_view help, Member member) {
  using Value = std::remove_cvref_t<decltype(member(std::declval<QuantizeSettings&>()))>;
  return {.key = key,
          .help = help,
          .words = words,
          .get = [=](const QuantizeSettings& settings) -> Json {
            return words[static_cast<std::size_t>(member(settings))];
          },
          .set =
              [=](QuantizeSettings& settings, const Json& value) {
                const auto word = std::find(words.begin(), words.end(), value.get<std::string>());
                member(settings) = static_cast<Value>(word - words.begin());
              }};
}

const std::vector<Setting>& settings_table() {
  static const std::vector<Setting> table{
      number(
          "damping", 0, 100, "share of the mean diagonal added to H",
          [](auto& s) -> auto& { return s.gptq.damping; }),
      number(
          "few_tokens_damping", 0, 100, "times columns / tokens is added to damping",
          [](auto& s) -> auto& { return s.gptq.few_tokens_damping; }),
      choice(
          "scale_search", {"absmax", "mse", "hessian"}, "how the scale of a group is found",
          [](auto& s) -> auto& { return s.gptq.scale_search; }),
      choice(
          "scale_sign", {"positive", "any"}, "whether scales of symmetric integers may be negative",
          [](auto& s) -> auto& { return s.gptq.negative_scales; }),
      choice(
          "act_order", {"none", "static"}, "round columns by falling diagonal of H",
          [](auto& s) -> auto& { return s.gptq.act_order; }),
      number(
          "refine", 0, 64, "sweeps of coordinate descent after GPTQ",
          [](auto& s) -> auto& { return s.gptq.refine; }),
      number(
          "block", 1, 1 << 20, "columns of a block; changes the speed alone",
          [](auto& s) -> auto& { return s.gptq.block; }),
      choice(
          "sequential", {"stage", "layer", "none"}, "what is quantized when inputs are taken",
          [](auto& s) -> auto& { return s.sequential; }),
      choice(
          "target", {"own", "original"}, "whose outputs a matrix should come near",
          [](auto& s) -> auto& { return s.target; }),
      choice(
          "output_factor", {"none", "layer"}, "how errors of rows of q, k, v count together",
          [](auto& s) -> auto& { return s.output_factor; }),
      number(
          "routing_exponent", 0, 16, "p of H = sum of s^p x x'",
          [](auto& s) -> auto& { return s.routing_exponent; }),
      choice(
          "starved", {"all_tokens", "rtn"}, "what is done with experts of too few tokens",
          [](auto& s) -> auto& { return s.starved; }),
      number(
          "min_tokens", 0, 0x1p40, "fewer make an expert starved",
          [](auto& s) -> auto& { return s.min_tokens; }),
      choice(
          "expert_tokens", {"routed", "all"}, "the tokens that calibrate an expert",
          [](auto& s) -> auto& { return s.expert_tokens; }),
  };
  return table;
}

const Setting& find_setting(std::string_view key) {
  for (const Setting& setting : settings_table())
    if (setting.key == key) return setting;
  throw Error(ErrorKind::internal, "find a setting", key, "there is none of this name");
}

std::string values_text(const Setting& setting) {
  if (setting.words.empty())
    return str(setting.whole ? "a whole number in [" : "a number in [", shortest(setting.least),
               ", ", fixed(setting.most, 0), "]");
  std::string text;
  for (std::size_t i = 0; i < setting.words.size(); ++i)
    text += str(i == 0 ? "" : i + 1 < setting.words.size() ? ", " : " or ", setting.words[i]);
  return text;
}

/// Also false for NaN.
bool in_range(const Setting& setting, const Json& value) {
  if (!value.is_number() || (setting.whole && !value.is_number_integer())) return false;
  const auto number = value.get<double>();
  return number >= setting.least && number <= setting.most;
}

void set_from_json(QuantizeSettings& settings, const Setting& setting, const JsonValue& value) {
  if (!setting.words.empty())
    value.word(setting.words);
  else if (!in_range(setting, value.json))
    value.fail_as(values_text(setting));
  setting.set(settings, value.json);
}

/// The whole text as a number of that type, else the text.
template <class Number>
Json number_or_text(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() ? Json(number) : Json(text);
}

}  // namespace

const std::vector<SettingKey>& setting_keys() {
  static const std::vector<SettingKey> keys = [] {
    std::vector<SettingKey> all;
    for (const Setting& setting : settings_table()) {
      const Json initial = setting.get(QuantizeSettings{});
      all.push_back({setting.key, setting.help, values_text(setting),
                     initial.is_string() ? initial.get<std::string>() : initial.dump()});
    }
    return all;
  }();
  return keys;
}

void set_setting(QuantizeSettings& settings, std::string_view key, std::string_view text) {
  const Setting& setting = find_setting(key);
  Json value = text;
  bool fits = false;
  if (setting.words.empty()) {
    value = setting.whole ? number_or_text<Index>(text) : number_or_text<double>(text);
    fits = in_range(setting, value);
  } else {
    fits = std::find(setting.words.begin(), setting.words.end(), text) != setting.words.end();
  }
  if (!fits) {
    const std::string hint = setting.words.empty() ? "" : did_you_mean(text, setting.words);
    throw Error(ErrorKind::usage, "read the option",
                str("--", replace_all(std::string(key), "_", "-")),
                str("'", shown_key(text), "' is not ", values_text(setting), hint));
  }
  setting.set(settings, value);
}

QuantizeSettings read_settings(const JsonValue& object) {
  std::vector<std::string_view> known;
  for (const Setting& setting : settings_table()) known.push_back(setting.key);
  check_rule_keys(object, known);
  QuantizeSettings settings;
  for (const Setting& setting : settings_table())
    if (const auto found = object.find(setting.key)) set_from_json(settings, setting, *found);
  return settings;
}

std::string changed_settings(const QuantizeSettings& settings) {
  std::string text;
  for (const Setting& setting : settings_table())
    if (const Json value = setting.get(settings); value != setting.get(QuantizeSettings{}))
      text += str(text.empty() ? "" : ", ", setting.key, " ",
                  value.is_string() ? value.get<std::string>() : value.dump());
  return text;
}

std::string settings_to_json(const QuantizeSettings& settings) {
  OrderedJson json;  // in the order of the table
  for (const Setting& setting : settings_table())
    json[std::string(setting.key)] = setting.get(settings);
  return json.dump();
}

}  // namespace aq
