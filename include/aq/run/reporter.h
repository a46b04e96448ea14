#pragma once
/// What a run tells while it goes: status.json, metrics.jsonl, sessions.jsonl and the lines on the
/// terminal.

#include <exception>
#include <string>
#include <vector>

#include "aq/comm/communicator.h"
#include "aq/core/log.h"
#include "aq/io/run_directory.h"
#include "aq/report/progress.h"
#include "aq/report/summary.h"

namespace aq {

/// The first rank's job; of the others only failures are written.
class Reporter {
 public:
  Reporter(const RunDirectory& directory, Index layers, Communicator& comm)
      : directory_(directory),
        layers_(layers),
        comm_(comm),
        progress_(layers, !comm.is_first() || log_level() < LogLevel::info) {}

  /// What is in work: layer `layer` from 0, and what of it.
  void at(Index layer, const std::string& what);
  void layer_done(const LayerMetrics& metrics, const std::vector<LogRow>& rows);
  /// Adds a line to sessions.jsonl when this start has quantized anything.
  void session_done(const RunSummary& summary);
  /// @param layer  layers that are done
  void status(const std::string& state, const std::string& message, Index layer);
  /// Writes what `aq-dist status` will say of a run that this error ends.
  void failed(const std::exception& reason, Index layer);
  void finish() { progress_.finish(); }

 private:
  const RunDirectory& directory_;
  Index layers_;
  Communicator& comm_;
  Progress progress_;
  std::string last_fallback_;
};

}  // namespace aq
