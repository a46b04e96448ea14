#include "eval/inputs.h"

#include "aq/core/text.h"
#include "aq/io/quantized_run.h"
#include "aq/io/run_directory.h"
#include "aq/io/tokens.h"
#include "aq/model/architecture_json.h"
#include "aq/quant/solver.h"
#include "aq/run/prepare.h"
#include "aq/runtime/operations.h"

namespace aq {
namespace {

/// Error{input} unless all ranks have read the same, of the tokens so many rows. Collective.
void compare_inputs(const Inputs& inputs, const TokenFile& tokens, Index rows, Index length,
                    Communicator& comm) {
  compare_ranks({{"model", inputs.files.checkpoint.fingerprint()},
                 {"architecture", architecture_to_json(inputs.files.row)},
                 {"reference", inputs.reference ? inputs.reference->checkpoint.fingerprint() : ""},
                 {"tokens", tokens.fingerprint(rows, length)}},
                comm);
  compare_checkpoints(inputs.files, comm);
  if (inputs.reference) compare_checkpoints(*inputs.reference, comm);
}

ModelFiles open_reference(const EvaluateOptions& options, const Model& scored) {
  ModelFiles files = open_model(options.reference, options.architecture, options.assume_unused);
  if (files.model.vocabulary != scored.vocabulary)
    throw Error(ErrorKind::usage, "evaluate", "--against " + options.reference.string(),
                str("its vocabulary has ", files.model.vocabulary, " tokens, the one of ",
                    options.model.string(), " ", scored.vocabulary));
  return files;
}

void check_options(const EvaluateOptions& options) {
  if (options.window < 2)
    throw Error(ErrorKind::usage, "evaluate", "--window",
                str(options.window, " tokens leave nothing to predict"));
  if (options.against == Against::original && options.quantized.empty())
    throw Error(ErrorKind::usage, "evaluate", "--against original",
                "it is the original of a run, and there is no --quantized",
                "give the directory of the original checkpoint");
}

}  // namespace

void start_scoring(std::string_view command, const EvaluateOptions& options, Communicator& comm) {
  runtime::initialize();
  use_single_threaded_blas();
  const auto given = [](const std::filesystem::path& path) { return path.empty() ? "no" : "yes"; };
  compare_told({{"command", std::string(command)},
                {"--architecture given", given(options.architecture)},
                {"--quantized given", given(options.quantized)},
                {"--window", str(options.window)},
                {"--max-windows", str(options.max_windows)},
                {"rows", str(options.rows)},
                {"--against", str(static_cast<int>(options.against))},
                {"--trace given", given(options.trace)}},
               comm);
}

Inputs open_inputs(const EvaluateOptions& options, Communicator& comm) {
  check_options(options);
  Inputs inputs{open_model(options.model, options.architecture, options.assume_unused)};
  const Model& model = inputs.files.model;
  if (comm.is_first()) warn_of_assumptions(inputs.files);
  Index longest = std::min(options.window, model.max_positions);
  if (options.against == Against::checkpoint) {
    inputs.reference = open_reference(options, model);
    if (comm.is_first()) warn_of_assumptions(*inputs.reference);
    longest = std::min(longest, inputs.reference->model.max_positions);
  }
  const TokenFile file = TokenFile::open(options.tokens);
  const bool first_windows = options.rows > 0;
  const Index used = first_windows ? std::min(options.rows, file.sequences) : file.sequences;
  const Index length = first_windows ? std::min(longest, file.length) : file.length;
  const Sequences rows = file.read(0, used, length, model.vocabulary);
  inputs.windows = cut_windows(rows.lengths, longest, options.max_windows);
  compare_inputs(inputs, file, used, length, comm);
  if (inputs.windows.count() == 0)
    throw Error(ErrorKind::input, "evaluate", options.tokens.string(),
                "no window of at least two tokens");
  const LaneLayout layout{inputs.windows.count(), default_lane_count(inputs.windows.count())};
  inputs.batch = make_batch(layout, comm.rank(), comm.size(), [&](Index first, Index count) {
    return tokens_of(inputs.windows, rows, first, count);
  });
  if (inputs.batch.lanes() > 0)
    inputs.first_window = layout.sequences_of_lane(inputs.batch.first_lane).begin;
  if (!options.quantized.empty()) {
    inputs.quantized.emplace(open_quantized(options.quantized, inputs.files, "evaluate"));
    compare_files("--quantized", {RunDirectory{options.quantized}.model()}, comm);
  }
  return inputs;
}

}  // namespace aq
