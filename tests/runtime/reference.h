#pragma once
/// Slow and obvious forward pieces in double precision, and random inputs.

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "aq/core/matrix_view.h"
#include "aq/model/model.h"

namespace aq::reference {

/// [rows][columns]
using Rows = std::vector<std::vector<double>>;

inline Matrix random_matrix(Index rows, Index columns, unsigned seed, float spread = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, spread);
  Matrix matrix(rows, columns);
  for (float& value : matrix.values) value = normal(engine);
  return matrix;
}

inline Rows to_rows(MatrixView<const float> matrix) {
  Rows rows;
  for (Index r = 0; r < matrix.rows; ++r)
    rows.emplace_back(matrix.row(r).begin(), matrix.row(r).end());
  return rows;
}

/// The largest difference, relative to the largest value.
inline double difference(MatrixView<const float> got, const Rows& expected) {
  double largest = std::numeric_limits<double>::min();
  double worst = 0;
  for (Index r = 0; r < got.rows; ++r)
    for (Index c = 0; c < got.columns; ++c) {
      const double value = expected[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)];
      largest = std::max(largest, std::abs(value));
      const double error = std::abs(got(r, c) - value);
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
  return worst / largest;
}

inline Rows linear(const Rows& x, const Rows& weight) {
  Rows out;
  for (const auto& row : x) {
    out.emplace_back();
    for (const auto& w : weight) {
      double sum = 0;
      for (std::size_t i = 0; i < row.size(); ++i) sum += row[i] * w[i];
      out.back().push_back(sum);
    }
  }
  return out;
}

inline Rows rms_norm(Rows x, std::span<const float> weight, double eps) {
  for (auto& row : x) {
    double sum = 0;
    for (const double value : row) sum += value * value;
    const double root = std::sqrt(sum / static_cast<double>(row.size()) + eps);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = row[i] / root * weight[i];
  }
  return x;
}

inline void rotate(Rows& x, Index head_dim, double theta) {
  const auto d = static_cast<std::size_t>(head_dim);
  for (std::size_t t = 0; t < x.size(); ++t)
    for (std::size_t head = 0; head < x[t].size(); head += d)
      for (std::size_t j = 0; j < d / 2; ++j) {
        const double frequency =
            std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(d));
        const double angle = static_cast<double>(t) * frequency;
        const double a = x[t][head + j];
        const double b = x[t][head + j + d / 2];
        x[t][head + j] = a * std::cos(angle) - b * std::sin(angle);
        x[t][head + j + d / 2] = b * std::cos(angle) + a * std::sin(angle);
      }
}

/// One head of one query: softmax over the keys that it sees, times v.
inline void attend(const AttentionSpec& spec, const Rows& q, const Rows& k, const Rows& v,
                   std::size_t query, std::size_t head, Rows& out) {
  const auto d = static_cast<std::size_t>(spec.head_dim);
  const std::size_t kv = head / static_cast<std::size_t>(spec.heads / spec.kv_heads);
  std::vector<double> weight(query + 1, 0.0);
  double sum = 0;
  for (std::size_t key = 0; key <= query; ++key) {
    if (spec.sliding_window > 0 && query - key >= static_cast<std::size_t>(spec.sliding_window))
      continue;
    double score = 0;
    for (std::size_t i = 0; i < d; ++i) score += q[query][head * d + i] * k[key][kv * d + i];
    weight[key] = std::exp(score / std::sqrt(static_cast<double>(d)));
    sum += weight[key];
  }
  for (std::size_t i = 0; i < d; ++i) {
    double value = 0;
    for (std::size_t key = 0; key <= query; ++key) value += weight[key] / sum * v[key][kv * d + i];
    out[query][head * d + i] = value;
  }
}

inline Rows attention(const AttentionSpec& spec, std::span<const float> q_norm,
                      std::span<const float> k_norm, Rows q, Rows k, Rows v) {
  if (spec.qk_norm == QkNorm::projection) {
    q = rms_norm(q, q_norm, spec.norm_eps);
    k = rms_norm(k, k_norm, spec.norm_eps);
  }
  if (spec.clip_qkv)
    for (Rows* rows : {&q, &k, &v})
      for (auto& row : *rows)
        for (double& value : row) value = std::clamp(value, -*spec.clip_qkv, *spec.clip_qkv);
  rotate(q, spec.head_dim, spec.rope.theta);
  rotate(k, spec.head_dim, spec.rope.theta);
  Rows out(q.size(), std::vector<double>(q.empty() ? 0 : q[0].size()));
  for (std::size_t query = 0; query < q.size(); ++query)
    for (std::size_t head = 0; head < static_cast<std::size_t>(spec.heads); ++head)
      attend(spec, q, k, v, query, head, out);
  return out;
}

}  // namespace aq::reference
