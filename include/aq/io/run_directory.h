#pragma once
/// The directory of a run: manifest, shards, merged model and status.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// Checksum (Checkpoint::checksum) of each tensor that was read, by name, in order of use.
using SourceChecksums = std::vector<std::pair<std::string, std::string>>;

/// A part of the model whose shards are all on disk. The layers in order, and the head as the last.
struct CompletePart {
  Index layer = 0;                    ///< number of layers for the head
  std::vector<std::string> shards;    ///< file names in shards/
  std::vector<std::string> matrices;  ///< names of the quantized matrices in the order of the model
  /// File names in hessians/; nothing when the part's Hessians were not kept.
  std::optional<std::vector<std::string>> hessians = std::nullopt;
  /// File names in activations/ of what the next layer reads; empty when they were not saved.
  std::vector<std::string> activations = {};
  SourceChecksums sources = {};  ///< of the checkpoint
};

/// What makes a run this run; written when it starts and after each complete layer.
struct Manifest {
  /// Everything that decides the result, field by field: model, tokens, recipe, lanes, numerics ...
  std::vector<std::pair<std::string, std::string>> fingerprint;
  Index layers = 0;
  std::vector<CompletePart> complete;
  /// Checkpoint::file_states when the complete parts were read, or last compared.
  std::vector<std::pair<std::string, std::string>> files = {};
  std::vector<std::pair<std::string, std::string>> configuration;  ///< command line, for people
};

/// Paths inside a run directory.
struct RunDirectory {
  std::filesystem::path root;

  std::filesystem::path manifest() const { return root / "manifest.json"; }
  std::filesystem::path shards() const { return root / "shards"; }
  std::filesystem::path hessians() const { return root / "hessians"; }
  std::filesystem::path activations() const { return root / "activations"; }
  std::filesystem::path model() const { return root / "model.h5"; }
  /// Another run's, from when this one began until its own is there.
  std::filesystem::path previous_model() const { return root / "model.h5.previous"; }
  std::filesystem::path status() const { return root / "status.json"; }
  std::filesystem::path failure() const { return root / "failure.json"; }
  std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
  /// A line for each start of the program that quantized something and came to its end.
  std::filesystem::path sessions() const { return root / "sessions.jsonl"; }
  std::filesystem::path heartbeats() const { return root / ".heartbeat"; }
  std::filesystem::path log() const { return root / "quant_log.csv"; }
  /// "layer-0007.rank-0003.h5", in shards/, hessians/ and activations/
  static std::string shard_name(Index layer, int rank);
};

/// Of Manifest::fingerprint or configuration; empty where it is not there.
std::string field_of(const std::vector<std::pair<std::string, std::string>>& fields,
                     std::string_view key);

/// Nothing when there is no manifest; Error{input} when it cannot be understood.
std::optional<Manifest> read_manifest(const RunDirectory& run);
void write_manifest(const RunDirectory& run, const Manifest& manifest);

/// First field that differs: "recipe: 'x' in the run, 'y' now"; empty when all are equal.
std::string first_difference(const Manifest& run, const Manifest& now);

/// Writes model.h5 afresh from the shards, in the order of the model. Throws Error{input} when a
/// layer is missing or a shard lacks a matrix. Returns the number of matrices.
Index merge_shards(const RunDirectory& run);

/// Where state is one of running, done, stopped, failed, died.
struct RunStatus {
  std::string state;
  std::string message;
  Index layer = 0, layers = 0;
  double elapsed_seconds = 0;
  double remaining_seconds = 0;  ///< 0 when not known
  Index ranks = 0;
  std::string host;
  Index process = 0;               ///< of the first rank
  Index updated = 0;               ///< seconds since the epoch
  std::string last_fallback = {};  ///< "model.layers.3.mlp.experts.7.up_proj: starved_rtn"
};
void write_status(const RunDirectory& run, const RunStatus& status);
/// What is written, with the failure of another rank than the first where there is one.
/// Error{input} when the directory is no run.
RunStatus read_status(const RunDirectory& run);

/// The last word of a rank other than the first, or of the first one where status.json cannot be
/// written. It has a file of its own, failure.json: the first rank may write status.json at the
/// same moment, and what it writes last must not hide this.
struct RunFailure {
  std::string message;  ///< with rank and host
  /// `died` for bugs and machines that fail, such as messages that do not come since another rank
  /// is gone, as without a word; `failed` when the same command fails again; `stopped`.
  std::string state;
  Index updated = 0;  ///< seconds since the epoch
};
/// `died`, which may follow from another rank's failure, leaves an earlier word as it is. Needs no
/// disk space after make_room_for_failure.
void write_failure(const RunDirectory& run, int rank, const RunFailure& failure);
/// When a run starts: an earlier word is forgotten, and the file has the space for another one.
void make_room_for_failure(const RunDirectory& run);
/// When a run is done.
void forget_failure(const RunDirectory& run);

}  // namespace aq
