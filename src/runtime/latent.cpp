/// Keys and values of latent attention, from what its second projection gives.

#include <algorithm>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"

namespace aq::runtime {
namespace {

/// From one token's `kv` and `rope_key` to its `k` and `v`.
void expand_token(const AttentionSpec& spec, const float* kv, std::span<const float> rope_key,
                  float* k, float* v) {
  const Index plain = spec.head_dim - std::ssize(rope_key);
  for (Index h = 0; h < spec.heads; ++h) {
    std::copy_n(kv, plain, k);
    std::ranges::copy(rope_key, k + plain);
    std::copy_n(kv + plain, spec.value_dim, v);
    kv += plain + spec.value_dim;
    k += spec.head_dim;
    v += spec.value_dim;
  }
}

}  // namespace

void expand_latent(const AttentionSpec& spec, MatrixView<const float> kv,
                   MatrixView<const float> rope_key, MatrixView<float> k, MatrixView<float> v) {
  const Index plain = spec.head_dim - rope_key.columns;
  AQ_CHECK(spec.heads == spec.kv_heads && plain >= 0, "heads ", spec.heads, ", kv heads ",
           spec.kv_heads, ", head_dim ", spec.head_dim, ", rope_key ", rope_key.columns);
  AQ_CHECK(rope_key.rows == kv.rows && k.rows == kv.rows && v.rows == kv.rows, "tokens of kv ",
           kv.rows, ", rope_key ", rope_key.rows, ", k ", k.rows, ", v ", v.rows);
  AQ_CHECK(kv.columns == spec.heads * (plain + spec.value_dim) && k.columns == spec.k_width() &&
               v.columns == spec.v_width(),
           "kv ", kv.columns, ", k ", k.columns, ", v ", v.columns);
  for (Index t = 0; t < kv.rows; ++t)
    expand_token(spec, kv.row(t).data(), rope_key.row(t), k.row(t).data(), v.row(t).data());
}

void expand_latent_gradient(const AttentionSpec& spec, MatrixView<const float> k,
                            MatrixView<const float> v, MatrixView<float> kv) {
  const Index width = kv.columns / spec.heads, plain = width - spec.value_dim;
  AQ_CHECK(spec.heads == spec.kv_heads && plain >= 0 && plain <= spec.head_dim &&
               kv.columns == spec.heads * width,
           "kv ", kv.columns, " of ", spec.heads, " heads");
  AQ_CHECK(k.rows == kv.rows && v.rows == kv.rows && k.columns == spec.k_width() &&
               v.columns == spec.v_width(),
           "k ", k.columns, ", v ", v.columns);
  for (Index t = 0; t < kv.rows; ++t)
    for (Index h = 0; h < spec.heads; ++h) {
      float* to = kv.row(t).data() + h * width;
      std::copy_n(k.row(t).data() + h * spec.head_dim, plain, to);
      std::copy_n(v.row(t).data() + h * spec.value_dim, spec.value_dim, to + plain);
    }
}

}  // namespace aq::runtime
