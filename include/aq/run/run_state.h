#pragma once
/// The run directory during a run: what is complete, what is written when.

#include "aq/comm/communicator.h"
#include "aq/forward/batch.h"
#include "aq/forward/weights.h"
#include "aq/io/run_directory.h"
#include "aq/io/run_lock.h"
#include "aq/run/options.h"
#include "aq/run/prepare.h"
#include "aq/run/records.h"
#include "aq/run/streams.h"

namespace aq {

class RunState {
 public:
  /// Creates the directory or checks that the run in it is this one, locks it for as long as this
  /// object lives, and checks that what it holds is whole: from the first part with a damaged or
  /// missing file on, or the first that was made from other weights, it is done again. A file that
  /// cannot be read is tried again, then a ReadError: it may be whole. Nothing is removed before
  /// its replacement is there. `prepared` lives longer. Collective.
  RunState(const QuantizeOptions& options, const Prepared& prepared, Communicator& comm);

  const RunDirectory& directory() const { return directory_; }
  bool complete(Index part) const;
  bool all_complete() const {
    return static_cast<Index>(manifest_.complete.size()) == manifest_.layers + 1;
  }
  /// Whether model.h5 is still to be merged; known on the last rank.
  bool needs_merge() const { return needs_merge_; }
  /// Seconds for which the first rank waited until another job's lock was known to be dead.
  double lock_seconds() const { return lock_seconds_; }
  Index complete_count() const { return static_cast<Index>(manifest_.complete.size()); }

  /// Puts the matrices of a complete part into `weights`, of routed experts only those that are
  /// wanted here; the rows of all for the log.
  std::vector<LogRow> load(Index part, Weights& weights,
                           const std::function<bool(Index expert)>& wanted) const;
  /// Writes this rank's shard, and, when all ranks have, the part into the manifest. Collective.
  /// `kept_hessians`: whether this rank wrote a file of the part's Hessians; nothing where no rank
  /// was asked to. `output`: what the next layer reads, where it is to be kept; older ones go then.
  std::vector<LogRow> save(Index part, std::vector<QuantizedRecord> records,
                           std::optional<bool> kept_hessians, const Batch& batch,
                           const Streams* output);

  /// The layers whose joint output was kept and is whole, and that output in the streams; 0 without
  /// one. `runs_original`: both streams are wanted. Collective.
  Index load_output(const Batch& batch, Index hidden, bool runs_original, Streams& streams) const;

 private:
  /// Forgets parts from the first damaged one on: later layers were computed from it. Each rank
  /// reads its share of them. Collective.
  void drop_damaged_parts(bool keeps_hessians);
  /// Forgets parts from the first one on whose tensors are others now. They are read again, but for
  /// a finished run whose checkpoint files have the same sizes and times. Collective.
  void drop_changed_parts();
  /// Checksums of the part's tensors. Collective.
  SourceChecksums sources_of(Index part) const;
  /// Whether model.h5 is what was merged from all parts.
  bool model_is_whole() const;
  std::vector<LogRow> load_once(Index part, Weights& weights,
                                const std::function<bool(Index expert)>& wanted) const;
  /// Writes the rows of this rank's lanes.
  void write_output(Index part, const Batch& batch, const Streams& streams) const;
  /// The part's file names of the ranks that wrote one. Collective.
  std::vector<std::string> written_files(Index part, bool mine) const;

  const Prepared& prepared_;
  RunDirectory directory_;
  std::unique_ptr<RunLock> lock_;  ///< on the first rank
  Manifest manifest_;
  Communicator& comm_;
  bool needs_merge_ = true;
  double lock_seconds_ = 0;
};

}  // namespace aq
