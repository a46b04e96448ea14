#pragma once
/// A finished run as a checkpoint directory that servers load.

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aq/comm/communicator.h"
#include "aq/model/architecture.h"
#include "aq/recipe/assignments.h"

namespace aq {

/// What `--format` may be: "compressed-tensors", "gptq", "gpt-oss", "bf16".
std::vector<std::string_view> export_format_names();

struct ExportOptions {
  std::filesystem::path run;
  std::filesystem::path model;         ///< the run's checkpoint; empty: where the run read it
  std::filesystem::path architecture;  ///< as in open_model
  Keys assume_unused;
  std::filesystem::path out;                     ///< must not exist
  std::string format = "compressed-tensors";     ///< of export_format_names()
  Index shard_bytes = Index{5} * 1'000'000'000;  ///< of a safetensors file, unless one tensor is
                                                 ///< larger
};

/// Reads "DIR" or "DIR:FORMAT". Throws Error{usage} for an unknown format; a directory whose name
/// ends with a colon and a word is written with the format behind it.
ExportOptions parse_export(std::string_view text);

/// Throws Error{usage} before any work where the export of a run with these assignments would fail:
/// for matrices that the format cannot hold, and for an `out` that is taken by anything else than
/// an export.
void check_export(const ExportOptions& options, const Model& model, const Assignments& assignments);

struct ExportSummary {
  Index matrices = 0;  ///< quantized
  Index tensors = 0, shards = 0, bytes = 0;
  double seconds = 0;
  bool was_there = false;            ///< the same export was complete already: nothing was written
  std::vector<std::string> remarks;  ///< what a reader of the files should know, a sentence each
};

/// Writes the checkpoint with the run's matrices in the format, and everything else that the
/// source holds as it is: other tensors, tokenizer, chat template, code. The directory has its
/// final name only when it is complete; what a killed export left is removed. The same bytes on any
/// number of ranks, each of which writes whole shards. Collective.
/// Throws Error{input} for a run that is not finished or is of another checkpoint, and
/// Error{usage} for matrices that the format cannot hold, which it names.
ExportSummary export_run(const ExportOptions& options, Communicator& comm);

}  // namespace aq
