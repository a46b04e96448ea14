#pragma once
/// Slow and obvious forward pieces in double precision, and random inputs.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <random>
#include <span>
#include <vector>

#include "aq/core/matrix_view.h"
#include "aq/model/model.h"
#include "aq/runtime/pieces.h"

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
      const double value = expected[r][c];
      largest = std::max(largest, std::abs(value));
      const double error = std::abs(got(r, c) - value);
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
    }
  return worst / largest;
}

/// Heads of one width, scores divided by its root, all of it rotated.
inline AttentionSpec plain_attention(Index heads, Index kv_heads, Index head_dim) {
  AttentionSpec spec;
  spec.heads = heads;
  spec.kv_heads = kv_heads;
  spec.head_dim = spec.value_dim = spec.rope.dims = head_dim;
  spec.scale = 1 / std::sqrt(static_cast<double>(head_dim));
  return spec;
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

/// Angle per position of pair j: theta^(-2j/dims), scaled.
inline double rope_frequency(const RopeSpec& spec, double j) {
  constexpr double kTurn = 2 * std::numbers::pi;
  const auto dims = static_cast<double>(spec.dims);
  const double plain = std::pow(spec.theta, -2 * j / dims);
  if (spec.scaling == RopeScaling::none) return plain;
  if (spec.scaling == RopeScaling::linear) return plain / spec.factor;
  double kept = 0;  // the share of the frequency that is not divided by the factor
  if (spec.scaling == RopeScaling::llama3) {
    const double turns = spec.original_positions * plain / kTurn;
    kept = (turns - spec.low_frequency_factor) /
           (spec.high_frequency_factor - spec.low_frequency_factor);
  } else {
    // solves original_positions * theta^(-2j/dims) = turns * 2 pi for j
    const auto pair_of = [&](double turns) {
      return dims / 2 * std::log(spec.original_positions / kTurn / turns) / std::log(spec.theta);
    };
    double low = pair_of(spec.beta_fast), high = pair_of(spec.beta_slow);
    if (spec.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, dims - 1);
    if (low == high) high += 0.001;
    kept = (high - j) / (high - low);
  }
  kept = std::clamp(kept, 0.0, 1.0);
  return plain * kept + plain / spec.factor * (1 - kept);
}

inline void rotate(Rows& x, const RopeSpec& spec, Index head_dim) {
  const auto d = static_cast<std::size_t>(head_dim);
  const auto begin = static_cast<std::size_t>(spec.begin);
  const auto half = static_cast<std::size_t>(spec.dims) / 2;
  for (std::size_t t = 0; t < x.size(); ++t)
    for (std::size_t head = 0; head < x[t].size(); head += d)
      for (std::size_t j = 0; j < half; ++j) {
        const double angle = static_cast<double>(t) * rope_frequency(spec, static_cast<double>(j));
        const double cosine = spec.magnitude * std::cos(angle);
        const double sine = spec.magnitude * std::sin(angle);
        const std::size_t first = head + begin + (spec.interleaved ? 2 * j : j);
        const std::size_t second = spec.interleaved ? first + 1 : first + half;
        const double a = x[t][first];
        const double b = x[t][second];
        x[t][first] = a * cosine - b * sine;
        x[t][second] = b * cosine + a * sine;
      }
}

/// One head of one query: softmax over the keys that it sees and its sink, times v.
inline void attend(const AttentionSpec& spec, std::span<const float> sinks, const Rows& q,
                   const Rows& k, const Rows& v, std::size_t query, std::size_t head, Rows& out) {
  const auto d = static_cast<std::size_t>(spec.head_dim);
  const auto width = static_cast<std::size_t>(spec.value_dim);
  const std::size_t kv = head / static_cast<std::size_t>(spec.heads / spec.kv_heads);
  std::vector<double> weight(query + 1, 0.0);
  double sum = sinks.empty() ? 0.0 : std::exp(double{sinks[head]});
  for (std::size_t key = 0; key <= query; ++key) {
    if (spec.sliding_window > 0 && query - key >= static_cast<std::size_t>(spec.sliding_window))
      continue;
    double score = 0;
    for (std::size_t i = 0; i < d; ++i) score += q[query][head * d + i] * k[key][kv * d + i];
    weight[key] = std::exp(score * spec.scale);
    sum += weight[key];
  }
  for (std::size_t i = 0; i < width; ++i) {
    double value = 0;
    for (std::size_t key = 0; key <= query; ++key)
      value += weight[key] / sum * v[key][kv * width + i];
    out[query][head * width + i] = value;
  }
}

/// The norm of each head by itself.
inline Rows rms_norm_of_heads(Rows x, std::span<const float> weight, double eps) {
  for (auto& row : x)
    for (auto head = row.begin(); head != row.end(); head += std::ssize(weight)) {
      const Rows normed = rms_norm({{head, head + std::ssize(weight)}}, weight, eps);
      std::ranges::copy(normed[0], head);
    }
  return x;
}

inline Rows attention(const AttentionSpec& spec, const runtime::AttentionVectors& vectors, Rows q,
                      Rows k, Rows v) {
  if (spec.qk_norm == QkNorm::projection) {
    q = rms_norm(q, vectors.q_norm, spec.norm_eps);
    k = rms_norm(k, vectors.k_norm, spec.norm_eps);
  } else if (spec.qk_norm == QkNorm::head) {
    q = rms_norm_of_heads(q, vectors.q_norm, spec.norm_eps);
    k = rms_norm_of_heads(k, vectors.k_norm, spec.norm_eps);
  }
  if (spec.clip_qkv)
    for (Rows* rows : {&q, &k, &v})
      for (auto& row : *rows)
        for (double& value : row) value = std::clamp(value, -*spec.clip_qkv, *spec.clip_qkv);
  rotate(q, spec.rope, spec.head_dim);
  rotate(k, spec.rope, spec.head_dim);
  Rows out(q.size(), std::vector<double>(spec.out_width()));
  for (std::size_t query = 0; query < q.size(); ++query)
    for (std::size_t head = 0; head < static_cast<std::size_t>(spec.heads); ++head)
      attend(spec, vectors.sinks, q, k, v, query, head, out);
  return out;
}

}  // namespace aq::reference
