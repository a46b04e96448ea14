#include "aq/pipeline/quantize.h"

#include "aq/comm/counting.h"
#include "aq/comm/stop.h"
#include "aq/core/block_array.h"
#include "aq/core/log.h"
#include "aq/core/memory.h"
#include "aq/core/offload.h"
#include "aq/core/text.h"
#include "aq/forward/finite.h"
#include "aq/io/file.h"
#include "aq/io/read_error.h"
#include "aq/run/phase_records.h"
#include "aq/run/prepare.h"
#include "aq/run/reporter.h"
#include "aq/run/run_state.h"
#include "aq/runtime/pieces.h"
#include "pipeline/layer.h"
#include "pipeline/original_stream.h"

namespace aq {
namespace {

/// Wants no matrix: only the log of a part is needed.
bool no_expert(Index) {
  return false;
}

/// One run. Its parts are the layers, and the head behind them.
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
        state(run_options, prepared, communicator),
        reporter(state.directory(), layer_count(), communicator),
        original(prepared.files.checkpoint, prepared.files.model,
                 run_options.compute == Compute::bf16 ? DType::bf16 : DType::f32),
        quantized(original),
        keeper(state.directory(), comm.rank()),
        context{comm,
                *transport,
                *options.solver,
                prepared.workload.lanes,
                options.recipe.settings,
                original,
                quantized,
                times,
                observer(),
                prepared.plan.dispatch} {}

  const Model& model() const { return prepared.files.model; }
  Index layer_count() const { return std::ssize(prepared.files.model.layers); }
  const LayerSpec& spec(Index layer) const { return model().layers[layer]; }
  const LayerPlan& plan(Index layer) const { return prepared.plan.layers[layer]; }
  void keep(const std::vector<LogRow>& rows) { log.insert(log.end(), rows.begin(), rows.end()); }

  HessianObserver observer() {
    return [this](const TaskPlan& task, const TaskSum& sum) {
      if (options.hessian_observer)
        options.hessian_observer(task.matrices.front().linear.name, task.columns, sum.sum);
      if (options.keep_hessians)
        timed(times, Phase::write, "kept Hessians", [&] { keeper.keep(task, sum); });
    };
  }
};

/// From the tokens, or from kept sums; the streams become the next layer's input.
LayerResult quantize(Run& run, Index layer, Streams& streams) {
  const WaveObserver before_wave = [&](Range experts) {
    stop_if_asked("quantize", run.comm);
    if (run.spec(layer).moe)
      run.reporter.at(layer, str(": experts ", experts.begin, "..", experts.end - 1));
  };
  run.keeper.start(layer);
  if (!run.prepared.kept)
    return quantize_layer(run.context, run.model(), run.spec(layer), run.plan(layer),
                          run.prepared.batch, streams, before_wave);
  run.prepared.kept->open(layer);
  return quantize_layer_from(*run.prepared.kept, run.context, run.plan(layer), before_wave);
}

std::vector<QuantizedRecord> quantize_head(Run& run, const Streams& streams) {
  run.keeper.start(run.layer_count());
  if (!run.prepared.kept)
    return quantize_head(run.context, run.model(), run.prepared.plan.head, run.prepared.batch,
                         streams);
  run.prepared.kept->open(run.layer_count());
  return quantize_head_from(*run.prepared.kept, run.context, run.prepared.plan.head);
}

std::vector<LogRow> save(Run& run, Index part, std::vector<QuantizedRecord> records,
                         const Streams& streams) {
  return timed(run.times, Phase::write, "shards", [&] {
    std::optional<bool> kept;
    if (run.options.keep_hessians) kept = run.keeper.finish();
    const Index step = run.options.save_activations;
    const bool keeps_output =
        step > 0 && !run.prepared.kept && part < run.layer_count() && (part + 1) % step == 0;
    return run.state.save(part, std::move(records), kept, run.prepared.batch,
                          keeps_output ? &streams : nullptr);
  });
}

/// The layer's matrices from disk; the streams go on as they did when they were made.
std::vector<LogRow> resume(Run& run, Index layer, Streams& streams) {
  if (run.prepared.kept) return run.state.load(layer, run.quantized, no_expert);
  const LayerSpec& spec = run.spec(layer);
  const bool dispatch = run.prepared.plan.dispatch && spec.moe;
  const bool runs = run.context.settings.sequential != Sequential::none;
  const auto travels = [&](Index expert) {
    return dispatch && expert >= 0 && expert < spec.moe->routing.experts;
  };
  std::vector<LogRow> rows =
      run.state.load(layer, run.quantized, [&](Index expert) { return runs && !travels(expert); });
  const DispatchedRun originals = original_experts(run.context, run.plan(layer));
  // The others are read where their tokens go, as soon as these are counted.
  const auto load_own = [&](std::span<const std::int64_t> tokens) {
    ExpertPlacement placement = originals.place(tokens);
    if (!runs) return placement;
    run.state.load(layer, run.quantized, [&](Index expert) {
      if (!travels(expert)) return false;
      const int owner = placement[expert];
      return owner == kEverywhere || owner == run.comm.rank();
    });
    return placement;
  };
  const DispatchedRun dispatched{*run.transport, run.context.lanes, run.plan(layer), load_own};
  const auto through = [&](const Weights& weights, const DispatchedRun& experts, Tensor& x) {
    DecoderLayer{run.model(), spec, weights, run.prepared.batch}.run(x,
                                                                     dispatch ? &experts : nullptr);
  };
  through(forward_weights(run.context), dispatched, streams.own);
  if (run.context.settings.runs_original()) through(run.original, originals, streams.original);
  return rows;
}

/// The streams before the first layer that must run, and that layer's number.
Index start_layers(Run& run, Streams& streams) {
  if (!run.prepared.kept) {
    const Index done = timed(run.times, Phase::resume, "saved activations", [&] {
      return run.state.load_output(run.prepared.batch, run.model().hidden,
                                   run.context.settings.runs_original(), streams);
    });
    if (done > 0) {
      if (run.comm.is_first())
        log_info(str("resumed from the saved output of layer ", done, "/", run.layer_count()));
      return done;
    }
  }
  streams.own = timed(run.times, Phase::embed, "embeddings", [&] {
    return embed_tokens(run.original, run.prepared.batch);  // no rows with kept Hessians
  });
  if (run.context.settings.runs_original()) streams.original = streams.own.clone(Storage::offload);
  return 0;
}

/// The layer from disk, or quantized and written; the streams become the next layer's input.
void do_layer(Run& run, Index layer, Streams& streams) {
  const Stopwatch watch;
  LayerMetrics metrics{.layer = layer,
                       .layers = run.layer_count(),
                       .resumed = run.state.complete(layer),
                       .expert_tokens = {}};
  std::vector<LogRow> rows;
  run.reporter.at(layer, metrics.resumed ? ": from disk" : "");
  stop_if_asked("quantize", run.comm);
  if (metrics.resumed) {
    rows = timed(run.times, Phase::resume, "a layer from disk",
                 [&] { return resume(run, layer, streams); });
    check_finite(run.comm, run.spec(layer));
  } else {
    LayerResult result = quantize(run, layer, streams);
    check_finite(run.comm, run.spec(layer));
    rows = save(run, layer, std::move(result.records), streams);
    metrics.expert_tokens = std::move(result.expert_tokens);
  }
  run.quantized.clear();
  metrics.seconds = watch.seconds();
  run.reporter.layer_done(metrics, rows);
  run.keep(rows);
}

/// A part on disk of which only the log is needed.
std::vector<LogRow> load_log(Run& run, Index part) {
  std::vector<LogRow> rows = run.state.load(part, run.quantized, no_expert);
  run.quantized.clear();
  run.keep(rows);
  return rows;
}

void run_layers(Run& run) {
  Streams streams;
  const Index first = start_layers(run, streams);
  for (Index layer = 0; layer < first; ++layer)
    run.reporter.layer_done(
        {.layer = layer, .layers = run.layer_count(), .resumed = true, .expert_tokens = {}},
        load_log(run, layer));
  for (Index layer = first; layer < run.layer_count(); ++layer) do_layer(run, layer, streams);
  const Index head = run.layer_count();
  if (run.state.complete(head)) {
    load_log(run, head);
    return;
  }
  set_work_place(std::string(stage_name(Stage::head)));
  run.keep(save(run, head, quantize_head(run, streams), streams));
}

/// The final rank writes model.h5 and the log.
void merge(Run& run) {
  set_work_place(std::string(phase_name(Phase::merge)));
  timed(run.times, Phase::merge, "model.h5", [&] {
    run.comm.barrier();  // the first rank has written the manifest
    if (run.comm.is_last()) {
      const RunDirectory& directory = run.state.directory();
      if (run.state.needs_merge()) read_patiently([&] { return merge_shards(directory); });
      write_text_file(directory.log(), quant_log_csv(run.log));
    }
    run.comm.barrier();
  });
}

/// Every part that is not on disk, then the merge.
void run_parts(Run& run) {
  try {
    run.reporter.status("running", "", run.state.complete_count());
    if (!run.state.all_complete()) {
      run_layers(run);
    } else {
      for (Index part = 0; part <= run.layer_count(); ++part) load_log(run, part);
    }
    merge(run);
  } catch (const std::exception& error) {
    run.reporter.failed(error, run.state.complete_count());
    throw;
  }
  run.reporter.finish();
}

/// Bytes of blocks, used and kept, that a phase may have within its plan: memory that is no block
/// stays, and may grow by packed results where these travel or are read.
Index blocks_within(const MemoryEstimate& planned, Phase phase, Index resident) {
  constexpr Index kMargin = 32;  // of the plan, for what moves
  const BlockBytes blocks = block_bytes();
  const bool results = phase == Phase::exchange || phase == Phase::resume ||
                       phase == Phase::write || phase == Phase::merge;
  const Index other = std::max(planned.libraries, resident - blocks.used - blocks.kept);
  return planned.total() - planned.total() / kMargin - other - (results ? planned.weights : 0);
}

void check_fallbacks(const QuantizeOptions& options, const RunSummary& summary) {
  const Index count = fallback_count(summary);
  if (options.max_fallbacks >= 0 && count > options.max_fallbacks)
    throw Error(ErrorKind::policy, "quantize", options.save.string(),
                str(count, " matrices fell back, --max-fallbacks allows ", options.max_fallbacks),
                "quant_log.csv names them");
}

}  // namespace

RunSummary quantize_model(const QuantizeOptions& options, Communicator& ranks) {
  CountingCommunicator comm(ranks);
  runtime::initialize();
  const QuantizeOptions resolved = resolve(options, comm);
  use_single_threaded_blas();
  return_freed_memory();
  compare_told(told(resolved), comm);
  offload_to(resolved.offload);
  const Stopwatch watch;
  MemoryWatch memory;
  Run run(resolved, comm, prepare(resolved, comm));
  run.times.probe = [&] {
    const FileBytes files = file_bytes();
    return ResourceUse{memory.take_peak(), files.read, files.written, comm.bytes().sent,
                       comm.bytes().received};
  };
  run.times.begins = [&](Phase phase) {
    if (const auto planned = planned_peak(run.prepared.plan, phase))
      limit_kept_blocks(blocks_within(*planned, phase, memory.above_start()));
  };
  if (comm.is_first()) log_info("aq-dist quantize\n" + start_table(resolved, run.prepared, comm));
  if (options.stall_watch != nullptr)
    options.stall_watch->beat_in(run.state.directory().heartbeats());
  const Index complete_before = run.state.complete_count();
  run_parts(run);
  RunSummary summary = summarize_run(resolved, run.prepared, run.log, run.times, comm);
  summary.seconds = watch.seconds() - run.state.lock_seconds();
  summary.parts = run.state.complete_count() - complete_before;
  add_peak(memory.peak_above_start(), offloaded_bytes().most_used, comm, summary);
  try {
    run.reporter.session_done(summary);
  } catch (const Error& error) {  // the result is whole without it
    log_warning(str("this start is not in sessions.jsonl: ", error.what()));
  }
  run.reporter.status("done", "", run.layer_count());
  if (comm.is_first()) forget_failure(run.state.directory());
  if (comm.is_first()) log_info("done\n" + summary_text(summary));
  check_fallbacks(resolved, summary);
  return summary;
}

}  // namespace aq
