#include "aq/forward/output_sums.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "aq/core/parallel.h"
#include "aq/quant/output_factor.h"
#include "forward/heads.h"

namespace aq {
namespace {

/// SplitMix64 (Steele, Lea and Flood 2014).
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// 1 or -1 for each position and channel of a sequence of the calibration data: the same on
/// whichever rank it lies.
Tensor draw_signs(Index layer, Index sequence, Index tokens, Index channels) {
  Tensor signs(tokens, channels);
  const MatrixView<float> to = signs.host();
  const std::uint64_t key =
      mixed(mixed(static_cast<std::uint64_t>(layer)) ^ static_cast<std::uint64_t>(sequence));
  std::uint64_t bits = 0;
  for (Index t = 0; t < tokens; ++t)
    for (Index c = 0; c < channels; ++c) {
      const Index number = t * channels + c;
      if (number % 64 == 0) bits = mixed(key ^ static_cast<std::uint64_t>(number / 64));
      to(t, c) = (bits >> (number % 64) & 1) != 0 ? 1.0F : -1.0F;
    }
  return signs;
}

/// The sums of single sequences.
class SequenceSums {
 public:
  SequenceSums(const DecoderLayer& layer, const Tensor& x, const Latents& latents,
               std::span<const OutputPlace> places, std::span<const Index> rows)
      : layer_(layer),
        x_(x),
        latents_(latents),
        places_(places),
        rows_(rows),
        make_heads_(layer.model, layer.spec, layer.weights),
        vectors_(layer.spec, layer.weights),
        o_(layer.weights.used(layer.spec.o)) {}

  /// Of each task, of one sequence of this rank.
  std::vector<WeightedSum> operator()(Index sequence) const {
    const Range tokens = layer_.batch.rows_of_sequence(sequence);
    std::vector<WeightedSum> sums(rows_.size());
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if (rows_[i] == 0) continue;
      sums[i].make_room(rows_[i] * kRowTile);
      sums[i].tokens = tokens.size();
      sums[i].weight_sum = static_cast<double>(tokens.size());
    }
    const Tensor signs = draw_signs(layer_.spec.index, layer_.batch.first_sequence + sequence,
                                    tokens.size(), o_.weight.rows())
                             .as(o_.weight.kind().dtype);
    for (const Range& group : make_heads_.groups()) add_group(tokens, group, signs, sums);
    return sums;
  }

 private:
  void add_group(Range tokens, Range group, const Tensor& signs,
                 std::vector<WeightedSum>& sums) const {
    const AttentionSpec attention = make_heads_.attention(group);
    Heads heads = make_heads_(x_, latents_, tokens, group);
    Tensor gradient(tokens.size(), attention.out_width());
    runtime::linear_gradient(
        signs, o_.weight.window_columns(group.begin * attention.value_dim, attention.out_width()),
        gradient.window());
    runtime::attention_gradient(attention, vectors_.view(), heads.q.window(), heads.k.window(),
                                heads.v.window(), gradient);
    add(0, heads.q, group.begin * attention.head_dim, sums);
    if (!layer_.spec.latent) {
      add(1, heads.k, 0, sums);
      add(2, heads.v, 0, sums);
      return;
    }
    const Index width = layer_.spec.latent->kv_b.rows / layer_.spec.attention.heads;
    Tensor kv(tokens.size(), group.size() * width);
    runtime::expand_latent_gradient(attention, heads.k, heads.v, kv.window());
    add(1, kv, group.begin * width, sums);
  }

  /// @param linear  its number
  /// @param first_row  of the outputs in `g`
  void add(std::size_t linear, const Tensor& g, Index first_row,
           std::vector<WeightedSum>& sums) const {
    const OutputPlace& place = places_[linear];
    if (place.task < 0) return;
    const MatrixView<float> sum(sums[place.task].values.data(), rows_[place.task], kRowTile);
    add_outputs(g.host(), first_row, sum.slice_rows(place.first_row + first_row, g.columns()));
  }

  const DecoderLayer& layer_;
  const Tensor& x_;
  const Latents& latents_;
  std::span<const OutputPlace> places_;
  std::span<const Index> rows_;
  HeadMaker make_heads_;
  HeadVectors vectors_;
  UsedLinear o_;
};

}  // namespace

std::vector<LanePartials> sum_outputs(const DecoderLayer& layer, const Tensor& x,
                                      const Latents& latents, std::span<const OutputPlace> places,
                                      std::span<const Index> rows) {
  const Batch& batch = layer.batch;
  if (batch.rows() == 0) return std::vector<LanePartials>(rows.size());
  const SequenceSums sums_of(layer, x, latents, places, rows);
  std::vector<TreeSum> trees(rows.size());
  std::vector<WeightedSum> of_lane(rows.size());
  Index lane = 0;
  const Index step = thread_count();
  for (Index first = 0; first < batch.sequence_count(); first += step) {
    std::vector<std::vector<WeightedSum>> made(std::min(step, batch.sequence_count() - first));
    parallel_for(std::ssize(made), [&](Index i) { made[i] = sums_of(first + i); });
    for (Index i = 0; i < std::ssize(made); ++i) {
      const bool ends = first + i + 1 == batch.lane_sequences[lane].end;
      for (std::size_t task = 0; task < rows.size(); ++task) {
        if (rows[task] == 0) continue;
        if (of_lane[task].empty())
          of_lane[task] = std::move(made[i][task]);
        else
          of_lane[task].add(made[i][task]);
        if (ends) trees[task].add_lane(batch.first_lane + lane, std::exchange(of_lane[task], {}));
      }
      if (ends) ++lane;
    }
  }
  std::vector<LanePartials> all;
  for (TreeSum& tree : trees) all.push_back(tree.take());
  return all;
}

}  // namespace aq
