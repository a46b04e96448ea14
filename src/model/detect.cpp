#include <algorithm>

#include "aq/core/text.h"
#include "aq/model/text_config.h"
#include "model/config_reader.h"

namespace aq {
namespace {

std::string first_class_name(const ConfigReader& config) {
  if (!config.has("architectures")) return {};
  const Json& names = config.json().at("architectures");
  const auto is_text = [](const Json& name) { return name.is_string(); };
  if (!names.is_array() || !std::all_of(names.begin(), names.end(), is_text))
    config.fail("architectures", "is not a list of texts");
  return names.empty() ? "" : names.front().get<std::string>();
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

bool has_experts(const Architecture& row) {
  return !row.keys.experts.keys.empty() || row.keys.experts.otherwise > 0;
}

const Architecture* named_architecture(std::string_view config_json, std::string_view file) {
  const TextConfig text = text_config(config_json, file);
  const ConfigReader config(text.json, text.file);
  const std::string type = config.text_or("model_type", "");
  const std::string class_name = first_class_name(config);
  for (const Architecture& row : architectures())
    if (contains(row.model_types, type)) return &row;
  for (const Architecture& row : architectures())
    if (contains(row.class_names, class_name)) return &row;
  return nullptr;
}

void refuse_unknown_architecture(const ConfigReader& config, std::string_view reason) {
  std::string known;
  for (const Architecture& row : architectures()) known += str(known.empty() ? "" : ", ", row.name);
  config.fail("model_type",
              str("is '", config.text_or("model_type", ""), "', class '", first_class_name(config),
                  "', which is not known", reason),
              str("known architectures: ", known, "; describe another with --architecture FILE"));
}

}  // namespace aq
