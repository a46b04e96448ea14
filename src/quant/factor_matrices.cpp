#include "quant/factor_matrices.h"

#include "aq/quant/output_factor.h"
#include "quant/target.h"

namespace aq {
namespace {

constexpr std::size_t kLackAt = 4, kOutputAt = 5;  ///< in FactorHeader::sizes

std::int64_t size_of(const std::shared_ptr<Matrix>& matrix) {
  return matrix ? std::ssize(matrix->values) : 0;
}

std::shared_ptr<Matrix> room(std::int64_t size, Index columns) {
  if (size == 0) return nullptr;
  return std::make_shared<Matrix>(Matrix::uninitialized(size / columns, columns));
}

}  // namespace

void take_matrices(FactorTask& task) {
  take_cross(task);
  take_output(task);
}

void put_sizes(const Factor& factor, FactorHeader& header) {
  header.sizes[kLackAt] = size_of(factor.lack);
  header.sizes[kOutputAt] = size_of(factor.output_factor);
}

void make_matrices(const FactorHeader& header, Factor& factor) {
  factor.lack = room(header.sizes[kLackAt], header.facts.columns);
  factor.output_factor = room(header.sizes[kOutputAt], kRowTile);
}

void append_matrices(Factor& factor, std::vector<Buffer>& arrays) {
  for (const std::shared_ptr<Matrix>& matrix : {factor.lack, factor.output_factor})
    if (matrix) arrays.push_back(host_buffer(std::span(matrix->values)));
}

}  // namespace aq
