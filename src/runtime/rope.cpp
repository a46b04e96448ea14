#include "runtime/rope.h"

#include <cmath>
#include <mutex>

#include "aq/core/error.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

/// theta^(-2j/d), every step in fp32 as transformers computes it.
std::vector<float> inverse_frequencies(const RopeSpec& spec, Index head_dim) {
  std::vector<float> result(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t j = 0; j < result.size(); ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(head_dim);
    result[j] = 1.0F / static_cast<float>(std::pow(spec.theta, static_cast<double>(exponent)));
  }
  return result;
}

RopeTable make_table(const RopeSpec& spec, Index head_dim, Index positions) {
  RopeTable table{.spec = spec, .head_dim = head_dim, .positions = positions};
  const std::vector<float> frequency = inverse_frequencies(spec, head_dim);
  table.cosine.reserve(static_cast<std::size_t>(positions) * frequency.size());
  table.sine.reserve(static_cast<std::size_t>(positions) * frequency.size());
  for (Index position = 0; position < positions; ++position)
    for (const float f : frequency) {
      const float angle = static_cast<float>(position) * f;
      table.cosine.push_back(static_cast<float>(std::cos(static_cast<double>(angle))));
      table.sine.push_back(static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  return table;
}

}  // namespace

std::shared_ptr<const RopeTable> rope_table(const RopeSpec& spec, Index head_dim, Index positions) {
  static std::mutex mutex;
  static std::shared_ptr<const RopeTable> kept;
  const std::lock_guard lock(mutex);
  if (!kept || kept->spec != spec || kept->head_dim != head_dim || kept->positions < positions)
    kept = std::make_shared<const RopeTable>(make_table(spec, head_dim, positions));
  return kept;
}

void rotate(const RopeTable& table, MatrixView<float> x) {
  const Index half = table.head_dim / 2;
  AQ_CHECK(x.rows <= table.positions && x.columns % table.head_dim == 0, "x [", x.rows, ", ",
           x.columns, "], positions ", table.positions);
  for (Index t = 0; t < x.rows; ++t) {
    const float* cosine = table.cosine.data() + t * half;
    const float* sine = table.sine.data() + t * half;
    float* row = x.row(t).data();
    for (Index head = 0; head < x.columns; head += table.head_dim)
      rotate(row + head, row + head + half, cosine, sine, half);
  }
}

}  // namespace aq::runtime
