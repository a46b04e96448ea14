#include "aq/model/architecture_json.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <type_traits>
#include <utility>

#include "aq/core/json.h"
#include "aq/core/text.h"
#include "model/architecture_fields.h"

namespace aq {
namespace {

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

OrderedJson to_value(const std::string& field) {
  return field;
}
OrderedJson to_value(bool field) {
  return field;
}
OrderedJson to_value(Index field) {
  return field;
}
OrderedJson to_value(const Keys& field) {
  return field;
}
template <class Enum>
OrderedJson words_value(Enum field) {
  for (const auto& [word, value] : words(field))
    if (value == field) return word;
  return nullptr;
}
OrderedJson to_value(QkNorm field) {
  return words_value(field);
}
OrderedJson to_value(RouterScore field) {
  return words_value(field);
}
OrderedJson to_value(GroupScore field) {
  return words_value(field);
}
OrderedJson to_value(WindowedLayers field) {
  return words_value(field);
}
template <class Number>
OrderedJson number_value(const Number& field) {
  if (field.keys.empty()) return field.otherwise;
  if (field.otherwise == 0) return field.keys;
  return {{"keys", field.keys}, {"otherwise", field.otherwise}};
}
OrderedJson to_value(const Size& field) {
  return number_value(field);
}
OrderedJson to_value(const Real& field) {
  return number_value(field);
}
OrderedJson to_value(const Flag& field) {
  if (field.key.empty()) return field.otherwise;
  return {{"key", field.key}, {"otherwise", field.otherwise}};
}

// ---- JSON to values

JsonPlace place_in(std::string_view file, std::string path) {
  return {ErrorKind::usage, "read the architecture", file, {}, std::move(path)};
}

void from_value(const JsonValue& value, std::string& field) {
  field = value.text();
}
void from_value(const JsonValue& value, bool& field) {
  field = value.flag();
}
void from_value(const JsonValue& value, Index& field) {
  field = value.whole(0, Index{1} << 31);
}
void from_value(const JsonValue& value, double& field) {
  field = value.number();
  if (field < 0) value.fail_as("a number of at least zero");
}
void from_value(const JsonValue& value, Keys& field) {
  const auto is_text = [](const Json& item) { return item.is_string(); };
  if (value.json.is_string())
    field = {value.text()};
  else if (value.json.is_array() && std::ranges::all_of(value.json, is_text))
    field = value.json.get<Keys>();
  else
    value.fail_as("a text or a list of texts");
}
template <class Enum>
void word_from_value(const JsonValue& value, Enum& field) {
  std::vector<std::string_view> known;
  for (const auto& [word, meaning] : words(field)) known.push_back(word);
  field = words(field)[value.word(known)].second;
}
void from_value(const JsonValue& value, QkNorm& field) {
  word_from_value(value, field);
}
void from_value(const JsonValue& value, RouterScore& field) {
  word_from_value(value, field);
}
void from_value(const JsonValue& value, GroupScore& field) {
  word_from_value(value, field);
}
void from_value(const JsonValue& value, WindowedLayers& field) {
  word_from_value(value, field);
}

/// The object {first: ..., "otherwise": ...}; both may be missing.
template <class First, class Otherwise>
void pair_from_value(const JsonValue& value, std::string_view first_key, First& first,
                     Otherwise& otherwise) {
  value.check_keys(std::array{first_key, std::string_view("otherwise")});
  if (const auto part = value.find(first_key)) from_value(*part, first);
  if (const auto part = value.find("otherwise")) from_value(*part, otherwise);
}
/// A number, the key or keys of config.json, or both as an object.
template <class Number>
void number_from_value(const JsonValue& value, Number& field) {
  field = {};
  if (value.json.is_number())
    from_value(value, field.otherwise);
  else if (value.json.is_object())
    pair_from_value(value, "keys", field.keys, field.otherwise);
  else
    from_value(value, field.keys);
}
void from_value(const JsonValue& value, Size& field) {
  number_from_value(value, field);
}
void from_value(const JsonValue& value, Real& field) {
  number_from_value(value, field);
}
/// true or false, the key of config.json, or both as an object.
void from_value(const JsonValue& value, Flag& field) {
  field = {};
  if (value.json.is_boolean())
    from_value(value, field.otherwise);
  else if (value.json.is_object())
    pair_from_value(value, "key", field.key, field.otherwise);
  else
    from_value(value, field.key);
}

/// The row that the file starts from.
Architecture base_row(const JsonValue& json) {
  const auto like = json.find("like");
  if (!like) return {};
  std::vector<std::string_view> known;
  for (const Architecture& row : architectures()) known.emplace_back(row.name);
  return architectures()[like->word(known)];
}

/// Refuses sections and keys that no field has.
void check_keys(const JsonValue& json) {
  std::map<std::string_view, std::vector<std::string_view>> keys;  // of each section
  const Architecture any;
  visit_fields(any, [&](const char* section, const char* key, const auto&) {
    keys[section].emplace_back(key);
  });
  std::vector<std::string_view> known{"like", "name", "family"};
  for (const auto& [section, ignored] : keys) known.push_back(section);
  json.check_keys(known);
  for (const auto& [section, names] : keys)
    if (const auto values = json.find(section)) values->check_keys(names);
}

/// What would make two linears the same one, or fill the memory with names.
void check_names(const Architecture& row, std::string_view file) {
  constexpr std::size_t kLongestName = 256;
  visit_fields(row, [&](std::string_view section, const char* key, const auto& field) {
    if constexpr (std::is_same_v<decltype(field), const std::string&>)
      if (section == "tensors" && field.size() > kLongestName)
        place_in(file, str("tensors.", key)).fail(str("is longer than ", kLongestName, " bytes"));
  });
  const TensorNames& names = row.tensors;
  const auto require = [&](const char* key, const std::string& name, const char* number) {
    if (name.find(number) == std::string::npos)
      place_in(file, str("tensors.", key))
          .fail(str("is '", name, "', without ", number, ": all would be the same tensors"));
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
          place_in(file, str("tensors.", key))
              .fail(str("is '", field, "', as 'tensors.", other->second, "' is"));
      }
    });
  }
}

}  // namespace

Architecture architecture_from_json(std::string_view text, std::string_view file) {
  const Json json = parse_json(text, place_in(file, {}));
  const JsonValue top{json, place_in(file, {})};
  check_keys(top);
  Architecture row = base_row(top);
  visit_fields(row, [&](const char* section, const char* key, auto& field) {
    if (const auto values = top.find(section))
      if (const auto value = values->find(key)) from_value(*value, field);
  });
  row.name = top.at("name").text();
  if (const auto family = top.find("family")) row.family = family->text();
  if (row.name.empty()) top.at("name").fail("is empty");
  if (row.family.empty()) row.family = row.name;
  check_names(row, file);
  check_distinct(row, file);
  return row;
}

std::string architecture_to_json(const Architecture& row) {
  OrderedJson json{{"name", row.name}, {"family", row.family}};
  visit_fields(row, [&](const char* section, const char* key, const auto& field) {
    json[section][key] = to_value(field);
  });
  return json.dump(2) + "\n";
}

}  // namespace aq
