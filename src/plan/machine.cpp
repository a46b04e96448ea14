#include "aq/plan/machine.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <vector>

#include "aq/core/error.h"
#include "aq/core/text.h"

namespace aq {
namespace {

using Json = nlohmann::ordered_json;

struct RateField {
  const char* name;
  double Machine::*value;
};
constexpr std::array kRates{RateField{"forward_flops", &Machine::forward_flops},
                            RateField{"hessian_flops", &Machine::hessian_flops},
                            RateField{"factor_flops", &Machine::factor_flops},
                            RateField{"solve_flops", &Machine::solve_flops},
                            RateField{"refine_flops", &Machine::refine_flops},
                            RateField{"memory_bandwidth", &Machine::memory_bandwidth},
                            RateField{"network_bandwidth", &Machine::network_bandwidth},
                            RateField{"network_latency", &Machine::network_latency},
                            RateField{"read_bandwidth", &Machine::read_bandwidth},
                            RateField{"write_bandwidth", &Machine::write_bandwidth},
                            RateField{"file_system_bandwidth", &Machine::file_system_bandwidth}};

struct CountField {
  const char* name;
  Index Machine::*value;
  Index least;
};
constexpr std::array kCounts{CountField{"cores", &Machine::cores, 1},
                             CountField{"memory_bytes", &Machine::memory_bytes, 1},
                             CountField{"gpus", &Machine::gpus, 0}};

[[noreturn]] void fail(const std::string& file, const std::string& reason) {
  throw Error(ErrorKind::usage, "read the description of a machine", file, reason,
              "`aq-dist doctor --measure FILE` writes one");
}

std::string unknown_field(const std::string& name) {
  std::vector<std::string_view> words{"name"};
  for (const RateField& field : kRates) words.emplace_back(field.name);
  for (const CountField& field : kCounts) words.emplace_back(field.name);
  return str("unknown field '", name, "'", did_you_mean(name, words));
}

void set_field(Machine& machine, const std::string& name, const Json& value,
               const std::string& file) {
  const auto same = [&](const auto& field) { return name == field.name; };
  if (const auto rate = std::find_if(kRates.begin(), kRates.end(), same); rate != kRates.end()) {
    if (!value.is_number() || !(value.get<double>() > 0))
      fail(file, str(name, " must be a number above 0"));
    machine.*rate->value = value.get<double>();
    return;
  }
  const auto count = std::find_if(kCounts.begin(), kCounts.end(), same);
  if (count == kCounts.end()) fail(file, unknown_field(name));
  if (!value.is_number_integer() || value.get<Index>() < count->least)
    fail(file, str(name, " must be a whole number of at least ", count->least));
  machine.*count->value = value.get<Index>();
}

}  // namespace

Machine machine_from_json(std::string_view text, const std::string& file) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) fail(file, "it is no JSON object");
  Machine machine;
  machine.name = file;
  for (const auto& [name, value] : json.items()) {
    if (name != "name") {
      set_field(machine, name, value, file);
    } else {
      if (!value.is_string()) fail(file, "name must be a text");
      machine.name = value.get<std::string>();
    }
  }
  return machine;
}

std::string machine_to_json(const Machine& machine) {
  Json json{{"name", machine.name}};
  for (const CountField& field : kCounts) json[field.name] = machine.*field.value;
  for (const RateField& field : kRates) json[field.name] = machine.*field.value;
  return json.dump(1) + "\n";
}

}  // namespace aq
