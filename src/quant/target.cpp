#include "quant/target.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "aq/core/finite.h"
#include "aq/core/parallel.h"
#include "quant/blas.h"
#include "quant/damped_sum.h"
#include "quant/solve_task.h"

namespace aq {
namespace {

constexpr Index kRowsAtOnce = 256;  ///< of a sum, that one thread works on
constexpr float kOne = 1;

/// rows += dᵀ x.
void add_product(MatrixView<const float> d, MatrixView<const float> x, MatrixView<float> rows) {
  const auto count = checked_cast<int>(rows.rows), width = checked_cast<int>(x.columns);
  const auto depth = checked_cast<int>(x.rows), d_stride = checked_cast<int>(d.stride);
  const auto x_stride = checked_cast<int>(x.stride), stride = checked_cast<int>(rows.stride);
  sgemm_("N", "T", &width, &count, &depth, &kOne, x.data, &x_stride, d.data, &d_stride, &kOne,
         rows.data, &stride);
}

/// rows = rows (U Uᵀ)⁻¹.
void solve_rows(const Matrix& upper, MatrixView<float> rows) {
  const auto n = checked_cast<int>(upper.columns), count = checked_cast<int>(rows.rows);
  const auto stride = checked_cast<int>(rows.stride);
  for (const char* transpose : {"T", "N"})
    strsm_("L", "L", transpose, "N", &n, &count, &kOne, upper.values.data(), &n, rows.data,
           &stride);
}

/// to = from C.
void multiply(MatrixView<const float> from, const Matrix& c, MatrixView<float> to) {
  constexpr float kZero = 0;
  const auto n = checked_cast<int>(c.columns), count = checked_cast<int>(from.rows);
  const auto from_stride = checked_cast<int>(from.stride), stride = checked_cast<int>(to.stride);
  sgemm_("N", "N", &n, &count, &n, &kOne, c.values.data(), &n, from.data, &from_stride, &kZero,
         to.data, &stride);
}

/// Column i of each row becomes what column order[i] was; with `back` it goes there.
void reorder(MatrixView<float> rows, std::span<const std::int32_t> order, bool back) {
  for (Index r = 0; r < rows.rows && !order.empty(); ++r) {
    const std::span<float> row = rows.row(r);
    const std::vector<float> old(row.begin(), row.end());
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto column = static_cast<std::size_t>(order[i]);
      if (back)
        row[column] = old[i];
      else
        row[i] = old[column];
    }
  }
}

/// target = weight + R Hλ⁻¹ of a tile of rows, which begin at row `first` of the matrix.
void aim(const Factor& factor, const WholeFactor& whole, MatrixView<const float> weight,
         Index first, MatrixView<float> target) {
  if (factor.cross_of == CrossSum::inputs)
    multiply(weight, *factor.lack, target);
  else
    for (Index r = 0; r < target.rows; ++r)
      std::ranges::copy(std::as_const(*factor.lack).view().row(first + r), target.row(r).begin());
  reorder(target, whole.order, false);
  solve_rows(whole.upper, target);
  reorder(target, whole.order, true);
  for (Index r = 0; r < target.rows; ++r)
    std::ranges::transform(weight.row(r), target.row(r), target.row(r).begin(), std::plus<>{});
}

}  // namespace

CrossTokens gather_cross(MatrixView<const float> d, MatrixView<const float> x,
                         std::span<const std::int32_t> rows, std::span<const float> weights) {
  AQ_CHECK(d.rows == x.rows, d.rows, " and ", x.rows, " tokens");
  const Index tokens = rows.empty() ? x.rows : std::ssize(rows);
  AQ_CHECK(weights.empty() || std::ssize(weights) == tokens, weights.size(), " weights");
  CrossTokens gathered{Matrix::uninitialized(tokens, d.columns),
                       Matrix::uninitialized(tokens, x.columns)};
  parallel_for(tokens, [&](Index t) {
    const auto i = static_cast<std::size_t>(t);
    const Index row = rows.empty() ? t : rows[i];
    AQ_CHECK(row >= 0 && row < x.rows, "token row ", row, " of ", x.rows);
    const float weight = weights.empty() ? 1.0F : weights[i];
    std::ranges::copy(d.row(row), gathered.d.view().row(t).begin());
    std::ranges::transform(x.row(row), gathered.x.view().row(t).begin(),
                           [weight](float value) { return weight * value; });
  });
  return gathered;
}

void accumulate_cross(WeightedSum& sum, const CrossTokens& tokens, double weight_sum) {
  const Index rows = tokens.d.columns, columns = tokens.x.columns;
  if (tokens.x.rows == 0) return;
  sum.make_room(rows * columns);
  parallel_for(ceil_div(rows, kRowsAtOnce), [&](Index i) {
    const Index first = i * kRowsAtOnce, count = std::min(kRowsAtOnce, rows - first);
    add_product(tokens.d.view().slice_columns(first, count), tokens.x.view(),
                {sum.values.data() + first * columns, count, columns, columns});
  });
  sum.weight_sum += weight_sum;
  sum.tokens += tokens.x.rows;
}

void take_cross(FactorTask& task) {
  const WeightedSum cross = std::move(task.cross);
  if (task.cross_of == CrossSum::none || cross.empty() || !task.factor.usable()) return;
  if (!all_finite(cross.values)) {
    task.factor = not_usable(task.factor, RtnReason::lack_not_finite);
    return;
  }
  task.factor.cross_of = task.cross_of;
  task.factor.lack = std::make_shared<Matrix>(
      Matrix::uninitialized(std::ssize(cross.values) / task.columns, task.columns));
  std::ranges::transform(
      cross.values, task.factor.lack->values.begin(),
      [scale = static_cast<float>(1 / cross.weight_sum)](float value) { return scale * value; });
}

void form_targets(std::span<SolveTask> tasks,
                  const std::function<WholeFactor(const Factor&)>& whole_factor) {
  struct Tile {
    SolveTask* task;
    std::size_t factor;
    Index first, count;
  };
  std::vector<const Factor*> factors;  // tasks of one factor follow each other
  std::vector<Tile> tiles;
  for (SolveTask& task : tasks) {
    const Factor* factor = usable_factor(task);
    if (factor == nullptr || factor->cross_of == CrossSum::none) continue;
    if (factors.empty() || factors.back() != factor) factors.push_back(factor);
    task.target = Matrix::uninitialized(task.weight.rows, task.weight.columns);
    for (Index first = 0; first < task.weight.rows; first += kRowTile)
      tiles.push_back(
          {&task, factors.size() - 1, first, std::min(kRowTile, task.weight.rows - first)});
  }
  std::vector<WholeFactor> whole(factors.size());
  parallel_for(std::ssize(factors), [&](Index i) { whole[i] = whole_factor(*factors[i]); });
  parallel_for(std::ssize(tiles), [&](Index i) {
    const Tile& tile = tiles[i];
    SolveTask& task = *tile.task;
    aim(*factors[tile.factor], whole[tile.factor], task.weight.slice_rows(tile.first, tile.count),
        task.first_row + tile.first, task.target.view().slice_rows(tile.first, tile.count));
  });
}

std::int64_t lack_size(const Factor& factor) {
  return factor.lack ? std::ssize(factor.lack->values) : 0;
}

std::shared_ptr<Matrix> room_for_lack(const FactorHeader& header) {
  if (header.facts.cross_of == CrossSum::none) return nullptr;
  return std::make_shared<Matrix>(
      Matrix::uninitialized(header.sizes.back() / header.facts.columns, header.facts.columns));
}

Buffer lack_buffer(const Factor& factor) {
  return factor.lack ? host_buffer(std::span(factor.lack->values)) : Buffer{};
}

}  // namespace aq
