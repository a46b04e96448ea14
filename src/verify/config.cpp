#include "verify/config.h"

#include <regex.h>

#include "aq/core/text.h"

namespace aq {

struct MatchFromBegin::Compiled {
  regex_t regex{};
  ~Compiled() { regfree(&regex); }
};

MatchFromBegin::MatchFromBegin(const std::string& expression) {
  const std::string posix = "^(" + replace_all(expression, R"(\d)", "[0-9]") + ")";
  auto compiled = std::make_unique<Compiled>();
  if (regcomp(&compiled->regex, posix.c_str(), REG_EXTENDED | REG_NOSUB) == 0)
    compiled_ = std::move(compiled);
}

MatchFromBegin::~MatchFromBegin() = default;
MatchFromBegin::MatchFromBegin(MatchFromBegin&&) noexcept = default;

bool MatchFromBegin::operator()(const std::string& text) const {
  return valid() && regexec(&compiled_->regex, text.c_str(), 0, nullptr, 0) == 0;
}

namespace {

/// The same thing said of many modules is said once.
class Problems {
 public:
  void add(const std::string& text, const std::string& module) {
    auto& [count, first] = modules_[text];
    if (count++ == 0) first = module;
  }
  void into(std::vector<TextProblem>& problems) const {
    for (const auto& [text, modules] : modules_) {
      const auto& [count, first] = modules;
      problems.push_back({first, text + (count > 1 ? str(", and of ", count - 1, " more") : "")});
    }
  }

 private:
  std::map<std::string, std::pair<Index, std::string>> modules_;
};

/// Names, expressions after "re:", and "Linear" for every module that is one.
class Targets {
 public:
  explicit Targets(const Json& list) {
    for (const Json& target : list) {
      const std::string text = target.is_string() ? target.get<std::string>() : target.dump();
      if (!text.starts_with("re:")) {
        names_.push_back(text);
        continue;
      }
      expressions_.emplace_back(text.substr(3));
      if (!expressions_.back().valid()) invalid.push_back(text);
    }
  }
  bool by_name(const std::string& module) const {
    return std::ranges::find(names_, module) != names_.end();
  }
  bool by_expression(const std::string& module) const {
    return std::ranges::any_of(expressions_, [&](const auto& matches) { return matches(module); });
  }
  bool by_class() const { return by_name("Linear"); }
  bool any(const std::string& module) const {
    return by_name(module) || by_expression(module) || by_class();
  }
  std::vector<std::string> invalid;

 private:
  std::vector<std::string> names_;
  std::vector<MatchFromBegin> expressions_;
};

/// The members of QuantizationArgs that decide how codes are read.
Json arguments_of(const Scheme& scheme, bool inputs) {
  Json json{{"num_bits", scheme.bits},
            {"type", scheme.is_float() ? "float" : "int"},
            {"symmetric", scheme.symmetric},
            {"dynamic", inputs}};
  if (scheme.group_size == kPerTensor)
    json["strategy"] = "tensor";
  else if (scheme.group_size == kPerChannel)
    json["strategy"] = inputs ? "token" : "channel";
  else
    json["strategy"] = scheme.is_nvfp4() ? "tensor_group" : "group";
  json["group_size"] = scheme.group_size > 0 ? Json(scheme.group_size) : Json();
  if (scheme.is_nvfp4()) json["scale_dtype"] = "torch.float8_e4m3fn";
  if (scheme.is_mx()) json["scale_dtype"] = "torch.uint8";
  return json;
}

/// The first member that is not as expected: "num_bits is 3, not 4".
std::string difference(const Json& found, const Json& expected) {
  if (!found.is_object()) return str("there are none of ", expected.dump());
  for (const auto& [key, value] : expected.items())
    if (const Json is = found.value(key, Json()); is != value)
      return str(key, " is ", is.dump(), ", not ", value.dump());
  return {};
}

struct Group {
  Targets targets;
  const Json& json;
};

/// A name goes before an expression, that before the class.
std::vector<const Group*> groups_of(const std::vector<Group>& groups, const std::string& module) {
  for (const auto& kind : {&Targets::by_name, &Targets::by_expression}) {
    std::vector<const Group*> found;
    for (const Group& group : groups)
      if ((group.targets.*kind)(module)) found.push_back(&group);
    if (!found.empty()) return found;
  }
  std::vector<const Group*> found;
  for (const Group& group : groups)
    if (group.targets.by_class()) found.push_back(&group);
  return found;
}

std::string compressed_difference(const Group& group, const Json& config,
                                  const PlannedMatrix& matrix) {
  if (std::string text =
          difference(group.json.value("weights", Json()), arguments_of(matrix.scheme, false));
      !text.empty())
    return "its weights' " + text;
  const std::string layout = layout_name(matrix.scheme, matrix.activation);
  const Json format = group.json.contains("format") && !group.json.at("format").is_null()
                          ? group.json.at("format")
                          : config.value("format", Json());
  if (format != layout) return str("its format is ", format.dump(), ", not ", layout);
  const Json inputs = group.json.value("input_activations", Json());
  const bool rounds = matrix.activation && !matrix.activation->is_nvfp4();
  if (!rounds) return inputs.is_null() ? "" : "its inputs are rounded";
  const std::string text = difference(inputs, arguments_of(*matrix.activation, true));
  return text.empty() ? "" : "its inputs' " + text;
}

void check_compressed(const ConfigToCheck& check, const Json& config, Problems& problems,
                      std::vector<TextProblem>& others) {
  const Json groups_json = config.value("config_groups", Json::object());
  const Targets ignored(config.value("ignore", Json::array()));
  std::vector<Group> groups;
  for (const auto& [name, group] : groups_json.items())
    groups.push_back({Targets(group.value("targets", Json::array())), group});
  for (const std::string& text : ignored.invalid) others.push_back({text, "it is no expression"});
  for (const Group& group : groups)
    for (const std::string& text : group.targets.invalid)
      others.push_back({text, "it is no expression"});
  for (const auto& [name, matrix] : check.planned) {
    if (ignored.any(name)) {
      problems.add("it is quantized, but `ignore` has it", name);
      continue;
    }
    const std::vector<const Group*> found = groups_of(groups, name);
    if (found.size() != 1)
      problems.add(str("it is quantized, but the target of ", found.size(), " groups"), name);
    else if (std::string text = compressed_difference(*found.front(), config, matrix);
             !text.empty())
      problems.add(text, name);
  }
  for (const std::string& name : check.left)
    if (!ignored.any(name) && !groups_of(groups, name).empty())
      problems.add("it is a target, but not quantized", name);
}

void check_gptq(const ConfigToCheck& check, const Json& config, Problems& problems,
                std::vector<TextProblem>& others) {
  struct Rule {
    bool leaves;
    MatchFromBegin matches;
    Json changes;
  };
  std::vector<Rule> rules;
  // The first rule that matches counts, in the order of the file.
  const OrderedJson whole = parse_json<OrderedJson>(
      check.text, {ErrorKind::input, "verify", "config.json"}, JsonDialect::python);
  const OrderedJson dynamic =
      whole.at("quantization_config").value("dynamic", OrderedJson::object());
  for (const auto& [key, changes] : dynamic.items()) {
    const bool marked = key.starts_with("+:") || key.starts_with("-:");
    rules.push_back({key.starts_with("-:"), MatchFromBegin(marked ? key.substr(2) : key),
                     Json::parse(changes.dump())});
    if (!rules.back().matches.valid()) others.push_back({key, "it is no expression"});
  }
  const auto settings_of = [&](const std::string& module) -> Json {
    for (const Rule& rule : rules) {
      if (!rule.matches(module)) continue;
      if (rule.leaves) return {};
      Json settings = config;
      settings.update(rule.changes);
      return settings;
    }
    return module == "lm_head" && !config.value("lm_head", false) ? Json() : config;
  };
  bool symmetric = true;
  for (const auto& [name, matrix] : check.planned) {
    symmetric = symmetric && matrix.scheme.symmetric;
    const Json settings = settings_of(name);
    if (settings.is_null()) {
      problems.add("it is quantized, but a rule leaves it out", name);
      continue;
    }
    const Json expected{{"bits", matrix.scheme.bits},
                        {"group_size", matrix.scheme.group_size},
                        {"sym", matrix.scheme.symmetric},
                        {"desc_act", false}};
    if (const std::string text = difference(settings, expected); !text.empty())
      problems.add(text, name);
  }
  for (const std::string& name : check.left)
    if (!settings_of(name).is_null())
      problems.add("no rule leaves it out, but it is not quantized", name);
  const std::string version = symmetric ? "gptq" : "gptq_v2";
  for (const char* key : {"checkpoint_format", "format"})
    if (config.value(key, Json()) != version)
      others.push_back({str("quantization_config.", key), str("it is not ", version)});
}

/// No name, expression or end of a name leaves out experts, as transformers reads them.
void check_gpt_oss(const ConfigToCheck& check, const Json& config, Problems& problems,
                   std::vector<TextProblem>& others) {
  for (const Json& kept : config.value("modules_to_not_convert", Json::array())) {
    const std::string text = kept.is_string() ? kept.get<std::string>() : kept.dump();
    const MatchFromBegin matches(str("(", text, ")(\\.|$)"));
    if (!matches.valid()) others.push_back({text, "it is no expression"});
    for (const auto& [name, matrix] : check.planned) {
      const std::size_t end = name.rfind(".experts.");
      const std::string experts = name.substr(0, end == std::string::npos ? end : end + 8);
      if (matches(experts) || experts.ends_with(text))
        problems.add(str("it is quantized, but ", text, " leaves it out"), name);
    }
  }
}

/// Whether the rest is the source's.
void check_rest(const ConfigToCheck& check, Json config, Json source,
                std::vector<TextProblem>& problems) {
  const Json::json_pointer text_model(
      check.text_key.empty() ? "" : str("/", replace_all(check.text_key, ".", "/")));
  for (Json* whole : {&config, &source})
    for (const Json::json_pointer& part : {Json::json_pointer(), text_model})
      if (whole->contains(part) && whole->at(part).is_object())
        whole->at(part).erase("quantization_config");
  if (check.own_head)
    for (const Json::json_pointer& part : {Json::json_pointer(), text_model})
      source.at(part)["tie_word_embeddings"] = false;
  for (const Json& change : Json::diff(source, config)) {
    const std::string path = change.at("path").get<std::string>();
    problems.push_back({path.empty() ? path : path.substr(1), "it is not as in the source"});
  }
}

}  // namespace

std::vector<TextProblem> config_problems(const ConfigToCheck& check) {
  std::vector<TextProblem> result;
  Json config, source;
  try {
    config =
        parse_json(check.text, {ErrorKind::input, "verify", "config.json"}, JsonDialect::python);
    source = parse_json(check.source, {ErrorKind::input, "verify", "config.json of the source"},
                        JsonDialect::python);
    const Json quantization = config.value("quantization_config", Json());
    const bool quantized = check.format != "bf16" && !check.planned.empty();
    if (quantization.is_null() == quantized) {
      result.push_back(
          {"quantization_config", quantized ? "it is not there" : "nothing is quantized"});
    } else if (quantized) {
      Problems problems;
      const std::string method = check.format == "gpt-oss" ? "mxfp4" : check.format;
      if (quantization.value("quant_method", Json()) != method)
        result.push_back({"quantization_config.quant_method", str("it is not ", method)});
      else if (check.format == "gptq")
        check_gptq(check, quantization, problems, result);
      else if (check.format == "gpt-oss")
        check_gpt_oss(check, quantization, problems, result);
      else
        check_compressed(check, quantization, problems, result);
      problems.into(result);
    }
    check_rest(check, std::move(config), std::move(source), result);
  } catch (const Error& error) {
    result.push_back({"", error.what()});
  } catch (const Json::exception& error) {
    result.push_back({"", error.what()});
  }
  return result;
}

}  // namespace aq
