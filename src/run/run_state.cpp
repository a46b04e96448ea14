#include "aq/run/run_state.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "aq/core/hash.h"
#include "aq/core/log.h"
#include "aq/core/timer.h"
#include "aq/io/activation_file.h"
#include "aq/io/file.h"
#include "aq/io/hessian_file.h"
#include "aq/io/matrix_file.h"
#include "aq/io/read_error.h"
#include "aq/report/parse.h"
#include "aq/run/sources.h"

namespace aq {
namespace {

constexpr std::string_view kOperation = "start the run";

bool all_exist(const std::filesystem::path& directory, const std::vector<std::string>& files) {
  return std::all_of(files.begin(), files.end(),
                     [&](const std::string& file) { return file_exists(directory / file); });
}

/// Throws Error{input} for a shard whose content is not what was written, or that lacks a matrix, a
/// ReadError for one that cannot be read.
void verify_shards(const RunDirectory& directory, const CompletePart& part) {
  std::set<std::string> found;
  for (const std::string& shard : part.shards) {
    const MatrixReader reader(directory.shards() / shard);
    reader.verify();
    found.insert(reader.names().begin(), reader.names().end());
  }
  for (const std::string& name : part.matrices)
    if (!found.contains(name))
      throw Error(ErrorKind::input, "read the shards", directory.shards().string(),
                  str("none holds ", name));
}

/// Why the part cannot be used; empty when all of its files are there and whole. `keeps_hessians`:
/// they are wanted too.
std::string damage_of(const RunDirectory& directory, const CompletePart& part,
                      bool keeps_hessians) {
  if (!all_exist(directory.shards(), part.shards))
    return str("a shard of layer ", part.layer, " is missing");
  const bool has_hessians = part.hessians && all_exist(directory.hessians(), *part.hessians);
  if (keeps_hessians && !has_hessians) return str("a Hessian of layer ", part.layer, " is missing");
  try {
    verify_shards(directory, part);
    if (keeps_hessians)
      for (const std::string& file : *part.hessians)
        HessianReader(directory.hessians() / file).verify();
  } catch (const ReadError&) {
    throw;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input) throw;
    return str("layer ", part.layer, " is damaged: ", error.what());
  }
  return {};
}

/// Parts in order, without those behind a gap.
void keep_leading_parts(Manifest& manifest) {
  std::sort(manifest.complete.begin(), manifest.complete.end(),
            [](const CompletePart& a, const CompletePart& b) { return a.layer < b.layer; });
  Index count = 0;
  for (const CompletePart& part : manifest.complete) count += part.layer == count;
  manifest.complete.resize(count);
}

Manifest start_manifest(const QuantizeOptions& options, const RunDirectory& directory,
                        Manifest fresh) {
  const auto existing = options.resume == Resume::never ? std::nullopt : read_manifest(directory);
  if (!existing) {
    if (options.resume == Resume::require)
      throw Error(ErrorKind::input, kOperation, directory.root.string(),
                  "--resume require: there is no run to resume");
    return fresh;
  }
  const std::string difference = first_difference(*existing, fresh);
  if (!difference.empty())
    throw Error(ErrorKind::input, kOperation, directory.root.string(),
                str("it holds another run: ", difference),
                "choose another --save directory, or --resume never to start afresh there");
  fresh.complete = existing->complete;
  fresh.files = existing->files;
  keep_leading_parts(fresh);
  return fresh;
}

/// Whether what lies in the directory came from the same model, tokens and recipe.
bool holds_this_run(const RunDirectory& directory, const Manifest& fresh) {
  try {
    const auto existing = read_manifest(directory);
    return existing && first_difference(*existing, fresh).empty();
  } catch (const ReadError&) {
    throw;
  } catch (const Error&) {  // a damaged one, which --resume never replaces
    return false;
  }
}

/// Another run's model.h5 must not be taken for this one's, which is not there yet.
void set_aside_other_model(const RunDirectory& directory, const Manifest& fresh) {
  if (!file_exists(directory.model()) || holds_this_run(directory, fresh)) return;
  std::filesystem::rename(directory.model(), directory.previous_model());
  log_warning(str(directory.model().string(),
                  " is of another run: until this one's is there, it is ",
                  directory.previous_model().filename().string()));
}

/// What the first rank has just written.
Manifest shared_manifest(const RunDirectory& directory) {
  std::optional<Manifest> manifest = read_manifest(directory);
  if (!manifest)
    throw Error(ErrorKind::input, kOperation, directory.manifest().string(),
                "the first rank wrote it, this rank does not see it",
                "--save must be on a file system that all hosts share");
  return *std::move(manifest);
}

}  // namespace

RunState::RunState(const QuantizeOptions& options, const Prepared& prepared, Communicator& comm)
    : prepared_(prepared), directory_{options.save}, comm_(comm) {
  std::error_code ignored;
  comm.barrier();  // every rank has checked its input: only now is anything written
  if (comm.is_first()) {
    make_directory(directory_.root);
    const Stopwatch waiting;
    lock_ = lock_run(directory_.root, [&comm](int exit_code) { comm.abort(exit_code); });
    lock_seconds_ = waiting.seconds();
    std::filesystem::remove_all(directory_.heartbeats(), ignored);  // of ranks that were killed
    make_directory(directory_.shards());
    if (options.keep_hessians) make_directory(directory_.hessians());
    if (options.save_activations > 0) make_directory(directory_.activations());
    manifest_ =
        read_patiently([&] { return start_manifest(options, directory_, prepared.manifest); });
    set_aside_other_model(directory_, manifest_);
    make_room_for_failure(directory_);
    if (manifest_.complete.empty())
      for (const auto& records : {directory_.metrics(), directory_.sessions()})
        std::filesystem::remove(records, ignored);
    write_manifest(directory_, manifest_);
  }
  comm.barrier();
  if (!comm.is_first()) manifest_ = shared_manifest(directory_);
  compare_ranks(
      {{"manifest.json in --save", hash_text(xxh64(read_text_file(directory_.manifest())))}}, comm);
  drop_damaged_parts(options.keep_hessians);
  drop_changed_parts();
  if (comm.is_first()) write_manifest(directory_, manifest_);
  if (comm.is_last()) needs_merge_ = !all_complete() || !model_is_whole();
  comm.barrier();
}

void RunState::drop_damaged_parts(bool keeps_hessians) {
  const auto count = static_cast<Index>(manifest_.complete.size());
  std::array<std::int64_t, 1> least{-count};  // minus the first damaged part
  std::string damage;
  for (Index part = comm_.rank(); part < count && damage.empty(); part += comm_.size()) {
    const CompletePart& complete = manifest_.complete[part];
    damage = read_patiently([&] { return damage_of(directory_, complete, keeps_hessians); });
    if (!damage.empty()) least[0] = -part;
  }
  const Index mine = -least[0];
  comm_.all_reduce_max(least);
  const Index first = -least[0];
  if (first == count) return;
  if (mine == first)
    log_warning(str(directory_.root.string(), ": ", damage, "; the run goes on from that layer"));
  manifest_.complete.resize(first);
}

void RunState::drop_changed_parts() {
  const auto count = static_cast<Index>(manifest_.complete.size());
  const Checkpoint& checkpoint = prepared_.files.checkpoint;
  std::array<std::int64_t, 1> other_files{manifest_.files != checkpoint.file_states() ? 1 : 0};
  comm_.all_reduce_max(other_files);
  if (count > 0 && all_complete() && other_files[0] == 0) {
    if (comm_.is_first())
      log_info(str(directory_.root.string(),
                   ": all layers are complete; headers, sizes and times of the checkpoint's files "
                   "are as they were, so that their content is trusted and not read again"));
    return;
  }
  const std::vector<SourceChecksums> now = prepared_.sources.empty()
                                               ? read_sources(prepared_.files, 0, count, comm_)
                                               : prepared_.sources;
  for (Index part = 0; part < count; ++part) {
    const auto at = static_cast<std::size_t>(part);
    const std::string difference = source_difference(manifest_.complete[at].sources, now[at]);
    if (difference.empty()) continue;
    if (comm_.is_first())
      log_warning(str(directory_.root.string(), ": ", part_text(part, manifest_.layers),
                      " was made from other weights: ", difference,
                      "; the run goes on from that layer"));
    manifest_.complete.resize(at);
    break;
  }
  manifest_.files = checkpoint.file_states();
  if (comm_.is_first() && complete_count() > 0)
    log_info(str(directory_.root.string(), ": what was read of the checkpoint for ",
                 complete_count(), " complete layers is the same now"));
}

SourceChecksums RunState::sources_of(Index part) const {
  prepared_.files.checkpoint.check_unchanged();
  if (!prepared_.sources.empty()) return prepared_.sources[part];
  return read_sources(prepared_.files, part, part + 1, comm_).front();
}

bool RunState::model_is_whole() const {
  std::vector<std::string> names;
  for (const CompletePart& part : manifest_.complete)
    names.insert(names.end(), part.matrices.begin(), part.matrices.end());
  try {
    return read_patiently([&] {
      if (!file_exists(directory_.model())) return false;
      const MatrixReader reader(directory_.model());
      reader.verify();
      if (reader.names() != names)
        log_warning(str(directory_.model().string(), " lacks matrices; it is merged again"));
      return reader.names() == names;
    });
  } catch (const ReadError&) {
    throw;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input) throw;
    log_warning(str(error.what(), "; it is merged again"));
    return false;
  }
}

bool RunState::complete(Index part) const {
  return part < static_cast<Index>(manifest_.complete.size());
}

std::vector<LogRow> RunState::load(Index part, Weights& weights,
                                   const std::function<bool(Index expert)>& wanted) const {
  return read_patiently([&] { return load_once(part, weights, wanted); });
}

std::vector<LogRow> RunState::load_once(Index part, Weights& weights,
                                        const std::function<bool(Index expert)>& wanted) const {
  const CompletePart& complete = manifest_.complete[part];
  std::map<std::string, LogRow> rows;
  for (const std::string& shard : complete.shards) {
    const std::filesystem::path path = directory_.shards() / shard;
    const MatrixReader reader(path);
    for (const std::string& name : reader.names()) {
      rows[name] = stored_row(reader, name, path.string());
      if (wanted(rows[name].stats.expert)) weights.put(name, reader.read(name).matrix);
    }
  }
  std::vector<LogRow> ordered;
  for (const std::string& name : complete.matrices) {
    const auto found = rows.find(name);
    if (found == rows.end())
      throw Error(ErrorKind::input, "resume the run", directory_.root.string(),
                  str("no shard of layer ", part, " holds ", name),
                  "remove the layer's shards: the run then redoes it");
    ordered.push_back(found->second);
  }
  return ordered;
}

std::vector<std::string> RunState::written_files(Index part, bool mine) const {
  std::vector<std::int64_t> wrote(comm_.size(), 0);
  wrote[comm_.rank()] = mine ? 1 : 0;
  comm_.all_reduce_sum(wrote);
  std::vector<std::string> files;
  for (int rank = 0; rank < comm_.size(); ++rank)
    if (wrote[rank] != 0) files.push_back(RunDirectory::shard_name(part, rank));
  return files;
}

std::vector<LogRow> RunState::save(Index part, std::vector<QuantizedRecord> records,
                                   std::optional<bool> kept_hessians, const Batch& batch,
                                   const Streams* output) {
  CompletePart complete;
  complete.layer = part;
  complete.sources = sources_of(part);
  std::vector<LogRow> rows;
  const std::string shard = RunDirectory::shard_name(part, comm_.rank());
  std::vector<NamedMatrix> mine;
  for (QuantizedRecord& record : records) {
    complete.matrices.push_back(record.row.name);
    if (record.matrix.rows > 0)
      mine.push_back({record.row.name, std::move(record.matrix), stats_to_json(record.row.stats),
                      record.activation});
    rows.push_back(std::move(record.row));
  }
  if (!mine.empty()) {
    MatrixWriter writer(directory_.shards() / shard);
    for (const NamedMatrix& matrix : mine) writer.write(matrix);
    writer.close();
  }
  const bool writes_output = output != nullptr && batch.lanes() > 0;
  if (writes_output) write_output(part, batch, *output);
  // Collective: when these return, every rank has renamed its files.
  complete.shards = written_files(part, !mine.empty());
  if (kept_hessians) complete.hessians = written_files(part, *kept_hessians);
  std::vector<std::string> forgotten;
  if (output != nullptr) {
    complete.activations = written_files(part, writes_output);
    for (CompletePart& earlier : manifest_.complete)
      for (std::string& file : std::exchange(earlier.activations, {}))
        forgotten.push_back(std::move(file));
  }
  manifest_.complete.push_back(std::move(complete));
  if (!comm_.is_first()) return rows;
  write_manifest(directory_, manifest_);
  std::error_code ignored;
  for (const std::string& file : forgotten)
    std::filesystem::remove(directory_.activations() / file, ignored);
  return rows;
}

namespace {

/// The rows of each lane, as they lie in the streams.
std::vector<LaneActivations> lanes_of(const Batch& batch, const Streams& streams) {
  std::vector<LaneActivations> lanes;
  const auto list = [&](const Tensor& stream, ActivationsOf model) {
    Tensor x = stream.window();
    for (Index lane = 0; lane < batch.lanes() && x.columns() > 0; ++lane)
      lanes.push_back({batch.first_lane + lane, x.window(batch.rows_of_lane(lane)).host(), model});
  };
  list(streams.own, ActivationsOf::quantized);
  list(streams.original, ActivationsOf::original);
  return lanes;
}

}  // namespace

void RunState::write_output(Index part, const Batch& batch, const Streams& streams) const {
  write_activations(directory_.activations() / RunDirectory::shard_name(part, comm_.rank()),
                    lanes_of(batch, streams));
}

Index RunState::load_output(const Batch& batch, Index hidden, bool runs_original,
                            Streams& streams) const {
  Index part = static_cast<Index>(manifest_.complete.size()) - 1;
  while (part >= 0 && manifest_.complete[part].activations.empty()) --part;
  if (part < 0) return 0;
  std::array<std::int64_t, 1> damaged{0};
  Streams read{Tensor(batch.rows(), hidden, {}, Storage::offload), {}};
  if (runs_original) read.original = Tensor(batch.rows(), hidden, {}, Storage::offload);
  try {
    std::vector<std::filesystem::path> files;
    for (const std::string& file : manifest_.complete[part].activations)
      files.push_back(directory_.activations() / file);
    read_patiently([&] { read_activations(files, lanes_of(batch, read)); });
    streams = std::move(read);
  } catch (const ReadError&) {
    throw;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input) throw;
    log_warning(str(error.what(), "; the layers before are run again"));
    damaged[0] = 1;
  }
  comm_.all_reduce_max(damaged);
  return damaged[0] != 0 ? 0 : part + 1;
}

}  // namespace aq
