#pragma once
/// Whether a server will load what a recipe makes of a model, and the nearest recipe that it loads;
/// decided before any work, from the assignments alone. The rules are those of docs/serving.md.

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

/// What a run is told of the servers that its result is for.
struct ServingOptions {
  ServingPlan plan;
  std::string snap_to;      ///< --snap: a target; empty: the recipe stays as it is
  std::string required_by;  ///< --require-servable: a target; empty: none
};

enum class Gravity {
  refused,  ///< it does not load, or gives nonsense
  note,     ///< it is served, but slower or not everywhere
  hint,     ///< so for a setting of the server that nobody needs
};

std::string_view gravity_name(Gravity gravity);  ///< "refused", "note", "hint"

/// A rule that the assignments break.
struct Objection {
  std::string_view rule;  ///< "one scheme for the routed experts of a layer"
  std::string_view source;
  Gravity gravity = Gravity::refused;
  std::vector<std::string> matrices;  ///< that break it
};

struct Verdict {
  std::string_view target;
  std::string_view format;  ///< of the export that the target reads of this model
  std::vector<Objection> objections;

  bool has(Gravity gravity) const;
  bool served() const { return !has(Gravity::refused); }
};

/// "vllm", "vllm-gptq", "transformers", "sglang".
std::vector<std::string_view> serving_targets();
/// Sets of linears that the target wants in one scheme: those that it fuses, the experts of a layer
/// or of the model. A linear is in one set at most. Throws Error{usage} for an unknown target.
std::vector<std::vector<const LinearSpec*>> alike_linears(std::string_view target,
                                                          const Model& model);
/// Throws Error{usage} for an unknown target.
Verdict judge(std::string_view target, const Model& model, const Assignments& assignments,
              const ServingPlan& plan = {});
/// "yes" (with the format where it is another one than of most models) or "no", then each objection
/// in a line with the first matrices and its source.
std::string verdict_text(const Verdict& verdict);
/// All targets in a line: "vllm yes, vllm-gptq no, ..."; empty when nothing is quantized.
std::string servers_line(const Model& model, const Assignments& assignments,
                         const ServingPlan& plan = {});

/// What snapping changes of linears that differ only in layer and expert.
struct SnapChange {
  std::string modules;  ///< "model.layers.*.mlp.experts.*.down_proj"
  std::string before, after;
  Index matrices = 0;
};

struct Snapped {
  Assignments assignments;
  std::vector<SnapChange> changes;
  /// Stored bits a weight of the matrices that were to be quantized; 16 where one stays untouched.
  double bits_before = 0, bits_after = 0;
  bool served = false;  ///< false where no recipe helps: the model cannot be cut so
};

/// The nearest assignments that the target serves. Linears that it wants alike all take the widest
/// scheme among them, untouched being the widest; a scheme that it does not take climbs to the next
/// one in bits: narrower groups, symmetric integers of as many, 4 or 8 bits, at last untouched. So
/// no code gets fewer bits than it had. Throws Error{usage} for an unknown target.
Snapped snap(std::string_view target, const Model& model, const Assignments& assignments,
             const ServingPlan& plan = {});
/// "4.531 bits a weight, not 3.563", then each change in a line.
std::string snap_text(const Snapped& snapped);

struct Fitted {
  Assignments assignments;
  std::string snapped;  ///< what was changed, for people; empty: nothing
};
/// The assignments of a run: snapped where that is asked for. Throws Error{usage, operation} with
/// the verdict when a target that is named does not serve them.
Fitted fit_for_servers(const ServingOptions& options, const Model& model, Assignments assignments);

}  // namespace aq
