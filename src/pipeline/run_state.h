#pragma once
/// The run directory during a run: what is complete, what is written when.

#include "aq/io/run_directory.h"
#include "aq/io/run_lock.h"
#include "aq/pipeline/quantize.h"
#include "pipeline/layer.h"

namespace aq {

class RunState {
 public:
  /// Creates the directory or checks that the run in it is this one, and locks it for as long as
  /// this object lives. Collective.
  RunState(const QuantizeOptions& options, Manifest manifest, Communicator& comm);

  const RunDirectory& directory() const { return directory_; }
  bool complete(Index part) const;
  bool all_complete() const {
    return static_cast<Index>(manifest_.complete.size()) == manifest_.layers + 1;
  }
  Index complete_count() const { return static_cast<Index>(manifest_.complete.size()); }

  /// Puts the matrices of a complete part into `weights`; their rows for the log.
  std::vector<LogRow> load(Index part, Weights& weights) const;
  /// Writes this rank's shard, and, when all ranks have, the part into the manifest. Collective.
  /// `kept_hessians`: whether this rank wrote a file of the part's Hessians; nothing where no rank
  /// was asked to.
  std::vector<LogRow> save(Index part, std::vector<QuantizedRecord> records,
                           std::optional<bool> kept_hessians);

 private:
  /// The part's file names of the ranks that wrote one. Collective.
  std::vector<std::string> written_files(Index part, bool mine) const;

  RunDirectory directory_;
  std::unique_ptr<RunLock> lock_;  ///< on the first rank
  Manifest manifest_;
  Communicator& comm_;
};

}  // namespace aq
