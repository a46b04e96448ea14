#include "model/config_reader.h"

#include <cmath>

#include "aq/model/config_json.h"
#include "model/shallow_json.h"

namespace aq {
namespace {

constexpr std::string_view kOperation = "read the model's configuration";
constexpr Index kLargestExtent = Index{1} << 31;  // so that a product of two fits
constexpr std::size_t kLongestReason = 300;       // what is shown of a value may be long

}  // namespace

ConfigReader::ConfigReader(std::string_view text, std::string_view file) : file_(file) {
  try {
    json_ = std::make_shared<nlohmann::json>(parse_shallow<nlohmann::json>(standard_json(text)));
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::input, kOperation, file_, shown_reason(error.what()),
                "the file must be valid JSON");
  }
  if (!json_->is_object())
    throw Error(ErrorKind::input, kOperation, file_, "the file does not hold a JSON object");
}

void ConfigReader::fail(std::string_view key, std::string_view reason,
                        std::string_view hint) const {
  const bool cut = reason.size() > kLongestReason;
  throw Error(ErrorKind::input, kOperation, file_,
              str("key '", path_, key, "' ", reason.substr(0, kLongestReason), cut ? "..." : ""),
              hint);
}

ConfigReader::ConfigReader(const ConfigReader& outer, std::string_view key)
    : json_(outer.json_, &outer.at(key)),
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
  if (flag_or(key, fact) != fact) fail(key, str("is ", at(key).dump(), "; ", what));
}

std::vector<std::pair<std::string, const nlohmann::json*>> ConfigReader::unread() const {
  std::vector<std::pair<std::string, const nlohmann::json*>> found;
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

const nlohmann::json& ConfigReader::at(std::string_view key) const {
  if (!has(key)) fail(key, "is missing");
  return *json_->find(key);
}

Index ConfigReader::whole(std::string_view key, Index least) const {
  const nlohmann::json& value = at(key);
  if (!value.is_number_integer() || value.get<double>() < static_cast<double>(least) ||
      value.get<double>() > static_cast<double>(kLargestExtent))
    fail(key,
         str("is ", value.dump(), ", not a whole number in [", least, ", ", kLargestExtent, "]"));
  return value.get<Index>();
}

Index ConfigReader::positive(std::string_view key) const {
  return whole(key, 1);
}

Index ConfigReader::positive_or(std::string_view key, Index otherwise) const {
  return has(key) ? positive(key) : otherwise;
}

std::optional<double> ConfigReader::optional_number(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  const nlohmann::json& value = at(key);
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0)
    fail(key, str("is ", value.dump(), ", not a number above zero"));
  return value.get<double>();
}

double ConfigReader::number_or(std::string_view key, double otherwise) const {
  return optional_number(key).value_or(otherwise);
}

bool ConfigReader::flag_or(std::string_view key, bool otherwise) const {
  if (!has(key)) return otherwise;
  if (!at(key).is_boolean()) fail(key, str("is ", at(key).dump(), ", not true or false"));
  return at(key).get<bool>();
}

std::string ConfigReader::text_or(std::string_view key, std::string_view otherwise) const {
  if (!has(key)) return std::string(otherwise);
  if (!at(key).is_string()) fail(key, str("is ", at(key).dump(), ", not a text"));
  return at(key).get<std::string>();
}

std::optional<ConfigReader> ConfigReader::object(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  if (!at(key).is_object()) fail(key, str("is ", at(key).dump(), ", not an object"));
  return ConfigReader(*this, key);
}

std::string ConfigReader::first_of(const Keys& keys) const {
  std::string first;
  for (const std::string& key : keys) {
    if (!has(key)) continue;
    if (first.empty()) first = key;
    if (at(key) != at(first))
      fail(key, str("is ", at(key).dump(), ", but '", first, "' is ", at(first).dump()));
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
