#include "runtime/rope.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <mutex>
#include <numbers>

#include "aq/core/error.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

/// Tables that are kept.
constexpr std::size_t kKeptTables = 4;

/// theta^(2j/dims): the positions in which pair j turns by one radian.
std::vector<float> radian_positions(const RopeSpec& spec) {
  std::vector<float> result(spec.dims / 2);
  for (std::size_t j = 0; j < result.size(); ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(spec.dims);
    result[j] = static_cast<float>(std::pow(spec.theta, static_cast<double>(exponent)));
  }
  return result;
}

/// Llama 3.1: long waves are stretched by `factor`, short ones kept, those between blended.
float llama3_frequency(const RopeSpec& spec, float frequency) {
  const auto factor = static_cast<float>(spec.factor);
  const auto low = static_cast<float>(spec.low_frequency_factor);
  const auto original = static_cast<float>(spec.original_positions);
  const float wave = 1.0F / frequency * static_cast<float>(2 * std::numbers::pi);
  if (wave > static_cast<float>(spec.original_positions / spec.low_frequency_factor))
    return frequency / factor;
  if (wave < static_cast<float>(spec.original_positions / spec.high_frequency_factor))
    return frequency;
  const float kept = (1.0F / wave * original - low) /
                     static_cast<float>(spec.high_frequency_factor - spec.low_frequency_factor);
  return (1 - kept) * frequency / factor + kept * frequency;
}

/// Pairs over which YaRN goes from kept frequencies to stretched ones (arXiv:2309.00071, 3.2).
struct YarnRamp {
  double low = 0;
  double high = 0;
};

YarnRamp yarn_ramp(const RopeSpec& spec) {
  const auto dims = static_cast<double>(spec.dims);
  // the pair that makes so many turns in the original context
  const auto pair = [&](double turns) {
    return dims * std::log(spec.original_positions / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(spec.theta));
  };
  YarnRamp ramp = {pair(spec.beta_fast), pair(spec.beta_slow)};
  if (spec.truncate) ramp = {std::floor(ramp.low), std::ceil(ramp.high)};
  ramp = {std::max(ramp.low, 0.0), std::min(ramp.high, dims - 1)};
  if (ramp.low == ramp.high) ramp.high += 0.001;
  return ramp;
}

float yarn_frequency(const RopeSpec& spec, const YarnRamp& ramp, float j, float positions) {
  const float place = (j - static_cast<float>(ramp.low)) / static_cast<float>(ramp.high - ramp.low);
  const float kept = 1.0F - std::clamp(place, 0.0F, 1.0F);
  const float stretched = 1.0F / (static_cast<float>(spec.factor) * positions);
  return stretched * (1.0F - kept) + 1.0F / positions * kept;
}

RopeTable make_table(const RopeSpec& spec, Index positions) {
  RopeTable table{.spec = spec, .positions = positions};
  const std::vector<float> frequency = rope_frequencies(spec);
  const auto magnitude = static_cast<float>(spec.magnitude);
  table.cosine.reserve(static_cast<std::size_t>(positions) * frequency.size());
  table.sine.reserve(static_cast<std::size_t>(positions) * frequency.size());
  for (Index position = 0; position < positions; ++position)
    for (const float f : frequency) {
      const float angle = static_cast<float>(position) * f;
      table.cosine.push_back(magnitude * static_cast<float>(std::cos(static_cast<double>(angle))));
      table.sine.push_back(magnitude * static_cast<float>(std::sin(static_cast<double>(angle))));
    }
  return table;
}

/// @param back  by the negative angles
void turn(const RopeTable& table, Index head_dim, bool back, MatrixView<float> x) {
  const RopeSpec& spec = table.spec;
  const Index half = spec.dims / 2;
  AQ_CHECK(x.rows <= table.positions && x.columns % head_dim == 0, "x [", x.rows, ", ", x.columns,
           "], positions ", table.positions);
  AQ_CHECK(spec.begin >= 0 && spec.begin + spec.dims <= head_dim, "rotary dimensions from ",
           spec.begin, ", ", spec.dims, " of ", head_dim);
  std::vector<float> negative(back ? half : 0);
  for (Index t = 0; t < x.rows; ++t) {
    const float* cosine = table.cosine.data() + t * half;
    const float* sine = table.sine.data() + t * half;
    if (back) {
      std::transform(sine, sine + half, negative.begin(), std::negate<>{});
      sine = negative.data();
    }
    float* row = x.row(t).data() + spec.begin;
    for (Index head = 0; head < x.columns; head += head_dim) {
      if (spec.interleaved)
        rotate_pairs(row + head, cosine, sine, half);
      else
        rotate(row + head, row + head + half, cosine, sine, half);
    }
  }
}

}  // namespace

std::vector<float> rope_frequencies(const RopeSpec& spec) {
  AQ_CHECK(spec.dims >= 0 && spec.dims % 2 == 0 && spec.theta > 0, "dims ", spec.dims, ", theta ",
           spec.theta);
  const bool from_original =
      spec.scaling == RopeScaling::llama3 || spec.scaling == RopeScaling::yarn;
  AQ_CHECK(spec.factor > 0 && (!from_original || spec.original_positions > 0), "factor ",
           spec.factor, ", original positions ", spec.original_positions);
  std::vector<float> result = radian_positions(spec);
  const YarnRamp ramp = spec.scaling == RopeScaling::yarn ? yarn_ramp(spec) : YarnRamp{};
  for (std::size_t j = 0; j < result.size(); ++j) {
    const float frequency = 1.0F / result[j];
    switch (spec.scaling) {
      case RopeScaling::none:
        result[j] = frequency;
        break;
      case RopeScaling::linear:
        result[j] = frequency / static_cast<float>(spec.factor);
        break;
      case RopeScaling::llama3:
        result[j] = llama3_frequency(spec, frequency);
        break;
      case RopeScaling::yarn:
        result[j] = yarn_frequency(spec, ramp, static_cast<float>(j), result[j]);
        break;
    }
  }
  return result;
}

std::shared_ptr<const RopeTable> rope_table(const RopeSpec& spec, Index positions) {
  static std::mutex mutex;
  static std::vector<std::shared_ptr<const RopeTable>> kept;  // the one used last is first
  const std::lock_guard lock(mutex);
  std::shared_ptr<const RopeTable> table;
  const auto found = std::ranges::find_if(kept, [&](const auto& t) { return t->spec == spec; });
  if (found != kept.end()) {
    table = *found;
    kept.erase(found);
  }
  if (!table || table->positions < positions)
    table = std::make_shared<const RopeTable>(make_table(spec, positions));
  if (kept.size() == kKeptTables) kept.pop_back();
  kept.insert(kept.begin(), table);
  return table;
}

void rotate(const RopeTable& table, Index head_dim, MatrixView<float> x) {
  turn(table, head_dim, false, x);
}

void rotate_back(const RopeTable& table, Index head_dim, MatrixView<float> x) {
  turn(table, head_dim, true, x);
}

}  // namespace aq::runtime
