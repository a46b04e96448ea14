#include <algorithm>
#include <optional>

#include "aq/forward/decoder_layer.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/runtime/operations.h"
#include "aq/runtime/workspace.h"

namespace aq {
namespace {

/// q, k and v of one sequence, before norms and rotation.
struct Heads {
  Tensor q, k, v;
};

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

/// The linears that make q, k and v.
class HeadMaker {
 public:
  HeadMaker(const Model& model, const LayerSpec& layer, const Weights& weights)
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

  /// The heads that are made at one time: all that share norms, a few of those of latents.
  std::vector<Range> groups() const {
    const Index heads = layer_.attention.heads;
    if (!layer_.latent) return {{0, heads}};
    std::vector<Range> groups;
    for (Index begin = 0; begin < heads; begin += runtime::kLatentHeads)
      groups.push_back({begin, std::min(heads, begin + runtime::kLatentHeads)});
    return groups;
  }

  /// @param group  one of groups()
  Heads operator()(const Tensor& x, const Latents& latents, Range rows, Range group) const {
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

 private:
  const LayerSpec& layer_;
  RmsNorm norm_;
  UsedLinear q_, k_, v_, kv_b_;
};

/// Norms and sinks of the heads.
struct HeadVectors {
  HeadVectors(const LayerSpec& layer, const Weights& weights) {
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
  runtime::AttentionVectors view() const { return {q_norm, k_norm, sinks}; }

  std::vector<float> q_norm, k_norm, sinks;
};

}  // namespace

LinearInput DecoderLayer::attention_input(const Tensor& x) const {
  return {x, RmsNorm(model, weights, spec.input_norm)};
}

Latents DecoderLayer::latents(const Tensor& x) const {
  if (!spec.latent || batch.rows() == 0) return {};
  const LatentHeads& latent = *spec.latent;
  const RmsNorm norm(model, weights, spec.input_norm);
  const UsedLinear kv_a = weights.used(latent.kv_a);
  const std::vector<float> kv_norm = weights.vector(latent.kv_a_norm, latent.rank());
  UsedLinear q_a;
  std::vector<float> q_norm;
  Latents made;
  const auto of_all_tokens = [&](Index width) {
    return Tensor(batch.rows(), width, x.kind(), Storage::offload);
  };
  made.kv = of_all_tokens(latent.rank());
  made.rope_key = of_all_tokens(latent.rope_dim());
  if (latent.q_a) {
    q_a = weights.used(*latent.q_a);
    q_norm = weights.vector(latent.q_a_norm, latent.q_a->rows);
    made.q = of_all_tokens(latent.q_a->rows);
  }
  runtime::for_each_range(batch.sequence_rows, [&](Index, Range rows) {
    SharedInput input(norm(x.window(rows)));
    if (latent.q_a) {
      input.multiply(q_a, made.q.window(rows));
      const Tensor q = made.q.window(rows);
      runtime::rms_norm(q, q_norm, latent.norm_eps, made.q.window(rows));
    }
    const Tensor kv = input.multiply(kv_a);
    runtime::rms_norm(kv.window_columns(0, latent.rank()), kv_norm, latent.norm_eps,
                      made.kv.window(rows));
    runtime::copy(kv.window_columns(latent.rank(), latent.rope_dim()), made.rope_key.window(rows));
  });
  return made;
}

std::vector<LinearInput> DecoderLayer::latent_inputs(const Latents& latents) const {
  if (!spec.latent) return {};
  const LinearInput kv{latents.kv};
  if (!spec.latent->q_a) return {kv};
  return {LinearInput{latents.q}, kv};
}

Tensor DecoderLayer::attention_core(const Tensor& x, Latents latents) const {
  Tensor core(batch.rows(), spec.attention.out_width(), weights.kind(), Storage::offload);
  if (batch.rows() == 0) return core;
  const HeadMaker make_heads(model, spec, weights);
  const HeadVectors vectors(spec, weights);
  runtime::for_each_range(batch.sequence_rows, [&](Index, Range rows) {
    for (const Range& group : make_heads.groups()) {
      Heads heads = make_heads(x, latents, rows, group);
      const Index width = spec.attention.value_dim;
      const Tensor to = std::as_const(core).window(rows).window_columns(group.begin * width,
                                                                        group.size() * width);
      const bool apart = to.kind() != x.kind();
      const Tensor out = apart ? Tensor(rows.size(), to.columns()) : to.window();
      const AttentionSpec attention = spec.latent ? part_of(spec.attention, group) : spec.attention;
      runtime::attention(attention, vectors.view(), std::move(heads.q), std::move(heads.k),
                         std::move(heads.v), out.window());
      note_finite(ForwardPart::attention, out);
      if (apart) runtime::copy(out, to.window());
    }
  });
  return core;
}

void DecoderLayer::add_attention_output(Tensor core, Tensor& x) const {
  if (batch.rows() == 0) return;
  const UsedLinear used = weights.used(spec.o);
  runtime::for_each_range(batch.sequence_rows, [&](Index, Range rows) {
    runtime::add(SharedInput(std::as_const(core).window(rows)).multiply(used), x.window(rows));
    note_finite(ForwardPart::attention_output, x.window(rows));
  });
}

}  // namespace aq
