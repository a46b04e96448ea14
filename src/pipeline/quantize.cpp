#include "aq/pipeline/quantize.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <fstream>
#include <new>

#include "aq/comm/counting.h"
#include "aq/comm/watchdog.h"
#include "aq/core/host.h"
#include "aq/core/log.h"
#include "aq/core/memory.h"
#include "aq/core/stop.h"
#include "aq/core/text.h"
#include "aq/forward/dispatch.h"
#include "aq/forward/finite.h"
#include "aq/io/file.h"
#include "aq/io/read_error.h"
#include "aq/report/progress.h"
#include "aq/run/phase_records.h"
#include "aq/run/prepare.h"
#include "aq/run/run_state.h"
#include "aq/runtime/pieces.h"
#include "pipeline/experts.h"
#include "pipeline/layer.h"

namespace aq {
namespace {

/// status.json, metrics.jsonl and the lines on the terminal: the first rank's job.
class Reporter {
 public:
  Reporter(const RunDirectory& directory, Index layers, Communicator& comm)
      : directory_(directory), layers_(layers), comm_(comm), progress_(layers, !comm.is_first()) {}

  void at(Index layer, const std::string& what) {
    const std::string place = str("layer ", layer + 1, "/", layers_, what);
    set_work_place(place);
    progress_.at(layer, place);
  }
  void layer_done(const LayerMetrics& metrics, const std::vector<LogRow>& rows) {
    if (!comm_.is_first()) return;
    progress_.line(layer_text(metrics, rows));
    if (metrics.resumed) {
      progress_.skip(metrics.layer + 1);
    } else {
      std::ofstream stream(directory_.metrics(), std::ios::app);
      stream << metrics_line(metrics, rows);
    }
    status("running", "", metrics.layer + 1);
  }
  void status(const std::string& state, const std::string& message, Index layer) {
    if (!comm_.is_first()) return;
    write_status(directory_, {.state = state,
                              .message = message,
                              .layer = layer,
                              .layers = layers_,
                              .elapsed_seconds = progress_.elapsed(),
                              .remaining_seconds = progress_.remaining(layer),
                              .ranks = comm_.size(),
                              .host = host_name(),
                              .process = getpid(),
                              .updated = now()});
  }
  /// What `aq-dist status` will say of a run that this error ends.
  void last_word(const std::exception& reason, Index layer) {
    progress_.finish();
    const auto* error = dynamic_cast<const Error*>(&reason);
    const bool stopped = error != nullptr && error->kind() == ErrorKind::stopped;
    const bool no_memory = dynamic_cast<const std::bad_alloc*>(&reason) != nullptr;
    const std::string text = no_memory ? "out of memory" : reason.what();
    const bool internal = error == nullptr || error->kind() == ErrorKind::internal;
    if (!comm_.is_first() && stopped) return;
    try {
      if (comm_.is_first()) return status(stopped ? "stopped" : "failed", text, layer);
    } catch (const std::exception& other) {  // a full disk
      log_warning(other.what());
    }
    std::string state = stopped ? "stopped" : "failed";
    if (internal && !comm_.is_first()) state = "died";
    try {
      write_failure(directory_, comm_.rank(),
                    {.message = str("rank ", comm_.rank(), " on ", host_name(), ": ", text),
                     .state = state,
                     .updated = now()});
    } catch (const std::exception& other) {  // the reason itself is still printed
      log_warning(other.what());
    }
  }
  void finish() { progress_.finish(); }

 private:
  static Index now() {
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::seconds>(since).count();
  }

  const RunDirectory& directory_;
  Index layers_;
  Communicator& comm_;
  Progress progress_;
};

/// Wants no matrix: only the log of a part is needed.
bool nothing(Index) {
  return false;
}

/// Throws on every rank when any rank was asked to stop. Collective.
void stop_if_asked(Communicator& comm) {
  const WorkLabel label("whether to stop");
  std::array<std::int64_t, 1> asked{stop_requested() ? 1 : 0};
  comm.all_reduce_max(asked);
  if (asked[0] != 0)
    throw Error(ErrorKind::stopped, "quantize", "", "stopped by a signal",
                "start the same command again to resume");
}

/// Everything of one run; its functions are the steps of the loop.
struct Run {
  const QuantizeOptions& options;
  Communicator& comm;
  std::unique_ptr<Transport> transport;
  Prepared prepared;
  RunState state;
  Reporter reporter;
  PhaseTimes times;
  Weights original, quantized;
  HessianKeeper keeper;
  StageContext context;
  std::vector<LogRow> log;

  Run(const QuantizeOptions& run_options, Communicator& communicator, Prepared all)
      : options(run_options),
        comm(communicator),
        transport(make_host_transport(communicator)),
        prepared(std::move(all)),
        state(run_options, prepared.manifest, communicator),
        reporter(state.directory(), layer_count(), communicator),
        original(prepared.files.checkpoint, prepared.files.model),
        quantized(original),
        keeper(state.directory(), comm.rank()),
        context{comm,
                *transport,
                default_solver(),
                prepared.workload.lanes,
                options.recipe.settings,
                original,
                quantized,
                times,
                observer(),
                prepared.plan.dispatch} {}

  const Model& model() const { return prepared.files.model; }
  Index layer_count() const { return static_cast<Index>(prepared.files.model.layers.size()); }

  HessianObserver observer() {
    return [this](const TaskPlan& task, const TaskSum& sum) {
      if (options.hessian_observer)
        options.hessian_observer(task.matrices.front().linear.name, task.columns, sum.sum);
      if (!options.keep_hessians) return;
      const PhaseTimer timer(times, Phase::write);
      keeper.keep(task, sum);
    };
  }

  void keep(const std::vector<LogRow>& rows) { log.insert(log.end(), rows.begin(), rows.end()); }

  /// From the tokens, or from kept sums; x becomes the next layer's input.
  LayerResult quantize(Index index, Matrix& x) {
    const LayerSpec& layer = model().layers[static_cast<std::size_t>(index)];
    const LayerPlan& plan = prepared.plan.layers[static_cast<std::size_t>(index)];
    const WaveObserver before_wave = [&](Range experts) {
      stop_if_asked(comm);
      if (layer.moe) reporter.at(index, str(": experts ", experts.begin, "..", experts.end - 1));
    };
    if (!prepared.kept)
      return quantize_layer(context, model(), layer, plan, prepared.batch, x, before_wave);
    prepared.kept->open(index);
    return quantize_layer_from(*prepared.kept, context, plan, before_wave);
  }

  /// The layer's matrices from disk; x goes on as it did when they were made.
  std::vector<LogRow> resume(Index index, Matrix& x) {
    const PhaseTimer timer(times, Phase::resume);
    const LayerSpec& layer = model().layers[static_cast<std::size_t>(index)];
    const LayerPlan& plan = prepared.plan.layers[static_cast<std::size_t>(index)];
    const bool dispatch = prepared.plan.dispatch && layer.moe;
    const auto travels = [&](Index expert) {
      return dispatch && expert >= 0 && expert < layer.moe->routing.experts;
    };
    const bool runs = !prepared.kept && context.settings.sequential != Sequential::none;
    std::vector<LogRow> rows =
        state.load(index, quantized, [&](Index expert) { return runs && !travels(expert); });
    if (prepared.kept) return rows;
    // The others are read where their tokens go, as soon as these are counted.
    const auto load_own = [&](std::span<const std::int64_t> tokens) {
      std::vector<int> owners = owners_of_tokens(plan, tokens, comm.size());
      if (!runs) return owners;
      state.load(index, quantized, [&](Index expert) {
        if (!travels(expert)) return false;
        const int owner = owners[static_cast<std::size_t>(expert)];
        return owner == kEverywhere || owner == comm.rank();
      });
      return owners;
    };
    const ExpertHomes homes{comm, prepared.workload.lanes, routed_waves(plan),
                            plan.waves.front().limits.rows, load_own};
    forward_layer(model(), layer, forward_weights(context), prepared.batch, x,
                  dispatch ? &homes : nullptr);
    return rows;
  }

  std::vector<LogRow> save(Index part, std::vector<QuantizedRecord> records, const Matrix& x) {
    const PhaseTimer timer(times, Phase::write);
    std::optional<bool> kept;
    if (options.keep_hessians) kept = keeper.finish();
    const Index step = options.save_activations;
    const bool keeps_output =
        step > 0 && !prepared.kept && part < layer_count() && (part + 1) % step == 0;
    return state.save(part, std::move(records), kept, prepared.batch, keeps_output ? &x : nullptr);
  }

  /// x before the first layer that must run; the layers before it need nothing but their log.
  Index start_layers(Matrix& x) {
    if (!prepared.kept) {
      const PhaseTimer timer(times, Phase::resume);
      const Index skipped = state.load_output(prepared.batch, model().hidden, x);
      if (skipped > 0) {
        if (comm.is_first())
          log_info(str("resumed from the saved output of layer ", skipped, "/", layer_count()));
        return skipped;
      }
    }
    const PhaseTimer timer(times, Phase::embed);
    x = embed_tokens(original, prepared.batch);  // no rows with kept Hessians
    return 0;
  }

  void skip_layer(Index index) {
    LayerMetrics metrics;
    metrics.layer = index;
    metrics.layers = layer_count();
    metrics.resumed = true;
    const std::vector<LogRow> rows = state.load(index, quantized, nothing);
    reporter.layer_done(metrics, rows);
    keep(rows);
  }

  /// The layer from disk, or quantized and written; x becomes the next layer's input.
  void do_layer(Index index, Matrix& x) {
    const LayerSpec& spec = model().layers[static_cast<std::size_t>(index)];
    const Stopwatch watch;
    LayerMetrics metrics;
    metrics.layer = index;
    metrics.layers = layer_count();
    metrics.resumed = state.complete(index);
    std::vector<LogRow> rows;
    reporter.at(index, metrics.resumed ? ": from disk" : "");
    stop_if_asked(comm);
    if (metrics.resumed) {
      rows = resume(index, x);
      check_finite(comm, spec);
    } else {
      keeper.start(index);
      LayerResult result = quantize(index, x);
      check_finite(comm, spec);
      rows = save(index, std::move(result.records), x);
      metrics.expert_tokens = std::move(result.expert_tokens);
    }
    quantized.clear();
    metrics.seconds = watch.seconds();
    reporter.layer_done(metrics, rows);
    keep(rows);
  }

  void do_head(const Matrix& x) {
    const Index part = layer_count();
    if (state.complete(part)) return keep(state.load(part, quantized, nothing));
    set_work_place(std::string(stage_name(Stage::head)));
    keeper.start(part);
    std::vector<QuantizedRecord> records;
    if (prepared.kept) {
      prepared.kept->open(part);
      records = quantize_head_from(*prepared.kept, context, prepared.plan.head);
    } else {
      records = quantize_head(context, model(), prepared.plan.head, prepared.batch, x);
    }
    keep(save(part, std::move(records), x));
  }

  /// A run whose parts are all on disk: only the log is needed.
  void load_log() {
    for (Index part = 0; part <= layer_count(); ++part) {
      keep(state.load(part, quantized, nothing));
      quantized.clear();
    }
  }

  /// The final rank writes model.h5 and the log.
  void merge() {
    const PhaseTimer timer(times, Phase::merge);
    set_work_place(std::string(phase_name(Phase::merge)));
    comm.barrier();  // the first rank has written the manifest
    if (comm.is_last()) {
      if (state.needs_merge()) read_patiently([&] { return merge_shards(state.directory()); });
      write_text_file(state.directory().log(), quant_log_csv(log));
    }
    comm.barrier();
  }

  RunSummary summary(double seconds, const MemoryWatch& memory) {
    RunSummary summary = summarize(log);
    summary.hessians_reused = prepared.kept.has_value();
    summary.untouched = prepared.plan.matrix_count - summary.matrices;
    summary.seconds = seconds - state.lock_seconds();
    summary.phase_seconds = times.seconds;
    summary.planned_bytes = prepared.plan.memory.total();
    summary.peak_rss_bytes.assign(static_cast<std::size_t>(comm.size()), 0);
    summary.peak_rss_bytes[static_cast<std::size_t>(comm.rank())] = memory.peak_above_start();
    comm.all_reduce_sum(summary.peak_rss_bytes);
    add_phase_records(options, prepared, times, comm, summary);
    return summary;
  }

  void check_fallbacks(const RunSummary& summary) const {
    const Index count = fallback_count(summary);
    if (options.max_fallbacks >= 0 && count > options.max_fallbacks)
      throw Error(ErrorKind::policy, "quantize", options.save.string(),
                  str(count, " matrices fell back, --max-fallbacks allows ", options.max_fallbacks),
                  "quant_log.csv names them");
  }
};

void run_layers(Run& run) {
  Matrix x;
  const Index first = run.start_layers(x);
  for (Index layer = 0; layer < first; ++layer) run.skip_layer(layer);
  for (Index layer = first; layer < run.layer_count(); ++layer) run.do_layer(layer, x);
  run.do_head(x);
}

}  // namespace

RunSummary quantize_model(const QuantizeOptions& options, Communicator& ranks) {
  CountingCommunicator comm(ranks);
  const QuantizeOptions resolved = with_resolved_order(options);
  runtime::initialize();
  use_single_threaded_blas();
  return_freed_memory();
  check_numerics(comm);
  const Stopwatch watch;
  MemoryWatch memory;
  Run run(resolved, comm, prepare(resolved, comm));
  run.times.probe = [&] {
    const FileBytes files = file_bytes();
    return ResourceUse{memory.take_peak(), files.read, files.written, comm.bytes().sent,
                       comm.bytes().received};
  };
  if (comm.is_first()) log_info("aq-dist quantize\n" + start_table(resolved, run.prepared, comm));
  if (options.stall_watch != nullptr)
    options.stall_watch->beat_in(run.state.directory().heartbeats());
  try {
    run.reporter.status("running", "", run.state.complete_count());
    if (run.state.all_complete())
      run.load_log();
    else
      run_layers(run);
    run.merge();
  } catch (const std::exception& error) {
    run.reporter.last_word(error, run.state.complete_count());
    throw;
  }
  run.reporter.finish();
  RunSummary summary = run.summary(watch.seconds(), memory);
  run.reporter.status("done", "", run.layer_count());
  if (comm.is_first()) forget_failure(run.state.directory());
  if (comm.is_first()) log_info("done\n" + summary_text(summary));
  run.check_fallbacks(summary);
  return summary;
}

}  // namespace aq
