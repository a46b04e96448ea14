#include "model/describe.h"

#include "aq/core/text.h"
#include "aq/model/text_config.h"
#include "model/known_keys.h"

namespace aq {
namespace {

/// Biases that config.json asks for and the row knows nothing of.
void refuse_unknown_biases(const Source& source) {
  const Architecture& row = source.row;
  for (const char* key : {"attention_bias", "mlp_bias", "qkv_bias"}) {
    bool known = false;
    for (const Flag* flag : {&row.qkv_bias, &row.o_bias, &row.mlp_bias})
      known = known || flag->key == key;
    if (!known && source.config.flag_or(key, false))
      source.config.fail(key, str("is true; ", row.name, " is not known to have such biases"));
  }
}

void refuse_unsupported(const Source& source) {
  const std::string activation = source.config.text_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    source.config.fail("hidden_act", str("is '", activation, "'; only 'silu' is supported"));
  refuse_unknown_biases(source);
  const Architecture& row = source.row;
  for (const char* key : {"rope_interleave", "rope_interleaved"})
    source.config.agree(key, source.config.get(row.rope_interleaved),
                        str(row.name, " is known to rotate the other pairs"));
  source.config.agree("use_qk_norm",
                      row.qk_norm != QkNorm::none && source.config.get(row.has_qk_norm),
                      str(row.name, " is known to be otherwise"));
  if (has_experts(row))
    source.config.agree("norm_topk_prob", source.config.get(row.renormalize),
                        str(row.name, " is known to be otherwise"));
}

/// Sizes of MLPs that the model does not have after all.
void disregard_needless(const Source& source, const Model& model) {
  const ConfigKeys& keys = source.row.keys;
  const std::size_t moe_layers = model.moe_layers().size();
  if (moe_layers == model.layers.size()) source.config.disregard(keys.dense_width.keys);
  if (moe_layers > 0 || !has_experts(source.row)) return;
  for (const Size* size : {&keys.experts_per_token, &keys.expert_width, &keys.shared_width,
                           &keys.shared_experts, &keys.groups, &keys.kept_groups})
    source.config.disregard(size->keys);
  source.config.disregard(keys.router_scale.keys);
  source.config.disregard({"scoring_func", "topk_method"});
}

LayerSpec read_layer(const Source& source, Index hidden, Index index) {
  const TensorNames& names = source.row.tensors;
  const LayerNamer namer(source.row, hidden, index);
  LayerSpec layer;
  layer.index = index;
  layer.input_norm = namer.tensor(names.input_norm);
  layer.post_attention_norm = namer.tensor(names.post_attention_norm);
  read_attention(source, namer, hidden, layer);
  read_mlp(source, namer, hidden, layer);
  return layer;
}

Index read_layer_count(const Source& source) {
  const ConfigKeys& keys = source.row.keys;
  const Index layers = source.config.get(keys.layers);
  if (layers > kMostLayers)
    source.config.fail(source.config.first_of(keys.layers.keys),
                       str("is ", layers, ", more than ", kMostLayers));
  if (has_experts(source.row)) {
    const Index experts = source.config.get(keys.experts);
    if (experts > kMostExpertsInAll / layers)
      source.config.fail(source.config.first_of(keys.experts.keys),
                         str("is ", experts, ", too many for ", layers, " layers"));
  }
  return layers;
}

}  // namespace

LayerNamer::LayerNamer(const Architecture& row, Index hidden, Index layer)
    : names_(row.tensors),
      hidden_(hidden),
      layer_(layer),
      prefix_(replace_all(row.tensors.layer, "{i}", str(layer))) {}

std::string LayerNamer::tensor(std::string_view module) const {
  return str(prefix_, module, ".weight");
}

std::string LayerNamer::bare(std::string_view module) const {
  return str(prefix_, module);
}

LinearSpec LayerNamer::linear(std::string_view module, Role role, Index rows, Index columns,
                              bool bias, Index expert) const {
  return {.name = replace_all(str(prefix_, module), "{e}", str(expert)),
          .rows = rows,
          .columns = columns,
          .role = role,
          .layer = layer_,
          .expert = expert,
          .bias = bias};
}

MlpSpec LayerNamer::expert(Index number, Index width, bool bias) const {
  return {.kind = MlpKind::routed,
          .gate = linear(names_.expert_gate, Role::gate, width, hidden_, bias, number),
          .up = linear(names_.expert_up, Role::up, width, hidden_, bias, number),
          .down = linear(names_.expert_down, Role::down, hidden_, width, bias, number),
          .activation = {},
          .output_gate = {}};
}

MlpSpec LayerNamer::shared_expert(Index width) const {
  return {.kind = MlpKind::shared,
          .gate = linear(names_.shared_gate, Role::gate, width, hidden_),
          .up = linear(names_.shared_up, Role::up, width, hidden_),
          .down = linear(names_.shared_down, Role::down, hidden_, width),
          .activation = {},
          .output_gate = {}};
}

MlpSpec LayerNamer::dense(Index width, bool bias) const {
  return {.kind = MlpKind::dense,
          .gate = linear(names_.dense_gate, Role::gate, width, hidden_, bias),
          .up = linear(names_.dense_up, Role::up, width, hidden_, bias),
          .down = linear(names_.dense_down, Role::down, hidden_, width, bias),
          .activation = {},
          .output_gate = {}};
}

Model describe_model(const Architecture& row, std::string_view config_json, std::string_view file,
                     const TensorShapes& tensors, const Keys& assume_unused) {
  const TextConfig text = text_config(config_json, file);
  const ConfigReader config(text.json, text.file);
  const Source source{config, row};
  refuse_unsupported(source);
  Model model;
  model.architecture = row.name;
  model.family = row.family;
  model.vocabulary = config.get(row.keys.vocabulary);
  model.hidden = config.get(row.keys.hidden);
  model.max_positions = config.get(row.keys.max_positions);
  model.norm_eps = config.get(row.keys.norm_eps);
  model.embedding = row.tensors.embedding + ".weight";
  model.final_norm = row.tensors.final_norm + ".weight";
  model.tied_head = config.flag_or("tie_word_embeddings", false);
  model.head = {.name = row.tensors.head,
                .rows = model.vocabulary,
                .columns = model.hidden,
                .role = Role::head};
  const Index layers = read_layer_count(source);
  for (Index index = 0; index < layers; ++index)
    model.layers.push_back(read_layer(source, model.hidden, index));
  number_linears(model);
  read_storage(source, tensors, model);
  disregard_needless(source, model);
  refuse_unread_keys(config, row, assume_unused);
  return model;
}

Model describe_model(std::string_view config_json, std::string_view file,
                     const Keys& assume_unused) {
  const Architecture* row = named_architecture(config_json, file);
  if (row == nullptr) {
    const TextConfig text = text_config(config_json, file);
    refuse_unknown_architecture(ConfigReader(text.json, text.file), "");
  }
  return describe_model(*row, config_json, file, {}, assume_unused);
}

}  // namespace aq
