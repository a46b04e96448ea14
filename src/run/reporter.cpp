#include "aq/run/reporter.h"

#include <unistd.h>

#include <chrono>
#include <new>

#include "aq/comm/watchdog.h"
#include "aq/core/error.h"
#include "aq/core/host.h"
#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/io/file.h"

namespace aq {
namespace {

/// Seconds since 1970.
Index now() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(since).count();
}

/// Writes the file anew with `line` behind its whole lines: a line that was torn is dropped.
void append_line(const std::filesystem::path& file, const std::string& line) {
  std::string text = file_exists(file) ? read_text_file(file) : "";
  text.resize(text.rfind('\n') + 1);  // 0 where there is none
  write_text_file(file, text + line);
}

}  // namespace

void Reporter::at(Index layer, const std::string& what) {
  const std::string place = str("layer ", layer + 1, "/", layers_, what);
  set_work_place(place);
  progress_.at(layer, place);
}

void Reporter::layer_done(const LayerMetrics& metrics, const std::vector<LogRow>& rows) {
  if (!comm_.is_first()) return;
  progress_.step(layer_text(metrics, rows), !summarize(rows).fallbacks.empty());
  for (const LogRow& row : rows)
    if (row.stats.fallback != "none") last_fallback_ = str(row.name, ": ", row.stats.fallback);
  if (metrics.resumed)
    progress_.skip(metrics.layer + 1);
  else
    append_line(directory_.metrics(), metrics_line(metrics, rows));
  status("running", "", metrics.layer + 1);
}

void Reporter::session_done(const RunSummary& summary) {
  if (!comm_.is_first() || summary.parts == 0) return;
  append_line(directory_.sessions(), session_line(summary));
}

void Reporter::status(const std::string& state, const std::string& message, Index layer) {
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
                            .updated = now(),
                            .last_fallback = last_fallback_});
}

void Reporter::failed(const std::exception& reason, Index layer) {
  progress_.finish();
  if (comm_.size() == 1) {  // nobody else waits for its signs of life
    std::error_code ignored;
    std::filesystem::remove_all(directory_.heartbeats(), ignored);
  }
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

}  // namespace aq
