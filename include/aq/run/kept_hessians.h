#pragma once
/// Hessian sums that outlive their run: `quantize --keep-hessians` writes them, `quantize
/// --hessians RUN` quantizes from them.

#include <map>
#include <optional>

#include "aq/io/hessian_file.h"
#include "aq/io/matrix_file.h"
#include "aq/io/run_directory.h"
#include "aq/plan/plan.h"
#include "aq/recipe/assignments.h"
#include "aq/run/records.h"

namespace aq {

/// "layer 3", or "the head".
std::string part_text(Index part, Index layers);

/// Writes the sums that this rank owns, one file a layer.
class HessianKeeper {
 public:
  HessianKeeper(const RunDirectory& run, int rank) : run_(run), rank_(rank) {}

  /// The next sums are those of `part`.
  void start(Index part);
  void keep(const TaskPlan& task, const TaskSum& sum);
  /// Closes the part's file. False: this rank owned no sum, there is none.
  bool finish();

 private:
  const RunDirectory& run_;
  int rank_;
  Index part_ = 0;
  std::optional<MatrixWriter> writer_;
};

/// What the sums of a run depend on besides model and tokens, as fingerprint fields.
std::vector<std::pair<std::string, std::string>> calibration_fields(
    const QuantizeSettings& settings);

/// The kept sums of another run.
class KeptHessians {
 public:
  /// Throws Error{input} unless `directory` is a run that kept its Hessians in the original model.
  explicit KeptHessians(const std::filesystem::path& directory);

  /// A field of the run's fingerprint.
  const std::string& field(const std::string& name) const;
  Index number(const std::string& name) const;
  /// Error{input} naming the first field in which the sums are not those of the run `now`.
  void check_fields(const Manifest& now) const;
  /// What the sums are, and what they were made from, as one hash; where they lie is no part of it.
  std::string identity() const;
  /// Error{input} naming the first tensor that was another one when the sums were made; `sources`:
  /// read_sources of all parts.
  void check_sources(const std::vector<SourceChecksums>& sources) const;
  /// Error{input} naming the first matrix of the plan whose sum was not kept.
  void check_complete(const Plan& plan) const;

  /// Opens the files of one part: a layer, or the head behind the last one.
  void open(Index part);
  /// The sums of the open part that `rank` owns, and what is known of the others.
  std::vector<TaskSum> sums(const StagePlan& stage, int rank) const;

 private:
  void check_stage(const StagePlan& stage) const;
  const HessianReader& holder(const std::string& name) const;

  RunDirectory run_;
  Manifest manifest_;
  Index part_ = 0;
  std::vector<HessianReader> files_;
  std::map<std::string, std::size_t> file_of_;
};

}  // namespace aq
