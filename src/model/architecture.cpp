#include "aq/model/architecture.h"

#include "aq/core/text.h"
#include "model/config_reader.h"

namespace aq {
namespace {

// Far above every published model; what a damaged or hostile file asks for must not fill the
// memory.
constexpr Index kLargestWidth = Index{1} << 31;
constexpr Index kMostLayers = 4096;
constexpr Index kMostExperts = 65536;         // of a layer
constexpr Index kMostExpertsInAll = 1 << 18;  // of all layers

std::string first_class_name(const ConfigReader& config) {
  if (!config.has("architectures")) return {};
  const nlohmann::json& names = config.json().at("architectures");
  if (!names.is_array() || names.empty() || !names.front().is_string())
    config.fail("architectures", "is not a list of texts");
  return names.front().get<std::string>();
}

const Architecture& detect(const ConfigReader& config) {
  const std::string type = config.text_or("model_type", "");
  const std::string class_name = first_class_name(config);
  std::string known;
  for (const Architecture& row : architectures()) {
    if (type == row.model_type || (type.empty() && class_name == row.class_name)) return row;
    known += str(known.empty() ? "" : ", ", row.model_type);
  }
  config.fail("model_type", str("is '", type, "', class '", class_name, "', which is not known"),
              str("known architectures: ", known));
}

/// Refuses what the forward pass would silently get wrong.
void refuse_unsupported(const ConfigReader& config) {
  const std::string activation = config.text_or("hidden_act", "silu");
  if (activation != "silu")
    config.fail("hidden_act", str("is '", activation, "'; only 'silu' is supported"));
  for (const char* key : {"attention_bias", "mlp_bias", "qkv_bias"})
    if (config.flag_or(key, false)) config.fail(key, "is true; biases are not supported yet");
  if (config.has("quantization_config"))
    config.fail("quantization_config", "is present; quantized sources are not supported yet",
                "use the bf16 checkpoint");
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto rope = config.object(key);
    if (!rope) continue;
    const std::string type = rope->text_or("rope_type", rope->text_or("type", "default"));
    if (type != "default")
      config.fail(key, str("asks for '", type, "' scaling, which is not supported yet"));
  }
}

RopeSpec read_rope(const ConfigReader& config, const Architecture& row) {
  if (const auto parameters = config.object("rope_parameters");
      parameters && parameters->has("rope_theta"))
    return {.theta = parameters->number_or("rope_theta", row.default_rope_theta)};
  return {.theta = config.number_or("rope_theta", row.default_rope_theta)};
}

AttentionSpec read_attention(const ConfigReader& config, const Architecture& row, Index hidden,
                             double norm_eps) {
  AttentionSpec attention;
  attention.heads = config.positive("num_attention_heads");
  attention.kv_heads = config.positive_or("num_key_value_heads", attention.heads);
  if (attention.heads % attention.kv_heads != 0)
    config.fail("num_key_value_heads",
                str("is ", attention.kv_heads, ", which does not divide the ", attention.heads,
                    " attention heads"));
  if (!config.has("head_dim") && hidden % attention.heads != 0)
    config.fail("num_attention_heads",
                str("is ", attention.heads, ", which does not divide hidden_size ", hidden));
  attention.head_dim = config.positive_or("head_dim", hidden / attention.heads);
  if (attention.head_dim % 2 != 0)
    config.fail("head_dim",
                str("is ", attention.head_dim, "; the rotary embedding needs an even one"));
  if (attention.head_dim > kLargestWidth / attention.heads)
    config.fail("head_dim", str("is ", attention.head_dim, ", too much for ", attention.heads,
                                " attention heads"));
  attention.norm_eps = norm_eps;
  attention.qk_norm = row.qk_norm;
  attention.clip_qkv = config.optional_number("clip_qkv");
  if (config.flag_or("use_sliding_window", true))
    attention.sliding_window = config.positive_or("sliding_window", 0);
  attention.rope = read_rope(config, row);
  return attention;
}

/// Names and shapes of a layer's linears.
class LayerNamer {
 public:
  LayerNamer(const Architecture& row, const Model& model, Index layer)
      : row_(row), model_(model), layer_(layer), prefix_(str("model.layers.", layer, ".")) {}

  std::string tensor(std::string_view module) const { return str(prefix_, module, ".weight"); }
  LinearSpec linear(std::string_view module, Role role, Index rows, Index columns,
                    Index expert = -1) const {
    return {
        replace_all(str(prefix_, module), "{e}", str(expert)), rows, columns, role, layer_, expert};
  }
  MlpSpec expert(Index number, Index width) const {
    const LayerNames& names = row_.layer;
    return {linear(names.expert_gate, Role::gate, width, model_.hidden, number),
            linear(names.expert_up, Role::up, width, model_.hidden, number),
            linear(names.expert_down, Role::down, model_.hidden, width, number)};
  }
  MlpSpec dense(Index width) const {
    const LayerNames& names = row_.layer;
    return {linear(names.dense_gate, Role::gate, width, model_.hidden),
            linear(names.dense_up, Role::up, width, model_.hidden),
            linear(names.dense_down, Role::down, model_.hidden, width)};
  }

 private:
  const Architecture& row_;
  const Model& model_;
  Index layer_;
  std::string prefix_;
};

MoeSpec read_moe(const ConfigReader& config, const Architecture& row, const Model& model,
                 const LayerNamer& namer) {
  MoeSpec moe;
  moe.routing.experts = config.positive(row.keys.experts);
  moe.routing.top_k = config.positive(row.keys.experts_per_token);
  if (moe.routing.top_k > moe.routing.experts)
    config.fail(row.keys.experts_per_token,
                str("is ", moe.routing.top_k, ", more than the ", moe.routing.experts, " experts"));
  if (moe.routing.experts > kMostExperts)
    config.fail(row.keys.experts, str("is ", moe.routing.experts, ", more than ", kMostExperts));
  moe.routing.renormalize =
      row.renormalize == Renormalize::always ||
      (row.renormalize == Renormalize::by_config && config.flag_or("norm_topk_prob", false));
  moe.router = namer.linear(row.layer.router, Role::router, moe.routing.experts, model.hidden);
  const Index width = config.positive(row.keys.expert_width);
  for (Index expert = 0; expert < moe.routing.experts; ++expert)
    moe.experts.push_back(namer.expert(expert, width));
  return moe;
}

LayerSpec read_layer(const ConfigReader& config, const Architecture& row, const Model& model,
                     Index index) {
  const LayerNames& names = row.layer;
  const AttentionSpec& attention = model.attention;
  const Index q_width = attention.heads * attention.head_dim;
  const Index kv_width = attention.kv_heads * attention.head_dim;
  const LayerNamer namer(row, model, index);
  LayerSpec layer;
  layer.index = index;
  layer.input_norm = namer.tensor(names.input_norm);
  layer.post_attention_norm = namer.tensor(names.post_attention_norm);
  if (row.qk_norm != QkNorm::none) {
    layer.q_norm = namer.tensor(names.q_norm);
    layer.k_norm = namer.tensor(names.k_norm);
  }
  layer.q = namer.linear(names.q, Role::q, q_width, model.hidden);
  layer.k = namer.linear(names.k, Role::k, kv_width, model.hidden);
  layer.v = namer.linear(names.v, Role::v, kv_width, model.hidden);
  layer.o = namer.linear(names.o, Role::o, model.hidden, q_width);
  if (row.keys.experts.empty())
    layer.dense = namer.dense(config.positive(row.keys.dense_width));
  else
    layer.moe = read_moe(config, row, model, namer);
  return layer;
}

}  // namespace

const Architecture& detect_architecture(std::string_view config_json, std::string_view file) {
  return detect(ConfigReader(config_json, file));
}

Model describe_model(std::string_view config_json, std::string_view file) {
  const ConfigReader config(config_json, file);
  const Architecture& row = detect(config);
  refuse_unsupported(config);
  Model model;
  model.architecture = row.name;
  model.vocabulary = config.positive("vocab_size");
  model.hidden = config.positive("hidden_size");
  model.max_positions = config.positive_or("max_position_embeddings", 1 << 20);
  model.norm_eps = config.number_or("rms_norm_eps", row.default_norm_eps);
  model.attention = read_attention(config, row, model.hidden, model.norm_eps);
  model.embedding = "model.embed_tokens.weight";
  model.final_norm = "model.norm.weight";
  model.tied_head = config.flag_or("tie_word_embeddings", false);
  model.head = {"lm_head", model.vocabulary, model.hidden, Role::head};
  const Index layers = config.positive("num_hidden_layers");
  if (layers > kMostLayers)
    config.fail("num_hidden_layers", str("is ", layers, ", more than ", kMostLayers));
  if (!row.keys.experts.empty() && config.positive(row.keys.experts) > kMostExpertsInAll / layers)
    config.fail(row.keys.experts, str("is ", config.positive(row.keys.experts), ", too many for ",
                                      layers, " layers"));
  for (Index index = 0; index < layers; ++index)
    model.layers.push_back(read_layer(config, row, model, index));
  return model;
}

}  // namespace aq
