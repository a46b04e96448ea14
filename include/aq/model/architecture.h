#pragma once
/// An architecture is a row of data: tensor names, the keys of config.json, and which of the known
/// pieces of mathematics it uses. One file a family in src/model/architectures/, one line each in
/// table.cpp.

#include <span>
#include <string>
#include <string_view>

#include "aq/model/model.h"

namespace aq {

/// Module names inside a layer; "{e}" stands for the expert's number.
struct LayerNames {
  std::string_view input_norm = "input_layernorm";
  std::string_view post_attention_norm = "post_attention_layernorm";
  std::string_view q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj",
                   o = "self_attn.o_proj";
  std::string_view q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::string_view dense_gate = "mlp.gate_proj", dense_up = "mlp.up_proj",
                   dense_down = "mlp.down_proj";
  std::string_view router = "mlp.gate";
  std::string_view expert_gate = "mlp.experts.{e}.gate_proj", expert_up = "mlp.experts.{e}.up_proj",
                   expert_down = "mlp.experts.{e}.down_proj";
};

/// Keys of config.json that differ between families.
struct ConfigKeys {
  std::string_view experts;  ///< empty: a dense model
  std::string_view experts_per_token = "num_experts_per_tok";
  std::string_view expert_width = "intermediate_size";
  std::string_view dense_width = "intermediate_size";
};

/// How the weights of the chosen experts are renormalised.
enum class Renormalize {
  never,
  always,
  by_config
};  ///< by_config: key norm_topk_prob, default false

struct Architecture {
  std::string_view name;        ///< as `inspect` prints it
  std::string_view model_type;  ///< config.json "model_type"
  std::string_view class_name;  ///< config.json "architectures"[0]
  LayerNames layer;
  ConfigKeys keys;
  QkNorm qk_norm = QkNorm::none;
  Renormalize renormalize = Renormalize::never;
  /// Defaults of keys that config.json may leave out.
  double default_rope_theta = 10000;
  double default_norm_eps = 1e-5;
};

/// Every architecture that this program knows.
std::span<const Architecture> architectures();

/// The row that config.json names by model_type or architectures[0].
/// Throws Error{input} that lists the known ones.
const Architecture& detect_architecture(std::string_view config_json, std::string_view file);

/// The model that config.json describes. Both generations of keys are read (rope_theta or
/// rope_parameters, ...). Throws Error{input} naming `file` and the key for what is missing,
/// contradictory or not supported (scaled rotary embeddings, biases, other activations).
Model describe_model(std::string_view config_json, std::string_view file);

}  // namespace aq
