#pragma once
/// Kept Hessian sums: `/hessians/<dotted name of the first linear that uses it>/upper` with
/// attributes weight_sum, tokens, used_by, starved and checksum, and beside it `cross` where
/// targets came from the original model and `output_factor` where rows are refined together.
/// Written by MatrixWriter::write_hessian.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "aq/core/matrix_view.h"

namespace aq {

/// A raw sum Σ s^p x xᵀ.
struct NamedHessian {
  std::string name;                  ///< of the first linear that uses it
  std::vector<std::string> used_by;  ///< all linears with this input
  /// float32, the upper triangle row by row in natural column order; empty without tokens.
  std::vector<float> upper = {};
  double weight_sum = 0;  ///< Σ s^p
  std::int64_t tokens = 0;
  std::string starved = "none";  ///< what was done with a starved expert
  Matrix cross = {};  ///< Solver::add_cross, over the same tokens; no rows where there is none
  Matrix output_factor = {};  ///< add_outputs, `[., kRowTile]`, over the same tokens; likewise
};

/// Reads kept sums; everything that comes from the file is checked (Error{input} names file, object
/// and reason).
class HessianReader {
 public:
  explicit HessianReader(const std::filesystem::path& path);
  ~HessianReader();
  HessianReader(HessianReader&&) noexcept;
  HessianReader& operator=(HessianReader&&) noexcept;

  const std::filesystem::path& path() const;
  /// Names in the order in which they were written.
  const std::vector<std::string>& names() const;
  /// All but the sums themselves; of the output factor its shape.
  NamedHessian describe(const std::string& name) const;
  /// @pre the linears have `columns` inputs
  NamedHessian read(const std::string& name, Index columns) const;
  /// Reads every sum and checks it against its checksum.
  void verify() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace aq
