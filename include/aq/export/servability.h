#pragma once
/// Whether a server will load what a recipe makes of a model; decided before any work, from the
/// assignments alone. The rules are those of docs/serving.md.

#include <string>
#include <string_view>
#include <vector>

#include "aq/model/model.h"
#include "aq/recipe/assignments.h"

namespace aq {

/// How a server will be started.
struct ServingPlan {
  Index tensor_parallel = 1;     ///< --tp: parts of each matrix
  bool expert_parallel = false;  ///< --ep: experts stay whole
};

/// A rule that the assignments break.
struct Objection {
  std::string_view rule;  ///< "one scheme for the routed experts of a layer"
  std::string_view source;
  bool warning = false;               ///< it is served, but slower or not everywhere
  std::vector<std::string> matrices;  ///< that break it
};

struct Verdict {
  std::string_view target;
  std::string_view format;  ///< of the export that the target reads
  std::vector<Objection> objections;

  /// Without any objection but warnings.
  bool served() const;
};

/// "vllm", "vllm-gptq", "transformers", "sglang".
std::vector<std::string_view> serving_targets();
/// Throws Error{usage} for an unknown target.
Verdict judge(std::string_view target, const Model& model, const Assignments& assignments,
              const ServingPlan& plan = {});
/// "yes", "yes; note: ...", or "no: <rule>: <first matrices> (<source>)", one objection a line.
std::string verdict_text(const Verdict& verdict);
/// All targets in a line: "vllm yes, vllm-gptq no, ..."; empty when nothing is quantized.
std::string servers_line(const Model& model, const Assignments& assignments,
                         const ServingPlan& plan = {});
/// Throws Error{usage, operation} with the text unless the target serves it.
void require_servable(std::string_view target, const Model& model, const Assignments& assignments,
                      const ServingPlan& plan = {});

}  // namespace aq
