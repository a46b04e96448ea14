#include "aq/run/prepare.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <sstream>

#include "aq/comm/common_error.h"
#include "aq/core/hash.h"
#include "aq/core/host.h"
#include "aq/core/log.h"
#include "aq/core/parallel.h"
#include "aq/core/text.h"
#include "aq/export/servability.h"
#include "aq/model/architecture_json.h"
#include "aq/run/node_memory.h"
#include "aq/run/sources.h"
#include "aq/runtime/pieces.h"
#include "run/disk_space.h"

namespace aq {
namespace {

/// The calibration tokens, or what is known of those that kept Hessians came from.
struct CalibrationTokens {
  std::optional<TokenFile> file;
  Workload workload;
  std::string fingerprint;
  std::string compute;  ///< of the forward pass over them
};

CalibrationTokens find_calibration(const QuantizeOptions& options, const Model& model,
                                   const std::optional<KeptHessians>& kept) {
  CalibrationTokens result;
  result.compute =
      options.compute == Compute::bf16 ? str("bf16 by ", runtime::bf16_instructions()) : "fp32";
  if (kept && options.compute == Compute::automatic) result.compute = kept->field("compute");
  Workload& work = result.workload;
  if (!options.calibration.empty()) {
    result.file = TokenFile::open(options.calibration);
    work = make_workload(model, result.file->sequences, result.file->length,
                         {options.samples, options.sequence_length, options.lanes},
                         result.file->path.string());
    result.fingerprint = result.file->fingerprint(work.lanes.sequences, work.sequence_length);
    return result;
  }
  const auto chosen = [&](Index option, const char* field) {
    return option > 0 ? option : kept->number(field);
  };
  work.lanes = {chosen(options.samples, "sequences"), chosen(options.lanes, "lanes")};
  work.sequence_length = chosen(options.sequence_length, "sequence_length");
  result.fingerprint = kept->field("tokens");
  return result;
}

void check_options(const QuantizeOptions& options) {
  const auto refuse = [](std::string_view option, std::string_view reason) {
    throw Error(ErrorKind::usage, "quantize", option, reason);
  };
  if (options.hessians.empty()) {
    if (options.calibration.empty()) refuse("--calib", "it is required unless --hessians is given");
    return;
  }
  if (options.keep_hessians) refuse("--keep-hessians", "with --hessians none are summed");
  if (!options.offload.empty()) refuse("--offload", "with --hessians there are no activations");
  const auto place = [](const std::filesystem::path& path) {
    return std::filesystem::weakly_canonical(path / "");
  };
  if (place(options.save) == place(options.hessians))
    refuse("--save", "it must be another directory than --hessians");
}

/// Hash over what the recipe means for this model, whatever it looks like.
std::string recipe_fingerprint(const Assignments& assignments, const Model& model) {
  std::uint64_t hash = fnv1a(settings_to_json(assignments.settings));
  for (const LinearSpec* linear : all_linears(model)) {
    hash = fnv1a(linear->name, hash);
    hash = fnv1a(to_string(assignments.of(*linear)), hash);
  }
  return hash_text(hash);
}

/// The resolved command line, for people.
std::vector<std::pair<std::string, std::string>> configuration(const QuantizeOptions& options,
                                                               const Prepared& prepared,
                                                               int ranks) {
  std::string unused;
  for (const std::string& key : options.assume_unused) unused += (unused.empty() ? "" : ", ") + key;
  return {{"model", options.model.string()},
          {"architecture", options.architecture.string()},
          {"assume_unused", unused},
          {"recipe_file", options.recipe.file},
          {"recipe",
           prepared.fitted.snapped.empty()
               ? options.recipe.text
               : flat_plan(options.recipe, prepared.fitted.assignments, prepared.files.model)},
          {"snap", options.serving.snap_to},
          {"calibration", options.calibration.string()},
          {"hessians", options.hessians.string()},
          {"offload", options.offload.string()},
          {"ranks", str(ranks)},
          {"threads", str(thread_count())},
          {"memory_limit", str(prepared.memory_limit)},
          {"planned_bytes", str(prepared.plan.memory.total())}};
}

/// The manifest of a run that begins, all but its configuration.
Manifest fresh_manifest(const QuantizeOptions& options, const ModelFiles& files,
                        const Assignments& assignments, const CalibrationTokens& tokens) {
  const Workload& workload = tokens.workload;
  Manifest manifest;
  manifest.layers = static_cast<Index>(files.model.layers.size());
  manifest.files = files.checkpoint.file_states();
  manifest.fingerprint = {
      {"model", files.checkpoint.fingerprint()},
      {"architecture", str(files.row.name, " ", hash_text(fnv1a(architecture_to_json(files.row))))},
      {"tokens", tokens.fingerprint},
      {"sequences", str(workload.lanes.sequences)},
      {"sequence_length", str(workload.sequence_length)},
      {"lanes", str(workload.lanes.lanes)},
      {"settings", settings_to_json(options.recipe.settings)},
      {"recipe", recipe_fingerprint(assignments, files.model)},
      {"numerics", numerics()},
      {"compute", tokens.compute},
      {"solver", options.solver->name()}};
  for (auto& field : calibration_fields(options.recipe.settings))
    manifest.fingerprint.push_back(std::move(field));
  return manifest;
}

/// Whether the kept sums are those that this run would compute itself.
void check_kept(const KeptHessians& kept, const Prepared& prepared, Communicator& comm) {
  kept.check_fields(prepared.manifest);
  if (!comm.is_first()) return;
  kept.check_complete(prepared.plan);
  for (const char* name : {"numerics", "solver"})
    if (const std::string then = kept.field(name),
        now = field_of(prepared.manifest.fingerprint, name);
        then != now)
      log_warning(str("the Hessians were summed with ", then, ", this is ", now,
                      ": a run without --hessians would give other bytes"));
}

/// Before any weight is read: what may be a mistake is a warning or,
/// with --strict, an error.
void check_patterns(const QuantizeOptions& options, const Assignments& assignments,
                    const Model& model, bool warns) {
  for (const std::string& remark : unmatched_patterns(options.recipe, model)) {
    if (options.strict)
      throw Error(ErrorKind::usage, "apply the recipe", options.recipe.file, remark,
                  "--strict; names are listed by `aq-dist inspect DIR --recipe FILE --recipe-out`");
    if (warns) log_warning(str(options.recipe.file, ": ", remark));
  }
  for (const std::string& remark : group_remarks(assignments, model))
    if (options.strict)
      throw Error(ErrorKind::usage, "apply the recipe", options.recipe.file, remark, "--strict");
}

/// The plan of all ranks, and the memory that it may take.
struct RunPlan : ChosenPlan {
  Index memory = 0;
};

/// Without a workload (kept Hessians) nothing is planned for tokens. Collective.
RunPlan choose(const QuantizeOptions& options, const ModelFiles& files,
               const Assignments& assignments, const Workload* workload, Communicator& comm) {
  const int node_ranks = ranks_of_node(comm);
  if (options.memory > 0) warn_of_too_much_memory(options.memory, comm, node_ranks);
  const Index memory = options.memory > 0 ? options.memory : default_memory(comm, node_ranks);
  std::array<std::int64_t, 1> threads{thread_count()};
  comm.all_reduce_max(threads);
  const PlanLimits limits{.memory = memory,
                          .threads = static_cast<int>(threads[0]),
                          .node_ranks = node_ranks,
                          .bf16 = options.compute == Compute::bf16,
                          .offload = !options.offload.empty()};
  const CostOptions cost{.machine = options.machine.value_or(Machine{}),
                         .ranks_per_node = node_ranks,
                         .threads = limits.threads,
                         .keep_hessians = options.keep_hessians,
                         .bf16 = limits.bf16,
                         .weight_bytes = [&files](const LinearSpec& linear) {
                           return stored_weight_bytes(files, linear);
                         }};
  const auto plan_way = [&](TokensToExperts way, const Workload& work) {
    return choose_plan(way, files.model, assignments, comm.size(), work, limits, cost);
  };
  const Workload no_tokens{.lanes = {.sequences = 1, .lanes = 1}, .sequence_length = 0};
  if (workload == nullptr) return {plan_way(TokensToExperts::reduce, no_tokens), memory};
  ChosenPlan chosen = plan_way(options.tokens_to_experts, *workload);
  // Estimates may differ in their last bits: the first rank decides.
  std::array<std::byte, 1> way{static_cast<std::byte>(chosen.plan.dispatch)};
  comm.broadcast(way, 0);
  const bool dispatch = way[0] != std::byte{};
  if (dispatch != chosen.plan.dispatch)
    chosen = plan_way(dispatch ? TokensToExperts::dispatch : TokensToExperts::reduce, *workload);
  return {std::move(chosen), memory};
}

}  // namespace

std::string numerics() {
  const BlasInfo blas = blas_info();
  return str(blas.library, " ", blas.kernel, ", row kernel ", blas.row_kernel, ", LibTorch ",
             runtime::torch_version());
}

void warn_of_assumptions(const ModelFiles& files) {
  for (const std::string& assumption : files.assumptions)
    log_warning(str(files.checkpoint.config_path().string(),
                    " names an architecture that is not known; assumed: ", assumption));
  for (const std::string& assumption : assumption_texts(files.assumed_unused))
    log_warning(str(files.checkpoint.config_path().string(), ": assumed: ", assumption));
  for (const std::string& remark : model_remarks(files))
    log_warning(str(files.checkpoint.directory().string(), ": ", remark));
  if (!files.unexplained_tensors.empty())
    log_warning(str(files.checkpoint.directory().string(), ": ", files.unexplained_tensors.size(),
                    " tensors of its layers are not used, first ",
                    files.unexplained_tensors.front()));
}

void compare_told(RankFields told, Communicator& comm) {
  if (const std::string warning = blas_info().warning; comm.is_first() && !warning.empty())
    log_warning(warning);
  told.emplace_back("numerics", numerics());
  compare_ranks(std::move(told), comm);
}

RankFields told(const QuantizeOptions& options) {
  const auto given = [](const std::filesystem::path& path) { return path.empty() ? "no" : "yes"; };
  return {{"command", "quantize"},
          {"settings", settings_to_json(options.recipe.settings)},
          {"--architecture given", given(options.architecture)},
          {"--calib given", given(options.calibration)},
          {"--hessians given", given(options.hessians)},
          {"--offload given", given(options.offload)},
          {"--nsamples", str(options.samples)},
          {"--seqlen", str(options.sequence_length)},
          {"--lanes", str(options.lanes)},
          {"--memory", str(options.memory)},
          {"--compute", str(static_cast<int>(options.compute))},
          {"--device", str(static_cast<int>(options.device))},
          {"--tokens-to-experts", str(static_cast<int>(options.tokens_to_experts))},
          {"--machine", options.machine ? machine_to_json(*options.machine) : ""},
          {"--resume", str(static_cast<int>(options.resume))},
          {"--save-activations", str(options.save_activations)},
          {"--keep-hessians", options.keep_hessians ? "yes" : "no"},
          {"--export", options.export_to
                           ? str(options.export_to->out.string(), ":", options.export_to->format)
                           : ""},
          {"--snap", options.serving.snap_to},
          {"--require-servable", options.serving.required_by},
          {"--tp", str(options.serving.plan.tensor_parallel)},
          {"--ep", options.serving.plan.expert_parallel ? "yes" : "no"},
          {"--strict", options.strict ? "yes" : "no"},
          {"--max-fallbacks", str(options.max_fallbacks)}};
}

void compare_checkpoints(const ModelFiles& files, Communicator& comm) {
  compare_files("checkpoint file", files.checkpoint.files(), comm);
}

namespace {

/// What all ranks can do. Collective.
Compute resolved_compute(Compute asked, Communicator& comm) {
  std::array<std::int64_t, 1> lacking{runtime::bf16_instructions().empty() ? 1 : 0};
  comm.all_reduce_max(lacking);
  if (lacking[0] == 0) return asked == Compute::automatic ? Compute::bf16 : asked;
  if (asked == Compute::bf16)
    throw CommonError(ErrorKind::usage, "quantize", "--compute bf16",
                      "a rank's processor has no instructions for it (avx512_bf16, amx_bf16)",
                      "use fp32, or auto");
  return Compute::fp32;
}

/// Collective.
const Solver& solver_of_rank(SolverDevice device, Communicator& comm) {
  if (device != SolverDevice::cuda) return find_solver(device);
  const VisibleGpus gpus = visible_gpus();
  const std::string host = host_name();
  std::string line;  // ids have no spaces
  for (const std::string& id : gpus.ids) line += id + " ";
  const std::vector<std::string> hosts = all_gather_values(comm, host);
  const std::vector<std::string> lines = all_gather_values(comm, line);
  std::vector<std::vector<std::string>> seen;
  std::size_t place = 0;
  for (int rank = 0; rank < comm.size(); ++rank) {
    if (hosts[rank] != host) continue;
    if (rank == comm.rank()) place = seen.size();
    std::istringstream words(lines[rank]);
    seen.emplace_back(std::istream_iterator<std::string>(words),
                      std::istream_iterator<std::string>());
  }
  const int dealt = deal_gpus(seen)[place];
  const std::string problem =
      dealt >= 0 ? ""
      : gpus.ids.empty()
          ? gpus.reason
          : str(seen.size(), " ranks on a machine where they see ", gpus.ids.size(), " GPUs");
  for (const std::string& of_rank : all_gather_values(comm, problem))
    if (!of_rank.empty())
      throw CommonError(ErrorKind::usage, "quantize", "--device cuda", of_rank,
                        "use --device cpu, or a program with CUDA and one rank for each GPU "
                        "(docs/gpu.md)");
  return find_solver(device, dealt);
}

}  // namespace

QuantizeOptions resolve(QuantizeOptions options, Communicator& comm) {
  if (options.hessians.empty())
    options.compute = resolved_compute(options.compute, comm);
  else
    options.recipe.settings.sequential = Sequential::none;
  options.solver = &solver_of_rank(options.device, comm);
  return options;
}

void refuse_packed(const ModelFiles& files, std::string_view operation) {
  const auto& packed = files.model.packed;
  if (!packed.empty())
    throw CommonError(
        ErrorKind::input, operation, files.checkpoint.directory().string(),
        str(packed.size(), " of its linears are quantized already, first ", packed.begin()->first),
        "use the original checkpoint; `eval` reads this one");
}

Prepared prepare(const QuantizeOptions& options, Communicator& comm) {
  check_options(options);
  ModelFiles files = open_model(options.model, options.architecture, options.assume_unused);
  const Model& model = files.model;
  refuse_packed(files, "quantize");
  if (comm.is_first()) warn_of_assumptions(files);
  Fitted fitted = fit_for_servers(options.serving, model, assign(options.recipe, model));
  const Assignments& assignments = fitted.assignments;
  std::optional<KeptHessians> kept;
  if (!options.hessians.empty()) kept.emplace(options.hessians);
  const CalibrationTokens tokens = find_calibration(options, model, kept);
  const Workload& workload = tokens.workload;
  Manifest manifest = fresh_manifest(options, files, assignments, tokens);
  RankFields read = manifest.fingerprint;
  if (kept) read.emplace_back("--hessians", kept->identity());
  compare_ranks(std::move(read), comm);
  compare_checkpoints(files, comm);
  if (options.export_to) check_export(*options.export_to, model, assignments);
  check_patterns(options, assignments, model, comm.is_first());
  RunPlan chosen = choose(options, files, assignments, kept ? nullptr : &workload, comm);
  check_disk(options, chosen.plan, comm);
  Batch batch;
  if (!kept)
    batch = make_batch(workload.lanes, comm.rank(), comm.size(), [&](Index first, Index count) {
      return tokens.file->read(first, count, workload.sequence_length, model.vocabulary);
    });
  Prepared prepared{std::move(files),
                    std::move(fitted),
                    workload,
                    std::move(batch),
                    chosen.memory,
                    std::move(chosen.plan),
                    std::move(chosen.cost),
                    std::move(chosen.reason),
                    std::move(manifest),
                    {},
                    {}};
  prepared.manifest.configuration = configuration(options, prepared, comm.size());
  if (kept) {
    check_kept(*kept, prepared, comm);
    prepared.sources = read_sources(prepared.files, 0, prepared.manifest.layers + 1, comm);
    kept->check_sources(prepared.sources);
  }
  prepared.kept = std::move(kept);
  return prepared;
}

}  // namespace aq
