#include "pipeline/run_state.h"

#include <algorithm>

#include "aq/core/log.h"
#include "aq/io/file.h"
#include "aq/io/matrix_file.h"

namespace aq {
namespace {

constexpr std::string_view kOperation = "start the run";

bool all_exist(const std::filesystem::path& directory, const std::vector<std::string>& files) {
  return std::all_of(files.begin(), files.end(), [&](const std::string& file) {
    return std::filesystem::exists(directory / file);
  });
}

/// Forgets parts from the first one on whose files are not all there: later layers were computed
/// from it. `keeps_hessians`: they are wanted of every part.
void drop_damaged_parts(const RunDirectory& directory, bool keeps_hessians, Manifest& manifest) {
  std::sort(manifest.complete.begin(), manifest.complete.end(),
            [](const CompletePart& a, const CompletePart& b) { return a.layer < b.layer; });
  for (std::size_t i = 0; i < manifest.complete.size(); ++i) {
    const CompletePart& part = manifest.complete[i];
    const bool whole =
        part.layer == static_cast<Index>(i) && all_exist(directory.shards(), part.shards);
    const bool kept =
        !keeps_hessians || (part.hessians && all_exist(directory.hessians(), *part.hessians));
    if (whole && kept) continue;
    log_warning(str(directory.root.string(), ": ", whole ? "a Hessian" : "a shard", " of layer ", i,
                    " is missing; the run goes on from that layer"));
    manifest.complete.resize(i);
    return;
  }
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
  drop_damaged_parts(directory, options.keep_hessians, fresh);
  return fresh;
}

/// Loses the lock: the job ends at once, before it writes into another job's run.
std::unique_ptr<RunLock> lock_directory(const RunDirectory& directory, Communicator& comm) {
  return std::make_unique<RunLock>(directory.root, [&directory, &comm](const std::string& reason) {
    const Error error(ErrorKind::internal, "keep the lock", directory.root.string(), reason,
                      "two jobs must not work on one run directory");
    log_error(error.what());
    comm.abort(error.exit_code());
  });
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

RunState::RunState(const QuantizeOptions& options, Manifest manifest, Communicator& comm)
    : directory_{options.save}, comm_(comm) {
  comm.barrier();  // every rank has checked its input: only now is anything written
  if (comm.is_first()) {
    make_directory(directory_.root);
    lock_ = lock_directory(directory_, comm);
    make_directory(directory_.shards());
    if (options.keep_hessians) make_directory(directory_.hessians());
    manifest_ = start_manifest(options, directory_, std::move(manifest));
    std::error_code ignored;
    if (manifest_.complete.empty()) std::filesystem::remove(directory_.metrics(), ignored);
    if (!all_complete()) std::filesystem::remove(directory_.model(), ignored);
    write_manifest(directory_, manifest_);
  }
  comm.barrier();
  if (!comm.is_first()) manifest_ = shared_manifest(directory_);
  comm.barrier();
}

bool RunState::complete(Index part) const {
  return part < static_cast<Index>(manifest_.complete.size());
}

std::vector<LogRow> RunState::load(Index part, Weights& weights) const {
  const CompletePart& complete = manifest_.complete[static_cast<std::size_t>(part)];
  std::map<std::string, LogRow> rows;
  for (const std::string& shard : complete.shards) {
    const MatrixReader reader(directory_.shards() / shard);
    for (const std::string& name : reader.names()) {
      NamedMatrix read = reader.read(name);
      const std::string object = str((directory_.shards() / shard).string(), ": ", name);
      rows[name] = {name, read.matrix.rows, read.matrix.columns, read.matrix.scheme,
                    stats_from_json(read.stats_json, object)};
      weights.put(name, std::move(read.matrix));
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
  std::vector<std::int64_t> wrote(static_cast<std::size_t>(comm_.size()), 0);
  wrote[static_cast<std::size_t>(comm_.rank())] = mine ? 1 : 0;
  comm_.all_reduce_sum(wrote);
  std::vector<std::string> files;
  for (int rank = 0; rank < comm_.size(); ++rank)
    if (wrote[static_cast<std::size_t>(rank)] != 0)
      files.push_back(RunDirectory::shard_name(part, rank));
  return files;
}

std::vector<LogRow> RunState::save(Index part, std::vector<QuantizedRecord> records,
                                   std::optional<bool> kept_hessians) {
  CompletePart complete;
  complete.layer = part;
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
  // Collective: when these return, every rank has renamed its files.
  complete.shards = written_files(part, !mine.empty());
  if (kept_hessians) complete.hessians = written_files(part, *kept_hessians);
  manifest_.complete.push_back(std::move(complete));
  if (comm_.is_first()) write_manifest(directory_, manifest_);
  return rows;
}

}  // namespace aq
