#pragma once
/// What the tensors of an export hold, beside the checkpoint.

#include "verify/export_files.h"
#include "verify/judge.h"

namespace aq {

/// Looks at one piece at a time; what it is given lives longer.
class PieceCheck {
 public:
  PieceCheck(const ExportManifest& manifest, const ModelFiles& source, const WeightFiles& files,
             Collector& collector)
      : manifest_(manifest), source_(source), files_(files), collector_(collector) {}

  /// Presence, dtypes, shapes, and every value. A tensor whose file is lost is passed over: the
  /// file has a finding of its own.
  void operator()(const ExpectedPiece& piece);

  /// The file that the tensor was written to; empty: not known.
  const std::string& file_of(const std::string& tensor) const;

 private:
  bool is_changed(const StoredPlace& place) const;
  Parts read_parts(const ExpectedPiece& piece, std::vector<std::string>& changed) const;
  void check_matrix(const ExpectedPiece& piece, const std::string& file);
  void check_fused(const ExpectedPiece& piece, const std::string& file);
  Parts read_slice(const ExpectedPiece& piece, const StoredPart& part) const;
  void check_untouched(const ExpectedPiece& piece, const std::string& file);
  /// Whether nothing was found.
  bool judge_linear(const MatrixForm& form, const LinearSpec& linear, const Known& known,
                    const std::string& file);
  bool check_rounded(const MatrixForm& form, const LinearSpec& linear, const std::string& file);
  Matrix source_weight(const LinearSpec& linear) const;
  Index first_difference(const ExpectedPiece& piece, const StoredPlace& place);
  std::vector<std::byte> made_of_source(const ExpectedPiece& piece) const;
  const RawTensor& raw_tensor(const std::string& name);

  const ExportManifest& manifest_;
  const ModelFiles& source_;
  const WeightFiles& files_;
  Collector& collector_;
  std::map<std::string, RawTensor> raw_;
};

}  // namespace aq
