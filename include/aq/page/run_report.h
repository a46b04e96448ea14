#pragma once
/// A run as values: what its directory and its checkpoint tell, before any of it is made a page.

#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "aq/export/servability.h"
#include "aq/io/quantized_run.h"
#include "aq/report/summary.h"

namespace aq {

/// How many linears of a module_kind there are to which the same is done, in the order of the
/// model.
using KindCounts = std::vector<std::pair<std::array<std::string, 2>, Index>>;
/// Adds one.
void count_kind(const std::string& kind, const std::string& what, KindCounts& counts);

/// What only the checkpoint tells of a run.
struct SourceFacts {
  std::string architecture;
  Index parameters = 0;
  std::map<std::string, double> stored_bytes;  ///< of each linear to quantize, by its name
  KindCounts assigned;                         ///< untouched linears too
  std::vector<Verdict> verdicts;               ///< of every target
};

struct RunReport {
  std::string label;  ///< short, and no other run's of one page
  std::filesystem::path directory;
  Manifest manifest;
  std::optional<RunStatus> status;  ///< what was written last; of a killed run "running"
  bool merged = false;              ///< the log is quant_log.csv, else what the shards say
  std::vector<LogRow> log;
  std::map<Index, LayerMetrics> layers;  ///< where they are recorded
  std::vector<RunSummary> sessions;      ///< empty: not recorded
  Index source_bytes = 0;                ///< of the checkpoint's files; 0: not recorded
  Index model_bytes = 0;                 ///< of model.h5; 0: there is none
  std::optional<SourceFacts> source;
  std::string no_source;  ///< why not

  bool finished() const;
  /// Complete layers, without the head.
  Index complete_layers() const;
  /// The start that quantized most; null: not recorded.
  const RunSummary* session() const;
  /// What the run was told, or one of its fingerprint; empty where that is not known.
  std::string told(std::string_view key) const;
  std::string identity(std::string_view key) const;
};

/// A linear's name without what numbers its layer and expert: "mlp.experts.*.up_proj", "lm_head".
std::string module_kind(const std::string& name, Index layer, Index expert);

/// Reads a run, finished or not. Throws Error{input} for what is no run, or is damaged. That the
/// checkpoint cannot be read is no error: then there are no SourceFacts.
RunReport read_run_report(const std::filesystem::path& directory, const SourceChoice& choice);
/// Gives every run the shortest end of its path that no other one has.
void label_runs(std::vector<RunReport>& runs);

}  // namespace aq
