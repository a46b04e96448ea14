// What a run is about to do, for people.

#include "aq/core/memory.h"
#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/run/prepare.h"

namespace aq {

std::string start_table(const QuantizeOptions& options, const Prepared& prepared,
                        Communicator& comm) {
  const Model& model = prepared.files.model;
  const Plan& plan = prepared.plan;
  const Workload& work = prepared.workload;
  std::string text;
  const auto line = [&](std::string_view name, const std::string& value) {
    text += str("  ", name, std::string(14 - name.size(), ' '), value, "\n");
  };
  line("model",
       str(options.model.string(), " (", model.architecture, ", ", model.layers.size(), " layers, ",
           fixed(static_cast<double>(parameter_count(model)) / 1e6, 1), " M parameters)"));
  for (const std::string& assumption : assumption_texts(prepared.files.assumed_unused))
    line("assumed", assumption);
  for (const std::string& unused : unused_tensor_texts(prepared.files)) line("not used", unused);
  const std::string settings = changed_settings(options.recipe.settings);
  line("recipe", options.recipe.file + (settings.empty() ? "" : "; " + settings));
  line("matrices", str(plan.quantized_count, " to quantize at ", fixed(plan.mean_bits, 3),
                       " bits a weight, ", plan.matrix_count - plan.quantized_count, " untouched"));
  if (const std::string& snapped = prepared.fitted.snapped; !snapped.empty())
    line("snapped", replace_all(snapped, "\n", "\n" + std::string(16, ' ')));
  for (const std::string& remark : group_remarks(prepared.fitted.assignments, model))
    line("groups", remark);
  if (const std::string servers =
          servers_line(model, prepared.fitted.assignments, options.serving.plan);
      !servers.empty())
    line("servers", servers);
  const std::string& source = (prepared.kept ? options.hessians : options.calibration).string();
  line("calibration",
       str(prepared.kept ? "Hessians reused from " : "", source, ", ", work.lanes.sequences, " x ",
           work.sequence_length, " tokens in ", work.lanes.lanes, " lanes"));
  if (options.keep_hessians)
    line("hessians", bytes_text(static_cast<Index>(prepared.cost.hessian_bytes)) + " will be kept");
  line("ranks",
       str(comm.size(), " x ", thread_count(), " threads, balance ", fixed(plan.balance, 2)));
  if (comm.size() > 1 && !model.moe_layers().empty())
    line("experts", str(plan.dispatch ? "tokens travel to them" : "sums travel to them", "; ",
                        prepared.way_reason));
  std::size_t waves = 0;
  for (const LayerPlan& layer : plan.layers) waves = std::max(waves, layer.waves.size());
  line("memory",
       str(bytes_text(plan.memory.total()), " a rank planned of ",
           bytes_text(prepared.memory_limit), ", beside the ", bytes_text(resident_bytes()),
           " that it has now; experts in ", waves, waves == 1 ? " wave" : " waves"));
  if (!options.offload.empty())
    line("offloaded", str(bytes_text(plan.offloaded_bytes), " of activations a rank in ",
                          options.offload.string()));
  line("numerics", str(numerics(), ", products of the forward pass in ",
                       field_of(prepared.manifest.fingerprint, "compute")));
  if (const std::string solver = field_of(prepared.manifest.fingerprint, "solver"); solver != "CPU")
    line("solver", solver);
  line("save", options.save.string());
  return text;
}

}  // namespace aq
