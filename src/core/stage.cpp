#include "aq/core/stage.h"

namespace aq {

std::string_view stage_name(Stage stage) {
  switch (stage) {
    case Stage::embed:
      return "embed";
    case Stage::qkv:
      return "qkv";
    case Stage::latent:
      return "latent";
    case Stage::core:
      return "core";
    case Stage::o:
      return "o";
    case Stage::router:
      return "router";
    case Stage::gate_up:
      return "gate_up";
    case Stage::down:
      return "down";
    case Stage::layer:
      return "layer";
    case Stage::head:
      return "head";
  }
  return "";
}

std::string_view phase_name(Phase phase) {
  switch (phase) {
    case Phase::embed:
      return "embed";
    case Phase::hessian:
      return "hessian";
    case Phase::reduce:
      return "reduce";
    case Phase::factor:
      return "factor";
    case Phase::read:
      return "read";
    case Phase::solve:
      return "solve";
    case Phase::exchange:
      return "exchange";
    case Phase::dispatch:
      return "dispatch";
    case Phase::forward:
      return "forward";
    case Phase::write:
      return "write";
    case Phase::merge:
      return "merge";
    case Phase::resume:
      return "resume";
  }
  return "";
}

std::map<std::string, double> by_name(const std::map<Phase, double>& values) {
  std::map<std::string, double> named;
  for (const auto& [phase, value] : values) named.emplace(phase_name(phase), value);
  return named;
}

}  // namespace aq
