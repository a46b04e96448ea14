#include "forward/heads.h"

#include <algorithm>

#include "aq/forward/shared_input.h"
#include "aq/runtime/workspace.h"

namespace aq {
namespace {

/// Outputs `rows` of a linear.
UsedLinear part_of(const UsedLinear& linear, Range rows) {
  UsedLinear part{linear.weight.window(rows), {}, linear.activation};
  if (!linear.bias.empty())
    part.bias.assign(linear.bias.begin() + rows.begin, linear.bias.begin() + rows.end);
  return part;
}

/// Attention of some of its heads, each of which has a kv head of its own.
AttentionSpec part_of(AttentionSpec spec, Range heads) {
  spec.heads = spec.kv_heads = heads.size();
  return spec;
}

}  // namespace

HeadMaker::HeadMaker(const Model& model, const LayerSpec& layer, const Weights& weights)
    : layer_(layer), norm_(model, weights, layer.input_norm) {
  if (layer.latent) {
    q_ = weights.used(layer.latent->q);
    kv_b_ = weights.used(layer.latent->kv_b);
  } else {
    q_ = weights.used(layer.heads->q);
    k_ = weights.used(layer.heads->k);
    v_ = weights.used(layer.heads->v);
  }
}

std::vector<Range> HeadMaker::groups() const {
  const Index heads = layer_.attention.heads;
  if (!layer_.latent) return {{0, heads}};
  std::vector<Range> groups;
  for (Index begin = 0; begin < heads; begin += runtime::kLatentHeads)
    groups.push_back({begin, std::min(heads, begin + runtime::kLatentHeads)});
  return groups;
}

AttentionSpec HeadMaker::attention(Range group) const {
  return layer_.latent ? part_of(layer_.attention, group) : layer_.attention;
}

Heads HeadMaker::operator()(const Tensor& x, const Latents& latents, Range rows,
                            Range group) const {
  if (!layer_.latent) {
    SharedInput input(norm_(x.window(rows)));
    return {input.multiply(q_), input.multiply(k_), input.multiply(v_)};
  }
  const auto outputs = [&](const UsedLinear& linear) {
    const Index width = linear.weight.rows() / layer_.attention.heads;
    return part_of(linear, {group.begin * width, group.end * width});
  };
  const Tensor kv = SharedInput(latents.kv.window(rows)).multiply(outputs(kv_b_));
  const AttentionSpec attention = part_of(layer_.attention, group);
  Heads heads{
      {}, Tensor(rows.size(), attention.k_width()), Tensor(rows.size(), attention.v_width())};
  runtime::expand_latent(attention, kv, latents.rope_key.window(rows), heads.k, heads.v);
  heads.q = layer_.latent->q_a ? SharedInput(latents.q.window(rows)).multiply(outputs(q_))
                               : SharedInput(norm_(x.window(rows))).multiply(outputs(q_));
  return heads;
}

HeadVectors::HeadVectors(const LayerSpec& layer, const Weights& weights) {
  const AttentionSpec& attention = layer.attention;
  const bool by_head = attention.qk_norm == QkNorm::head;
  if (attention.qk_norm != QkNorm::none) {
    q_norm =
        weights.vector(layer.heads->q_norm, by_head ? attention.head_dim : attention.q_width());
    k_norm =
        weights.vector(layer.heads->k_norm, by_head ? attention.head_dim : attention.k_width());
  }
  if (!layer.sinks.empty()) sinks = weights.vector(layer.sinks, attention.heads);
}

}  // namespace aq
