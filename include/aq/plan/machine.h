#pragma once
/// What a plan needs to know of a machine to turn work into seconds.

#include <string>
#include <string_view>

#include "aq/core/index.h"

namespace aq {

/// A node of a cluster; all nodes are alike. `aq-dist doctor --measure FILE` writes one.
struct Machine {
  std::string name = "64 cores, 25 GB/s network";
  Index cores = 64;
  Index memory_bytes = Index{256} << 30;
  // Floating point operations a second of one core, in the kernels of this program.
  double forward_flops = 60e9;
  double forward_bf16_flops = 0;  ///< products of bfloat16; 0: it has no instructions for them
  double hessian_flops = 60e9;
  double factor_flops = 40e9;
  double solve_flops = 30e9;
  double refine_flops = 30e9;
  double memory_bandwidth = 200e9;      ///< bytes a second of a node
  double network_bandwidth = 25e9;      ///< bytes a second into (and out of) a node
  double network_latency = 2e-6;        ///< seconds of a message
  double read_bandwidth = 2e9;          ///< bytes a second of files into a node
  double write_bandwidth = 1e9;         ///< bytes a second of a node into files
  double file_system_bandwidth = 50e9;  ///< bytes a second of all nodes together, either way
  Index gpus = 0;                       ///< of a node; recorded, not used by what runs on the CPU
  bool operator==(const Machine&) const = default;
};

/// An object with the fields above by name; what is left out stays as it is here. Throws
/// Error{usage} naming `file` and the field for unknown fields, wrong types and values below what
/// makes sense.
Machine machine_from_json(std::string_view text, const std::string& file);
std::string machine_to_json(const Machine& machine);

}  // namespace aq
