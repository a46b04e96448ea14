#pragma once
/// What stored bytes stand for: every form of a quantized matrix, decoded code by code, after the
/// published descriptions of the formats.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "aq/formats/quantized_matrix.h"
#include "aq/io/safetensors_writer.h"

namespace aq {

/// value(r, c) = (element(r, c) - zero(r, g)) * scale(r, g), g = c / group.
struct MatrixForm {
  Index rows = 0, columns = 0;
  Index group = 1;  ///< columns that share a scale
  std::function<float(Index r, Index c)> element;
  std::function<float(Index r, Index g)> scale, zero;

  Index groups() const { return ceil_div(columns, group); }
  float value(Index r, Index c) const {
    return (element(r, c) - zero(r, c / group)) * scale(r, c / group);
  }
};

/// What is wrong with stored numbers; no kind: nothing.
struct Problem {
  std::string kind = {}, text = {};
  explicit operator bool() const { return !kind.empty(); }
};

/// The tensors that a server finds under "<name>.", by the rest of their names.
using Parts = std::map<std::string, std::vector<std::byte>>;

/// A matrix of model.h5, scales not divided by the global scale. Forms refer to what they are
/// given.
MatrixForm form_of(const QuantizedMatrix& stored);
Problem problem_of(const QuantizedMatrix& stored);

/// How a format of exports stores a linear.
struct ServedForm {
  std::string layout;  ///< of compressed-tensors ("pack-quantized", ...), "gptq", "gptq_v2",
                       ///< "gpt-oss" or "bf16"
  Scheme scheme;
  Index rows = 0, columns = 0;
};
/// The layout that compressed-tensors has for weights and inputs in these schemes.
std::string layout_name(const Scheme& scheme, const std::optional<Scheme>& activation);
/// Its tensors, named by what follows "<name>.", or "<name>_" in gpt-oss.
std::vector<TensorEntry> parts_of(const ServedForm& served);
/// @pre parts have the sizes of parts_of
MatrixForm form_of(const ServedForm& served, const Parts& parts);
Problem problem_of(const ServedForm& served, const Parts& parts);
/// Of scales and codes alone.
Problem problem_of(const MatrixForm& form, const Scheme& scheme);

}  // namespace aq
