#include "aq/plan/machine.h"

#include <array>
#include <vector>

#include "aq/core/json.h"

namespace aq {
namespace {

struct RateField {
  const char* name;
  double Machine::*value;
};
constexpr std::array kRates{RateField{"forward_flops", &Machine::forward_flops},
                            RateField{"forward_bf16_flops", &Machine::forward_bf16_flops},
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

}  // namespace

Machine machine_from_json(std::string_view text, const std::string& file) {
  const JsonPlace place{ErrorKind::usage, "read the description of a machine", file,
                        "`aq-dist doctor --measure FILE` writes one"};
  const Json json = parse_json(text, place);
  const JsonValue top{json, place};
  std::vector<std::string_view> known{"name"};
  for (const CountField& field : kCounts) known.emplace_back(field.name);
  for (const RateField& field : kRates) known.emplace_back(field.name);
  top.check_keys(known);
  Machine machine;
  machine.name = file;
  if (const auto name = top.find("name")) machine.name = name->text();
  for (const CountField& field : kCounts)
    if (const auto value = top.find(field.name))
      machine.*field.value = value->whole(field.least, Index{1} << 60);
  for (const RateField& field : kRates)
    if (const auto value = top.find(field.name)) machine.*field.value = value->positive();
  return machine;
}

std::string machine_to_json(const Machine& machine) {
  OrderedJson json{{"name", machine.name}};
  for (const CountField& field : kCounts) json[field.name] = machine.*field.value;
  for (const RateField& field : kRates)
    if (machine.*field.value > 0) json[field.name] = machine.*field.value;
  return json.dump(1) + "\n";
}

}  // namespace aq
