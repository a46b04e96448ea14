#include "aq/plan/recipe.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "aq/core/text.h"

namespace aq {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 3> kTopKeys{"default", "overrides", "gptq"};
constexpr std::array<std::string_view, 8> kRuleKeys{
    "wq", "aq", "aq_group_size", "group_size", "symmetric", "skip", "method", "scale_dtype"};
constexpr std::array<std::string_view, 7> kGptqKeys{
    "sequential", "expert_tokens", "damping", "block", "routing_exponent", "starved", "min_tokens"};
/// Carried for people, not obeyed.
constexpr std::array<std::string_view, 7> kAnnotations{
    "comment", "description", "summary", "notes", "alpha_hill", "category", "dtype"};

/// A place in the recipe, for messages.
struct Place {
  std::string file, where;  ///< "recipe.json", "overrides[2]"

  [[noreturn]] void fail(std::string_view key, std::string_view reason) const {
    const std::string named = key.empty() ? "" : str("key '", key, "' ");
    throw Error(ErrorKind::usage, "read the recipe", file,
                str(where, where.empty() ? "" : ": ", named, reason));
  }
};

bool contains(std::span<const std::string_view> words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

void check_keys(const Json& object, std::span<const std::string_view> known, const Place& place) {
  for (const auto& [key, value] : object.items())
    if (!contains(known, key) && !contains(kAnnotations, key))
      place.fail(key, str("is not known", did_you_mean(key, known)));
}

bool read_flag(const Json& value, std::string_view key, const Place& place) {
  if (!value.is_boolean()) place.fail(key, str("is ", value.dump(), ", not true or false"));
  return value.get<bool>();
}

std::string read_word(const Json& value, std::string_view key,
                      std::span<const std::string_view> words, const Place& place) {
  if (!value.is_string()) place.fail(key, str("is ", value.dump(), ", not a text"));
  auto word = value.get<std::string>();
  if (!contains(words, word))
    place.fail(key, str("is '", word, "', which is not known", did_you_mean(word, words)));
  return word;
}

Index read_whole(const Json& value, std::string_view key, Index least, Index most,
                 const Place& place) {
  if (!value.is_number_integer() || value.get<double>() < static_cast<double>(least) ||
      value.get<double>() > static_cast<double>(most))
    place.fail(key, str("is ", value.dump(), ", not a whole number in [", least, ", ", most, "]"));
  return value.get<Index>();
}

double read_number(const Json& value, std::string_view key, double least, double most,
                   const Place& place) {
  if (!value.is_number() || !(value.get<double>() >= least) || !(value.get<double>() <= most))
    place.fail(key, str("is ", value.dump(), ", not a number in [", least, ", ", most, "]"));
  return value.get<double>();
}

/// A positive number of columns, -1 or "channel" for the whole row, "tensor" for the whole matrix.
Index read_group_size(const Json& value, const Place& place) {
  if (value.is_string()) {
    static constexpr std::array<std::string_view, 2> words{"channel", "tensor"};
    return read_word(value, "group_size", words, place) == "tensor" ? kPerTensor : kPerChannel;
  }
  if (value.is_number_integer() && value.get<double>() == -1) return kPerChannel;
  if (!value.is_number_integer() || value.get<double>() < 1 || value.get<double>() > 1 << 20)
    place.fail("group_size",
               str("is ", value.dump(),
                   ", not a number of columns (1 to 1048576), -1, \"channel\" or \"tensor\""));
  return value.get<Index>();
}

Rule read_rule(const Json& object, std::string pattern, const Place& place) {
  if (!object.is_object()) place.fail("", str("is ", object.dump(), ", not an object"));
  std::vector<std::string_view> known(kRuleKeys.begin(), kRuleKeys.end());
  if (pattern.empty()) known.push_back("pattern");
  check_keys(object, known, place);
  Rule rule;
  rule.pattern = std::move(pattern);
  for (const auto& [key, value] : object.items()) {
    if (key == "pattern") {
      if (!value.is_string() || value.get<std::string>().empty())
        place.fail(key, str("is ", value.dump(), ", not a pattern"));
      rule.pattern = value.get<std::string>();
    } else if (key == "wq") {
      std::vector<std::string_view> words = format_names();
      words.push_back("bf16");
      rule.format = read_word(value, key, words, place);
    } else if (key == "aq") {
      std::vector<std::string_view> words = format_names();
      words.push_back("bf16");
      rule.activation = read_word(value, key, words, place);
    } else if (key == "aq_group_size") {
      rule.activation_group = read_group_size(value, place);
    } else if (key == "group_size") {
      rule.group_size = read_group_size(value, place);
    } else if (key == "symmetric") {
      rule.symmetric = read_flag(value, key, place);
    } else if (key == "skip") {
      rule.skip = read_flag(value, key, place);
    } else if (key == "method") {
      static constexpr std::array<std::string_view, 2> words{"gptq", "rtn"};
      rule.method = read_word(value, key, words, place) == "gptq" ? Method::gptq : Method::rtn;
    } else if (key == "scale_dtype") {
      static constexpr std::array<std::string_view, 3> words{"fp32", "fp16", "bf16"};
      rule.scale_type = scale_type_from_name(read_word(value, key, words, place));
    }
  }
  if (rule.pattern.empty()) place.fail("pattern", "is missing");
  return rule;
}

QuantizeSettings read_settings(const Json& object, const Place& place) {
  if (!object.is_object()) place.fail("gptq", str("is ", object.dump(), ", not an object"));
  check_keys(object, kGptqKeys, place);
  QuantizeSettings settings;
  for (const auto& [key, value] : object.items()) {
    if (key == "damping") settings.gptq.damping = read_number(value, key, 0, 100, place);
    if (key == "block") settings.gptq.block = read_whole(value, key, 1, 1 << 20, place);
    if (key == "routing_exponent")
      settings.routing_exponent = read_number(value, key, 0, 16, place);
    if (key == "min_tokens") settings.min_tokens = read_whole(value, key, 0, Index{1} << 40, place);
    if (key == "sequential") {
      static constexpr std::array<std::string_view, 3> words{"stage", "layer", "none"};
      const std::string word = read_word(value, key, words, place);
      settings.sequential = word == "stage"   ? Sequential::stage
                            : word == "layer" ? Sequential::layer
                                              : Sequential::none;
    }
    if (key == "expert_tokens") {
      static constexpr std::array<std::string_view, 2> words{"routed", "all"};
      settings.expert_tokens =
          read_word(value, key, words, place) == "all" ? ExpertTokens::all : ExpertTokens::routed;
    }
    if (key == "starved") {
      static constexpr std::array<std::string_view, 2> words{"all_tokens", "rtn"};
      settings.starved =
          read_word(value, key, words, place) == "rtn" ? Starved::rtn : Starved::all_tokens;
    }
  }
  return settings;
}

/// Parses strictly: no comments, no trailing commas, no key twice in one object.
Json parse_strict(std::string_view text, const std::string& file) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      Place{file, ""}.fail(parsed.get<std::string>(), "stands twice in one object");
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::usage, "read the recipe", file, error.what(), "it must be valid JSON");
  }
}

}  // namespace

Recipe parse_recipe(std::string_view text, const std::string& file) {
  const Json json = parse_strict(text, file);
  const Place top{file, ""};
  if (!json.is_object())
    throw Error(ErrorKind::usage, "read the recipe", file, "it is not a JSON object");
  check_keys(json, kTopKeys, top);
  Recipe recipe;
  recipe.file = file;
  recipe.text = text;
  if (!json.contains("default")) top.fail("default", "is missing");
  recipe.rules.push_back(read_rule(json["default"], "*", {file, "default"}));
  if (json.contains("overrides")) {
    const Json& overrides = json["overrides"];
    if (!overrides.is_array()) top.fail("overrides", str("is ", overrides.dump(), ", not a list"));
    for (std::size_t i = 0; i < overrides.size(); ++i)
      recipe.rules.push_back(read_rule(overrides[i], "", {file, str("overrides[", i, "]")}));
  }
  if (json.contains("gptq")) recipe.settings = read_settings(json["gptq"], {file, "gptq"});
  return recipe;
}

Recipe read_recipe(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  if (std::filesystem::is_directory(path) || !(text << stream.rdbuf()))
    throw Error(ErrorKind::usage, "read the recipe", path.string(), "the file cannot be read");
  return parse_recipe(text.str(), path.string());
}

Assignment resolve(const Recipe& recipe, const LinearSpec& linear) {
  Rule merged;
  bool named = linear.role != Role::router && linear.role != Role::head;
  for (std::size_t i = 0; i < recipe.rules.size(); ++i) {
    const Rule& rule = recipe.rules[i];
    if (!matches_pattern(rule.pattern, linear.name)) continue;
    if (rule.format && merged.format != rule.format) {  // what belonged to the other format
      merged.group_size.reset();
      merged.element.reset();
    }
    const auto take = [](const auto& from, auto& to) {
      if (from) to = from;
    };
    take(rule.format, merged.format);
    take(rule.group_size, merged.group_size);
    take(rule.symmetric, merged.symmetric);
    take(rule.skip, merged.skip);
    take(rule.method, merged.method);
    take(rule.scale_type, merged.scale_type);
    take(rule.scale_rule, merged.scale_rule);
    take(rule.element, merged.element);
    take(rule.activation, merged.activation);
    take(rule.activation_group, merged.activation_group);
    named = named || (i > 0 && rule.format);
  }
  Assignment result;
  const auto format = scheme_from_format(merged.format.value_or(""));  // "bf16" has no scheme
  if (merged.skip.value_or(false) || !named || !format) return result;
  result.method = merged.method.value_or(Method::gptq);
  result.scheme =
      merged.element ? with_element(*format, *merged.element).value_or(*format) : *format;
  result.scheme.group_size = merged.group_size.value_or(format->group_size);
  if (!format->is_float()) result.scheme.symmetric = merged.symmetric.value_or(true);
  if (merged.scale_type && !format->is_mx() && !format->is_nvfp4())
    result.scheme.scale_type = *merged.scale_type;
  result.scale_rule = merged.scale_rule.value_or(ScaleRule::best);
  result.activation = scheme_from_format(merged.activation.value_or(""));
  if (result.activation && !result.activation->is_mx() && !result.activation->is_nvfp4())
    result.activation->scale_type = ScaleType::f32;
  if (result.activation && merged.activation_group)
    result.activation->group_size = *merged.activation_group;
  return result;
}

std::string settings_to_json(const QuantizeSettings& settings) {
  return Json{{"damping", settings.gptq.damping},
              {"block", settings.gptq.block},
              {"routing_exponent", settings.routing_exponent},
              {"starved", settings.starved == Starved::rtn ? "rtn" : "all_tokens"},
              {"min_tokens", settings.min_tokens},
              {"sequential", static_cast<int>(settings.sequential)},
              {"expert_tokens", static_cast<int>(settings.expert_tokens)}}
      .dump();
}

std::vector<std::string> group_remarks(const Recipe& recipe, const Model& model) {
  std::map<std::pair<Index, Index>, Index> counts;  // (columns, group size) -> matrices
  for (const LinearSpec* linear : all_linears(model)) {
    const Assignment assignment = resolve(recipe, *linear);
    const Index size = assignment.scheme.group_size;
    if (assignment.method != Method::copy && size > 0 && linear->columns % size != 0)
      ++counts[{linear->columns, size}];
  }
  std::vector<std::string> remarks;
  for (const auto& [shape, matrices] : counts) {
    const auto [columns, size] = shape;
    const std::string rows = str(matrices, " matrices with rows of ", columns, ": ");
    remarks.push_back(columns < size
                          ? str(rows, "one group, not ", size, " columns")
                          : str(rows, "groups of ", size, ", the last of ", columns % size));
  }
  return remarks;
}

std::vector<std::string> unmatched_patterns(const Recipe& recipe, const Model& model) {
  const std::vector<const LinearSpec*> linears = all_linears(model);
  std::vector<std::string> unmatched;
  for (std::size_t i = 1; i < recipe.rules.size(); ++i) {
    const std::string& pattern = recipe.rules[i].pattern;
    const bool used = std::any_of(linears.begin(), linears.end(), [&](const LinearSpec* linear) {
      return matches_pattern(pattern, linear->name);
    });
    if (!used) unmatched.push_back(pattern);
  }
  return unmatched;
}

}  // namespace aq
