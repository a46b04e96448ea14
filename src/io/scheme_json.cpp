#include <array>
#include <optional>

#include "aq/core/json.h"
#include "aq/io/matrix_file.h"

namespace aq {
namespace {

constexpr const char* kOperation = "read the scheme";
constexpr std::array<std::string_view, 5> kKeys{"format", "element", "symmetric", "group_size",
                                                "scale_dtype"};

}  // namespace

std::string scheme_to_json(const Scheme& scheme) {
  OrderedJson json;
  json["format"] = format_name(scheme);
  if (scheme.is_float()) json["element"] = element_name(scheme.element);
  json["symmetric"] = scheme.symmetric;
  json["group_size"] = scheme.group_size;
  json["scale_dtype"] = scale_type_name(scheme.scale_type);
  return json.dump();
}

Scheme scheme_from_json(const std::string& text, const std::string& object) {
  const JsonPlace place{ErrorKind::input, kOperation, object};
  const Json json = parse_json(text, place);
  const JsonValue top{json, place};
  top.check_keys(kKeys);
  const std::vector<std::string_view>& formats = format_names();
  const std::string_view format = formats[top.at("format").word(formats)];
  std::optional<Scheme> scheme = scheme_from_format(format);
  if (scheme->is_float() && top.at("element").text() != element_name(scheme->element))
    top.at("element").fail(str("is not that of ", format));
  scheme->symmetric = top.at("symmetric").flag();
  scheme->group_size = top.at("group_size").whole(-1, Index{1} << 40);
  const std::optional<ScaleType> type = scale_type_from_name(top.at("scale_dtype").text());
  if (!type) top.at("scale_dtype").fail_as("a type of scales");
  scheme->scale_type = *type;
  if (const std::string problem = scheme_problem(*scheme); !problem.empty()) place.fail(problem);
  return *scheme;
}

}  // namespace aq
