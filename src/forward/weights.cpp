#include "aq/forward/weights.h"

#include <algorithm>

#include "aq/core/parallel.h"
#include "aq/io/weight_reader.h"
#include "aq/runtime/operations.h"

namespace aq {
void Weights::put(const std::string& name, QuantizedMatrix matrix,
                  std::optional<Scheme> activation) {
  quantized_.insert_or_assign(name, Quantized{std::move(matrix), activation});
}

UsedLinear Weights::used_as(const LinearSpec& linear, DType dtype) const {
  UsedLinear used{{}, read_bias(checkpoint_, model_, linear), std::nullopt};
  const auto found = quantized_.find(linear.name);
  if (found == quantized_.end()) {
    used.weight = Tensor::from(original_rows(linear, 0, linear.rows));
  } else {
    used.weight = Tensor(linear.rows, linear.columns);
    used.activation = found->second.activation;
    dequantize(found->second.matrix, used.weight.host());
  }
  if (dtype != DType::f32) used.weight = used.weight.as(dtype);
  return used;
}

Matrix Weights::original_rows(const LinearSpec& linear, Index begin, Index count) const {
  return read_weight_rows(checkpoint_, model_, linear, begin, count);
}

void Weights::read(std::span<const OriginalRows> wanted,
                   const std::function<void(Index, Matrix)>& use) const {
  parallel_for(std::ssize(wanted), [&](Index i) {
    const auto& [linear, rows] = wanted[i];
    use(i, original_rows(linear, rows.begin, rows.size()));
  });
}

std::vector<float> Weights::vector(const std::string& tensor, Index size) const {
  return checkpoint_.read(tensor, {size});
}

Tensor Weights::embeddings(std::span<const std::int32_t> tokens) const {
  std::vector<std::int32_t> used(tokens.begin(), tokens.end());
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  Matrix table(static_cast<Index>(used.size()), model_.hidden);
  for (Index i = 0; i < table.rows; ++i) {
    const Matrix row =
        checkpoint_.read_rows(model_.embedding, model_.vocabulary, model_.hidden, used[i], 1);
    std::copy(row.values.begin(), row.values.end(), table.view().row(i).begin());
  }
  std::vector<std::int32_t> places;
  places.reserve(tokens.size());
  for (const std::int32_t token : tokens)
    places.push_back(checked_cast<std::int32_t>(std::lower_bound(used.begin(), used.end(), token) -
                                                used.begin()));
  return runtime::embed(Tensor::from(std::move(table)), places, Storage::offload);
}

}  // namespace aq
