#include "export/served_format.h"

#include <algorithm>
#include <set>

#include "aq/core/text.h"
#include "aq/export/export.h"
#include "export/bits.h"

namespace aq {
namespace {

std::vector<TensorEntry> bf16_entries(const StoredMatrix& matrix) {
  return {{matrix.name + ".weight", "BF16", {matrix.rows, matrix.columns}}};
}

std::vector<std::vector<std::byte>> bf16_pack(const QuantizedMatrix& matrix,
                                              const std::optional<Scheme>&) {
  Matrix values(matrix.rows, matrix.columns);
  dequantize(matrix, values.view());
  return {floats_as(DType::bf16, values.values)};
}

}  // namespace

Scheme served_scheme(const Scheme& scheme, Index columns) {
  Scheme served = scheme;
  if (!scheme.is_mx() && !scheme.is_nvfp4() && scheme.group_size > columns)
    served.group_size = kPerChannel;
  return served;
}

StoredMatrix stored_matrix(const LinearSpec& linear, const Scheme& scheme,
                           const std::optional<Scheme>& activation) {
  return {linear.name, linear.rows,       linear.columns, served_scheme(scheme, linear.columns),
          activation,  linear.expert >= 0};
}

std::vector<StoredMatrix> stored_matrices(const Model& model, const Assignments& assignments) {
  std::vector<StoredMatrix> matrices;
  for (const LinearSpec* linear : all_linears(model))
    if (const Assignment& one = assignments.of(*linear); one.method != Method::copy)
      matrices.push_back(stored_matrix(*linear, one.scheme, one.activation));
  return matrices;
}

ServedFormat bf16_format() {
  return {.name = "bf16",
          .plain = true,
          .problem = [](const StoredMatrix&) { return std::string(); },
          .entries = bf16_entries,
          .pack = bf16_pack,
          .configuration = [](const std::vector<StoredMatrix>&,
                              const std::vector<std::string>&) { return OrderedJson(); }};
}

const std::vector<ServedFormat>& served_formats() {
  static const std::vector<ServedFormat> formats{compressed_tensors_format(), gptq_format(),
                                                 gpt_oss_format(), bf16_format()};
  return formats;
}

std::vector<std::string_view> export_format_names() {
  std::vector<std::string_view> names;
  for (const ServedFormat& format : served_formats()) names.push_back(format.name);
  return names;
}

const ServedFormat& served_format(std::string_view name) {
  const auto found = std::ranges::find(served_formats(), name, &ServedFormat::name);
  if (found != served_formats().end()) return *found;
  const std::vector<std::string_view> names = export_format_names();
  std::string known;
  for (const std::string_view one : names) known += str(known.empty() ? "'" : ", '", one, "'");
  throw Error(ErrorKind::usage, "export", "--format",
              str("'", name, "' is none of ", known, did_you_mean(name, names)));
}

bool suits(const ServedFormat& format, const Model& model) {
  return !format.fused || (model.architecture == "gpt_oss" && model.fused);
}

std::vector<std::string> misfits(const ServedFormat& format, const Model& model,
                                 const std::vector<StoredMatrix>& matrices) {
  std::vector<std::string> reasons;
  std::set<std::string_view> stored;
  for (const StoredMatrix& matrix : matrices) {
    stored.insert(matrix.name);
    if (const std::string problem = format.problem(matrix); !problem.empty())
      reasons.push_back(str(matrix.name, ": ", problem));
  }
  if (!format.fused) return reasons;
  for (const LinearSpec* linear : all_linears(model))
    if (linear->expert >= 0 && !stored.contains(linear->name))
      reasons.push_back(str(linear->name, ": it is untouched, but it holds all experts alike"));
  return reasons;
}

}  // namespace aq
