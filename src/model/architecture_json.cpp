#include "aq/model/architecture_json.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <type_traits>
#include <utility>

#include "aq/core/error.h"
#include "aq/core/text.h"
#include "model/architecture_fields.h"
#include "model/shallow_json.h"

namespace aq {
namespace {

using Json = nlohmann::ordered_json;

template <class Enum>
using Words = std::vector<std::pair<std::string_view, Enum>>;

const Words<QkNorm>& words(QkNorm) {
  static const Words<QkNorm> all{
      {"none", QkNorm::none}, {"projection", QkNorm::projection}, {"head", QkNorm::head}};
  return all;
}
const Words<RouterScore>& words(RouterScore) {
  static const Words<RouterScore> all{{"softmax", RouterScore::softmax},
                                      {"sigmoid", RouterScore::sigmoid},
                                      {"softmax_of_chosen", RouterScore::softmax_of_chosen}};
  return all;
}
const Words<GroupScore>& words(GroupScore) {
  static const Words<GroupScore> all{{"largest", GroupScore::largest},
                                     {"two_largest", GroupScore::two_largest}};
  return all;
}
const Words<WindowedLayers>& words(WindowedLayers) {
  static const Words<WindowedLayers> all{
      {"all", WindowedLayers::all},
      {"even", WindowedLayers::even},
      {"from_max_window_layers", WindowedLayers::from_max_window_layers},
      {"even_below_max_window_layers", WindowedLayers::even_below_max_window_layers}};
  return all;
}

// ---- values to JSON; a Size, Real or Flag in its shortest form

Json to_value(const std::string& field) {
  return field;
}
Json to_value(bool field) {
  return field;
}
Json to_value(Index field) {
  return field;
}
Json to_value(const Keys& field) {
  return field;
}
template <class Enum>
Json words_value(Enum field) {
  for (const auto& [word, value] : words(field))
    if (value == field) return word;
  return nullptr;
}
Json to_value(QkNorm field) {
  return words_value(field);
}
Json to_value(RouterScore field) {
  return words_value(field);
}
Json to_value(GroupScore field) {
  return words_value(field);
}
Json to_value(WindowedLayers field) {
  return words_value(field);
}
template <class Number>
Json number_value(const Number& field) {
  if (field.keys.empty()) return field.otherwise;
  if (field.otherwise == 0) return field.keys;
  return {{"keys", field.keys}, {"otherwise", field.otherwise}};
}
Json to_value(const Size& field) {
  return number_value(field);
}
Json to_value(const Real& field) {
  return number_value(field);
}
Json to_value(const Flag& field) {
  if (field.key.empty()) return field.otherwise;
  return {{"key", field.key}, {"otherwise", field.otherwise}};
}

constexpr std::size_t kLongestText = 300;  // in messages

/// One value of the file and how to complain about it.
struct Place {
  std::string_view file;
  std::string name;  ///< "tensors.q"

  [[noreturn]] void fail(std::string_view reason, std::string_view hint = {}) const {
    throw Error(ErrorKind::usage, "read the architecture", file,
                str("'", name.substr(0, kLongestText), "' ", reason.substr(0, kLongestText)), hint);
  }
};

// ---- JSON to values

void from_value(const Json& value, const Place& place, std::string& field) {
  if (!value.is_string()) place.fail("is not a text");
  field = value.get<std::string>();
}
void from_value(const Json& value, const Place& place, bool& field) {
  if (!value.is_boolean()) place.fail("is not true or false");
  field = value.get<bool>();
}
void from_value(const Json& value, const Place& place, Index& field) {
  if (!value.is_number_integer() || value.get<double>() < 0 || value.get<double>() > 0x1p31)
    place.fail("is not a whole number in [0, 2^31]");
  field = value.get<Index>();
}
void from_value(const Json& value, const Place& place, double& field) {
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() < 0)
    place.fail("is not a number of at least zero");
  field = value.get<double>();
}
void from_value(const Json& value, const Place& place, Keys& field) {
  const auto is_text = [](const Json& item) { return item.is_string(); };
  if (value.is_string())
    field = {value.get<std::string>()};
  else if (value.is_array() && std::all_of(value.begin(), value.end(), is_text))
    field = value.get<Keys>();
  else
    place.fail("is neither a text nor a list of texts");
}
template <class Enum>
void word_from_value(const Json& value, const Place& place, Enum& field) {
  std::vector<std::string_view> known;
  for (const auto& [word, meaning] : words(field)) {
    known.push_back(word);
    if (!value.is_string() || value != word) continue;
    field = meaning;
    return;
  }
  std::string list;
  for (const std::string_view word : known) list += str(list.empty() ? "" : ", ", word);
  place.fail(str("is ", value.dump(), "; known are ", list));
}
void from_value(const Json& value, const Place& place, QkNorm& field) {
  word_from_value(value, place, field);
}
void from_value(const Json& value, const Place& place, RouterScore& field) {
  word_from_value(value, place, field);
}
void from_value(const Json& value, const Place& place, GroupScore& field) {
  word_from_value(value, place, field);
}
void from_value(const Json& value, const Place& place, WindowedLayers& field) {
  word_from_value(value, place, field);
}

/// The object {first: ..., "otherwise": ...}; both may be missing.
template <class First, class Otherwise>
void pair_from_value(const Json& value, const Place& place, const char* first_key, First& first,
                     Otherwise& otherwise) {
  for (const auto& [key, part] : value.items()) {
    const Place inner{place.file, str(place.name, ".", key)};
    if (key == first_key)
      from_value(part, inner, first);
    else if (key == "otherwise")
      from_value(part, inner, otherwise);
    else
      inner.fail(str("is not known; known are ", first_key, " and otherwise"));
  }
}
/// A number, the key or keys of config.json, or both as an object.
template <class Number>
void number_from_value(const Json& value, const Place& place, Number& field) {
  field = {};
  if (value.is_number())
    from_value(value, place, field.otherwise);
  else if (value.is_object())
    pair_from_value(value, place, "keys", field.keys, field.otherwise);
  else
    from_value(value, place, field.keys);
}
void from_value(const Json& value, const Place& place, Size& field) {
  number_from_value(value, place, field);
}
void from_value(const Json& value, const Place& place, Real& field) {
  number_from_value(value, place, field);
}
/// true or false, the key of config.json, or both as an object.
void from_value(const Json& value, const Place& place, Flag& field) {
  field = {};
  if (value.is_boolean())
    field.otherwise = value.get<bool>();
  else if (value.is_object())
    pair_from_value(value, place, "key", field.key, field.otherwise);
  else
    from_value(value, place, field.key);
}

Json parse(std::string_view text, std::string_view file) {
  Json json;
  try {
    json = parse_shallow<Json>(text);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::usage, "read the architecture", file, shown_reason(error.what()),
                "the file must be valid JSON");
  }
  if (!json.is_object())
    throw Error(ErrorKind::usage, "read the architecture", file,
                "the file does not hold a JSON object");
  return json;
}

/// The row that the file starts from.
Architecture base_row(const Json& json, std::string_view file) {
  const auto like = json.find("like");
  if (like == json.end()) return {};
  std::vector<std::string_view> known;
  for (const Architecture& row : architectures()) known.emplace_back(row.name);
  const std::string name = like->is_string() ? like->get<std::string>() : like->dump();
  const Architecture* row = find_architecture(name);
  if (row != nullptr) return *row;
  Place{file, "like"}.fail(str("is '", name, "', which is not known", did_you_mean(name, known)));
}

/// Sections and keys that no field has.
void refuse_unknown_keys(const Json& json, const std::set<std::string>& read,
                         std::string_view file) {
  const std::vector<std::string_view> known(read.begin(), read.end());
  const auto check = [&](const std::string& name) {
    if (!read.contains(name))
      Place{file, name}.fail(str("is not known", did_you_mean(name, known)));
  };
  for (const auto& [section, value] : json.items()) {
    check(section);
    if (!value.is_object()) continue;
    for (const auto& [key, ignored] : value.items()) check(str(section, ".", key));
  }
}

/// What would make two linears the same one, or fill the memory with names.
void check_names(const Architecture& row, std::string_view file) {
  constexpr std::size_t kLongestName = 256;
  visit_fields(row, [&](std::string_view section, const char* key, const auto& field) {
    if constexpr (std::is_same_v<decltype(field), const std::string&>)
      if (section == "tensors" && field.size() > kLongestName)
        Place{file, str("tensors.", key)}.fail(str("is longer than ", kLongestName, " bytes"));
  });
  const TensorNames& names = row.tensors;
  const auto require = [&](const char* key, const std::string& name, const char* number) {
    if (name.find(number) == std::string::npos)
      Place{file, str("tensors.", key)}.fail(
          str("is '", name, "', without ", number, ": all would be the same tensors"));
  };
  require("layer", names.layer, "{i}");
  if (!has_experts(row)) return;
  require("expert_gate", names.expert_gate, "{e}");
  require("expert_up", names.expert_up, "{e}");
  require("expert_down", names.expert_down, "{e}");
}

/// No two linears of a layer may be the same one; layers are dense or have experts.
void check_distinct(const Architecture& row, std::string_view file) {
  const std::set<std::string_view> attention{"q", "k", "v", "o", "q_a", "kv_a", "kv_b"};
  for (const bool dense : {true, false}) {
    std::map<std::string, std::string> seen;  // name -> key
    visit_fields(row, [&](std::string_view section, std::string_view key, const auto& field) {
      if constexpr (std::is_same_v<decltype(field), const std::string&>) {
        const bool of_experts =
            key.starts_with("expert_") || key.starts_with("shared_") || key == "router";
        const bool here = dense ? key.starts_with("dense_") : of_experts;
        if (section != "tensors" || field.empty() || !(here || attention.contains(key))) return;
        const auto [other, is_new] = seen.emplace(field, key);
        if (!is_new)
          Place{file, str("tensors.", key)}.fail(
              str("is '", field, "', as 'tensors.", other->second, "' is"));
      }
    });
  }
}

}  // namespace

Architecture architecture_from_json(std::string_view text, std::string_view file) {
  const Json json = parse(text, file);
  Architecture row = base_row(json, file);
  std::set<std::string> known{"like", "name", "family"};
  visit_fields(row, [&](const char* section, const char* key, auto& field) {
    known.insert(section);
    known.insert(str(section, ".", key));
    const auto values = json.find(section);
    if (values == json.end()) return;
    if (!values->is_object()) Place{file, section}.fail("is not an object");
    if (const auto value = values->find(key); value != values->end())
      from_value(*value, {file, str(section, ".", key)}, field);
  });
  refuse_unknown_keys(json, known, file);
  if (!json.contains("name")) Place{file, "name"}.fail("is missing");
  from_value(json["name"], {file, "name"}, row.name);
  if (json.contains("family")) from_value(json["family"], {file, "family"}, row.family);
  if (row.name.empty()) Place{file, "name"}.fail("is empty");
  if (row.family.empty()) row.family = row.name;
  check_names(row, file);
  check_distinct(row, file);
  return row;
}

std::string architecture_to_json(const Architecture& row) {
  Json json{{"name", row.name}, {"family", row.family}};
  visit_fields(row, [&](const char* section, const char* key, const auto& field) {
    json[section][key] = to_value(field);
  });
  return json.dump(2) + "\n";
}

}  // namespace aq
