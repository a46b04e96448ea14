#include <algorithm>
#include <optional>

#include "aq/core/parallel.h"
#include "aq/forward/decoder_layer.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/runtime/pieces.h"
#include "forward/rows.h"

namespace aq {
namespace {

/// q, k and v of one sequence, before norms and rotation.
struct Heads {
  Matrix q, k, v;
};

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

  Heads operator()(const Matrix& x, const Latents& latents, Range rows) const {
    const AttentionSpec& attention = layer_.attention;
    Heads heads{Matrix(rows.size(), attention.q_width()), Matrix(rows.size(), attention.k_width()),
                Matrix(rows.size(), attention.v_width())};
    if (layer_.latent && layer_.latent->q_a)
      SharedInput(rows_of(latents.q, rows)).multiply(q_, heads.q.view());
    else
      from_layer_input(norm_(rows_of(x, rows)), heads);
    if (layer_.latent) {
      Matrix kv(rows.size(), layer_.latent->kv_b.rows);
      SharedInput(rows_of(latents.kv, rows)).multiply(kv_b_, kv.view());
      runtime::expand_latent(attention, kv.view(), rows_of(latents.rope_key, rows), heads.k.view(),
                             heads.v.view());
    }
    return heads;
  }

 private:
  void from_layer_input(const Matrix& normed, Heads& heads) const {
    SharedInput input(normed.view());
    input.multiply(q_, heads.q.view());
    if (layer_.latent) return;
    input.multiply(k_, heads.k.view());
    input.multiply(v_, heads.v.view());
  }

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

LinearInput DecoderLayer::attention_input(const Matrix& x) const {
  return {x, RmsNorm(model, weights, spec.input_norm)};
}

Latents DecoderLayer::latents(const Matrix& x) const {
  if (!spec.latent || batch.rows() == 0) return {};
  const LatentHeads& latent = *spec.latent;
  const RmsNorm norm(model, weights, spec.input_norm);
  const UsedLinear kv_a = weights.used(latent.kv_a);
  const std::vector<float> kv_norm = weights.vector(latent.kv_a_norm, latent.rank());
  UsedLinear q_a;
  std::vector<float> q_norm;
  Latents made;
  made.kv = Matrix(batch.rows(), latent.rank());
  made.rope_key = Matrix(batch.rows(), latent.rope_dim());
  if (latent.q_a) {
    q_a = weights.used(*latent.q_a);
    q_norm = weights.vector(latent.q_a_norm, latent.q_a->rows);
    made.q = Matrix(batch.rows(), latent.q_a->rows);
  }
  parallel_for(batch.sequence_count(), [&](Index sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    const Matrix normed = norm(rows_of(x, rows));
    SharedInput input(normed.view());
    if (latent.q_a) {
      const MatrixView<float> q = rows_of(made.q, rows);
      input.multiply(q_a, q);
      runtime::rms_norm(q, q_norm, latent.norm_eps, q);
    }
    Matrix kv(rows.size(), latent.kv_a.rows);
    input.multiply(kv_a, kv.view());
    runtime::rms_norm(kv.view().slice_columns(0, latent.rank()), kv_norm, latent.norm_eps,
                      rows_of(made.kv, rows));
    const auto rope_key = kv.view().slice_columns(latent.rank(), latent.rope_dim());
    for (Index i = 0; i < rows.size(); ++i)
      std::ranges::copy(rope_key.row(i), made.rope_key.view().row(rows.begin + i).begin());
  });
  return made;
}

std::vector<LinearInput> DecoderLayer::latent_inputs(const Latents& latents) const {
  if (!spec.latent) return {};
  const LinearInput kv{latents.kv};
  if (!spec.latent->q_a) return {kv};
  return {LinearInput{latents.q}, kv};
}

Matrix DecoderLayer::attention_core(const Matrix& x, Latents latents) const {
  Matrix core(batch.rows(), spec.attention.out_width());
  if (batch.rows() == 0) return core;
  const HeadMaker make_heads(model, spec, weights);
  const HeadVectors vectors(spec, weights);
  parallel_for(batch.sequence_count(), [&](Index sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    Heads heads = make_heads(x, latents, rows);
    runtime::attention(spec.attention, vectors.view(), heads.q.view(), heads.k.view(),
                       heads.v.view(), rows_of(core, rows));
    note_finite(ForwardPart::attention, rows_of(std::as_const(core), rows));
  });
  return core;
}

void DecoderLayer::add_attention_output(Matrix core, Matrix& x) const {
  if (batch.rows() == 0) return;
  const UsedLinear used = weights.used(spec.o);
  parallel_for(batch.sequence_count(), [&](Index sequence) {
    const Range rows = batch.rows_of_sequence(sequence);
    Matrix out(rows.size(), spec.o.rows);
    SharedInput(rows_of(std::as_const(core), rows)).multiply(used, out.view());
    const MatrixView<float> into = rows_of(x, rows);
    for (Index i = 0; i < rows.size() * into.columns; ++i)
      into.data[i] += out.values[static_cast<std::size_t>(i)];
    note_finite(ForwardPart::attention_output, into);
  });
}

}  // namespace aq
