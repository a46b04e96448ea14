#include "model/config_reader.h"

namespace aq {
namespace {

constexpr std::string_view kOperation = "read the model's configuration";
constexpr Index kLargestExtent = Index{1} << 31;  // so that a product of two fits

}  // namespace

Json parse_config(std::string_view text, std::string_view file) {
  return parse_json(text, {ErrorKind::input, kOperation, file}, JsonDialect::python);
}

ConfigReader::ConfigReader(std::string_view text, std::string_view file)
    : json_(std::make_shared<Json>(parse_config(text, file))), file_(file) {}

void ConfigReader::fail(std::string_view key, std::string_view reason,
                        std::string_view hint) const {
  JsonPlace{ErrorKind::input, kOperation, file_, hint, str(path_, key)}.fail(reason);
}

ConfigReader::ConfigReader(const ConfigReader& outer, std::string_view key)
    : json_(outer.json_, &outer.at(key).json),
      trace_(outer.trace_),
      path_(str(outer.path_, key, ".")),
      file_(outer.file_) {
  trace_->entered.insert(str(outer.path_, key));
}

bool ConfigReader::has(std::string_view key) const {
  const auto found = json_->find(key);
  if (found == json_->end()) return false;
  trace_->read.insert(str(path_, key));
  return !found->is_null();
}

bool ConfigReader::is_null(std::string_view key) const {
  return !has(key) && json_->contains(key);
}

void ConfigReader::disregard(const Keys& keys) const {
  for (const std::string& key : keys) has(key);
}

void ConfigReader::agree(std::string_view key, bool fact, std::string_view what) const {
  if (flag_or(key, fact) != fact) fail(key, str("is ", shown(at(key).json), "; ", what));
}

std::vector<std::pair<std::string, const Json*>> ConfigReader::unread() const {
  std::vector<std::pair<std::string, const Json*>> found;
  for (const auto& [key, value] : json_->items()) {
    const std::string path = str(path_, key);
    if (trace_->entered.contains(path)) {
      const auto inside = ConfigReader(*this, key).unread();
      found.insert(found.end(), inside.begin(), inside.end());
    } else if (!trace_->read.contains(path) && !(value.is_null() && path_.empty())) {
      found.emplace_back(path, &value);
    }
  }
  return found;
}

JsonValue ConfigReader::at(std::string_view key) const {
  if (!has(key)) fail(key, "is missing");
  return {*json_->find(key), {ErrorKind::input, kOperation, file_, {}, str(path_, key)}};
}

Index ConfigReader::whole(std::string_view key, Index least) const {
  return at(key).whole(least, kLargestExtent);
}

Index ConfigReader::positive(std::string_view key) const {
  return whole(key, 1);
}

Index ConfigReader::positive_or(std::string_view key, Index otherwise) const {
  return has(key) ? positive(key) : otherwise;
}

std::optional<double> ConfigReader::optional_number(std::string_view key) const {
  return has(key) ? std::optional(at(key).positive()) : std::nullopt;
}

double ConfigReader::number_or(std::string_view key, double otherwise) const {
  return optional_number(key).value_or(otherwise);
}

bool ConfigReader::flag_or(std::string_view key, bool otherwise) const {
  return has(key) ? at(key).flag() : otherwise;
}

std::string ConfigReader::text_or(std::string_view key, std::string_view otherwise) const {
  return has(key) ? at(key).text() : std::string(otherwise);
}

std::optional<ConfigReader> ConfigReader::object(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  if (const JsonValue value = at(key); !value.json.is_object()) value.fail_as("an object");
  return ConfigReader(*this, key);
}

std::string ConfigReader::first_of(const Keys& keys) const {
  std::string first;
  for (const std::string& key : keys) {
    if (!has(key)) continue;
    if (first.empty()) first = key;
    if (at(key).json != at(first).json)
      fail(key, str("is ", shown(at(key).json), ", but '", first, "' is ", shown(at(first).json)));
  }
  return first;
}

Index ConfigReader::get(const Size& size) const {
  const std::string key = first_of(size.keys);
  if (!key.empty()) return positive(key);
  if (size.otherwise > 0) return size.otherwise;
  fail(size.keys.empty() ? "?" : size.keys.front(), "is missing");
}

double ConfigReader::get(const Real& real) const {
  const std::string key = first_of(real.keys);
  return key.empty() ? real.otherwise : *optional_number(key);
}

bool ConfigReader::get(const Flag& flag) const {
  if (flag.key.empty()) return flag.otherwise;
  if (flag.otherwise && is_null(flag.key)) fail(flag.key, "is null, neither true nor false");
  return flag_or(flag.key, flag.otherwise);
}

Index ConfigReader::count_or(const Keys& keys, Index otherwise) const {
  const std::string key = first_of(keys);
  return key.empty() ? otherwise : whole(key, 0);
}

}  // namespace aq
