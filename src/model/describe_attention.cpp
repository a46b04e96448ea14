#include <algorithm>
#include <cmath>

#include "aq/core/text.h"
#include "model/describe.h"

namespace aq {
namespace {

/// The window of the layers that have one; 0: none has.
Index window_size(const Source& source) {
  const ConfigReader& config = source.config;
  const ConfigKeys& keys = source.row.keys;
  const Flag& flag = source.row.sliding_window;
  bool none = !config.get(flag);
  if (!none) {
    const std::string key = config.first_of(keys.window.keys);
    if (!key.empty()) return config.positive(key);
    for (const std::string& null_key : keys.window.keys) none = none || config.is_null(null_key);
  }
  if (!none) return keys.window.otherwise;
  if (!flag.key.empty()) config.disregard(keys.window.keys);
  if (!flag.key.empty()) config.disregard(keys.max_window_layers.keys);
  return 0;
}

/// Whether the family gives the layer a window, where there is one.
bool is_windowed_by_rule(const Source& source, Index layer) {
  const Size& last = source.row.keys.max_window_layers;
  switch (source.row.windowed_layers) {
    case WindowedLayers::all:
      return true;
    case WindowedLayers::even:
      return layer % 2 == 0;
    case WindowedLayers::from_max_window_layers:
      return layer >= source.config.count_or(last.keys, last.otherwise);
    case WindowedLayers::even_below_max_window_layers:
      return layer % 2 == 0 && layer < source.config.count_or(last.keys, last.otherwise);
  }
  return false;
}

/// What layer_types says of the layer; nothing without it.
std::optional<bool> is_windowed_by_type(const Source& source, Index layer) {
  const ConfigReader& config = source.config;
  if (!config.has("layer_types")) return std::nullopt;
  const Json& types = config.json().at("layer_types");
  if (!types.is_array() || static_cast<Index>(types.size()) != config.get(source.row.keys.layers))
    config.fail("layer_types", "is not a list with one text for each layer");
  const Json& type = types.at(static_cast<std::size_t>(layer));
  if (type != "sliding_attention" && type != "full_attention")
    config.fail("layer_types", str("holds ", type.dump(), " for layer ", layer,
                                   "; known are 'full_attention' and 'sliding_attention'"));
  return type == "sliding_attention";
}

Index read_window(const Source& source, Index layer) {
  const ConfigReader& config = source.config;
  const Architecture& row = source.row;
  const Index size = window_size(source);
  const auto by_type = is_windowed_by_type(source, layer);
  bool windowed = size > 0 && is_windowed_by_rule(source, layer);
  if (by_type && row.layer_types && size > 0) {
    config.disregard(row.keys.max_window_layers.keys);
    windowed = *by_type;
  }
  if (by_type && *by_type != windowed)
    config.fail("layer_types", str("says that layer ", layer, " has ", windowed ? "no " : "a ",
                                   "window, but after the keys of ", row.name, " it has ",
                                   windowed ? "one" : "none"));
  const bool some = config.get(row.sliding_window) && row.windowed_layers != WindowedLayers::all &&
                    row.windowed_layers != WindowedLayers::from_max_window_layers;
  if (some && size == 0 && !by_type)
    config.fail("sliding_window", str("is null, but layers of ", row.name, " have a window"));
  if (row.sliding_window.key.empty())
    config.agree("use_sliding_window", size > 0,
                 str("after the other keys of ", row.name, " it is otherwise"));
  return windowed ? size : 0;
}

/// heads, kv_heads and head_dim of projected heads.
void read_heads(const Source& source, Index hidden, AttentionSpec& attention) {
  const ConfigReader& config = source.config;
  const ConfigKeys& keys = source.row.keys;
  const std::string heads = config.first_of(keys.heads.keys);
  const std::string kv_heads = config.first_of(keys.kv_heads);
  const std::string head_dim = config.first_of(keys.head_dim.keys);
  attention.kv_heads = kv_heads.empty() ? attention.heads : config.positive(kv_heads);
  if (attention.heads % attention.kv_heads != 0)
    config.fail(kv_heads, str("is ", attention.kv_heads, ", which does not divide the ",
                              attention.heads, " attention heads"));
  if (!head_dim.empty() || keys.head_dim.otherwise > 0) {
    attention.head_dim = config.get(keys.head_dim);
  } else {
    attention.head_dim = hidden / attention.heads;
    if (hidden % attention.heads != 0)
      config.fail(heads,
                  str("is ", attention.heads, ", which does not divide hidden_size ", hidden));
  }
  const std::string key = head_dim.empty() ? "head_dim" : head_dim;
  if (attention.head_dim % 2 != 0)
    config.fail(key, str("is ", attention.head_dim, "; the rotary embedding needs an even one"));
  if (attention.head_dim > kLargestWidth / attention.heads)
    config.fail(key, str("is ", attention.head_dim, ", too much for ", attention.heads,
                         " attention heads"));
  attention.value_dim = attention.head_dim;
}

/// How many dimensions of a head are rotated.
Index read_rotated(const Source& source, Index head_dim) {
  Real key = source.row.keys.partial_rotary;
  key.otherwise = source.config.get(key);
  const auto parameters = rope_section(source.config);  // the newer place wins
  const double partial = parameters ? parameters->get(key) : key.otherwise;
  const double share = std::min(partial, 2.0);  // above 1 is refused; a huge one has no Index
  const auto rotated = static_cast<Index>(static_cast<double>(head_dim) * share);
  if (rotated > head_dim || rotated < 2 || rotated % 2 != 0)
    source.config.fail(
        key.keys.empty() ? "partial_rotary_factor" : key.keys.front(),
        str("is ", partial, ": of ", head_dim, " dimensions ", rotated, " would be rotated"),
        "an even number of at most all is possible");
  return rotated;
}

void read_projected(const Source& source, const LayerNamer& namer, Index hidden, LayerSpec& layer) {
  const Architecture& row = source.row;
  const TensorNames& names = row.tensors;
  AttentionSpec& attention = layer.attention;
  read_heads(source, hidden, attention);
  double softmax_factor = 1;
  attention.rope = read_rope(source, 0, read_rotated(source, attention.head_dim), softmax_factor);
  attention.scale = 1 / std::sqrt(static_cast<double>(attention.head_dim));
  attention.clip_qkv = source.config.optional_number("clip_qkv");
  const bool bias = source.config.get(row.qkv_bias);
  ProjectedHeads heads;
  heads.q = namer.linear(names.q, Role::q, attention.q_width(), hidden, bias);
  heads.k = namer.linear(names.k, Role::k, attention.k_width(), hidden, bias);
  heads.v = namer.linear(names.v, Role::v, attention.v_width(), hidden, bias);
  if (row.qk_norm != QkNorm::none && source.config.get(row.has_qk_norm)) {
    attention.qk_norm = row.qk_norm;
    heads.q_norm = namer.tensor(names.q_norm);
    heads.k_norm = namer.tensor(names.k_norm);
  }
  layer.heads = std::move(heads);
}

void read_latent(const Source& source, const LayerNamer& namer, Index hidden, LayerSpec& layer) {
  const ConfigReader& config = source.config;
  const ConfigKeys& keys = source.row.keys;
  const TensorNames& names = source.row.tensors;
  AttentionSpec& attention = layer.attention;
  const Index nope = config.get(keys.nope_dim), rope = config.get(keys.rope_dim);
  if (rope % 2 != 0)
    config.fail(config.first_of(keys.rope_dim.keys),
                str("is ", rope, "; the rotary embedding needs an even one"));
  attention.kv_heads = attention.heads;
  attention.head_dim = nope + rope;
  attention.value_dim = config.get(keys.value_dim);
  if (std::max(attention.head_dim, nope + attention.value_dim) > kLargestWidth / attention.heads)
    config.fail(config.first_of(keys.nope_dim.keys),
                str("is ", nope, ", too much for ", attention.heads, " attention heads"));
  double softmax_factor = 1;
  attention.rope = read_rope(source, nope, rope, softmax_factor);
  attention.scale = softmax_factor / std::sqrt(static_cast<double>(attention.head_dim));
  const Index rank = config.get(keys.kv_rank);
  const bool bias = config.get(source.row.qkv_bias);
  LatentHeads latent;
  Index q_columns = hidden;
  const std::string q_rank = config.first_of(keys.q_rank);
  if (!q_rank.empty()) {
    q_columns = config.positive(q_rank);
    latent.q_a = namer.linear(names.q_a, Role::q_a, q_columns, hidden, bias);
    latent.q_a_norm = namer.tensor(names.q_a_norm);
  }
  latent.q = namer.linear(latent.q_a ? names.q_b : names.q, latent.q_a ? Role::q_b : Role::q,
                          attention.q_width(), q_columns);
  latent.kv_a = namer.linear(names.kv_a, Role::kv_a, rank + rope, hidden, bias);
  latent.kv_a_norm = namer.tensor(names.kv_a_norm);
  latent.kv_b =
      namer.linear(names.kv_b, Role::kv_b, attention.heads * (nope + attention.value_dim), rank);
  layer.latent = std::move(latent);
}

}  // namespace

void read_attention(const Source& source, const LayerNamer& namer, Index hidden, LayerSpec& layer) {
  const Architecture& row = source.row;
  layer.attention.heads = source.config.get(row.keys.heads);
  layer.attention.norm_eps = source.config.get(row.keys.norm_eps);
  layer.attention.sliding_window = read_window(source, layer.index);
  if (row.latent_attention)
    read_latent(source, namer, hidden, layer);
  else
    read_projected(source, namer, hidden, layer);
  if (!row.tensors.sinks.empty()) layer.sinks = namer.bare(row.tensors.sinks);
  layer.o = namer.linear(row.tensors.o, Role::o, hidden, layer.attention.out_width(),
                         source.config.get(row.o_bias));
}

}  // namespace aq
