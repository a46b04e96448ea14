#include "aq/forward/decoder_layer.h"
#include "aq/forward/finite.h"
#include "aq/forward/shared_input.h"
#include "aq/runtime/operations.h"
#include "forward/heads.h"

namespace aq {
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
      runtime::attention(make_heads.attention(group), vectors.view(), std::move(heads.q),
                         std::move(heads.k), std::move(heads.v), out.window());
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
