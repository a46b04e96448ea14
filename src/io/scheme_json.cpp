#include <algorithm>
#include <array>
#include <optional>

#include "aq/core/text.h"
#include "aq/io/matrix_file.h"
#include "io/json_text.h"

namespace aq {
namespace {

constexpr const char* kOperation = "read the scheme";
constexpr std::array<std::string_view, 5> kKeys{"format", "element", "symmetric", "group_size",
                                                "scale_dtype"};

[[noreturn]] void fail(const std::string& object, const std::string& reason) {
  throw Error(ErrorKind::input, kOperation, object, reason);
}

/// The value of `key` as `Value`; an error when it is missing or of another kind.
template <class Value>
Value value_of(const Json& json, std::string_view key, const std::string& object,
               bool right_kind(const Json&)) {
  const auto found = json.find(key);
  if (found == json.end()) fail(object, str("the key '", key, "' is missing"));
  if (!right_kind(*found)) fail(object, str("'", key, "' is of the wrong kind"));
  return found->get<Value>();
}

bool is_text(const Json& value) {
  return value.is_string();
}
bool is_truth(const Json& value) {
  return value.is_boolean();
}
bool is_index(const Json& value) {
  if (value.is_number_unsigned()) return value.get<std::uint64_t>() <= std::uint64_t{1} << 40;
  return value.is_number_integer() && value.get<Index>() == -1;
}

}  // namespace

std::string scheme_to_json(const Scheme& scheme) {
  nlohmann::ordered_json json;
  json["format"] = format_name(scheme);
  if (scheme.is_float()) json["element"] = element_name(scheme.element);
  json["symmetric"] = scheme.symmetric;
  json["group_size"] = scheme.group_size;
  json["scale_dtype"] = scale_type_name(scheme.scale_type);
  return json.dump();
}

Scheme scheme_from_json(const std::string& text, const std::string& object) {
  const Json json = parse_json_object(text, kOperation, object);
  for (const auto& entry : json.items())
    if (std::find(kKeys.begin(), kKeys.end(), entry.key()) == kKeys.end())
      fail(object, str("unknown key '", entry.key(), "'", did_you_mean(entry.key(), kKeys)));
  const auto format = value_of<std::string>(json, "format", object, is_text);
  std::optional<Scheme> scheme = scheme_from_format(format);
  if (!scheme)
    fail(object, str("unknown format '", format, "'", did_you_mean(format, format_names())));
  if (scheme->is_float() &&
      value_of<std::string>(json, "element", object, is_text) != element_name(scheme->element))
    fail(object, str("'element' is not that of ", format));
  scheme->symmetric = value_of<bool>(json, "symmetric", object, is_truth);
  scheme->group_size = value_of<Index>(json, "group_size", object, is_index);
  const auto scale = value_of<std::string>(json, "scale_dtype", object, is_text);
  const std::optional<ScaleType> type = scale_type_from_name(scale);
  if (!type) fail(object, str("unknown scale_dtype '", scale, "'"));
  scheme->scale_type = *type;
  if (const std::string problem = scheme_problem(*scheme); !problem.empty()) fail(object, problem);
  return *scheme;
}

}  // namespace aq
