#pragma once
/// An architecture is a row of data: tensor names, the keys of config.json, and which of the known
/// pieces of mathematics it uses. One file a family in src/model/architectures/, one line each in
/// table.cpp. The same row can be written as a JSON file by the user (architecture_json.h), or be
/// inferred from a checkpoint that follows the common names.

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aq/model/model.h"

namespace aq {

/// Names of one value in config.json; the first one that is there counts.
using Keys = std::vector<std::string>;

/// A whole number of config.json.
struct Size {
  Keys keys = {};
  Index otherwise = 0;  ///< when no key is there; 0: then it is an error
};
/// A number of config.json.
struct Real {
  Keys keys = {};
  double otherwise = 0;
};
/// Something that is so, is not so, or is said by config.json.
struct Flag {
  std::string key = {};    ///< empty: no key decides
  bool otherwise = false;  ///< without the key
};

/// Which layers have the window of config.json where no layer_types says so.
enum class WindowedLayers {
  all,
  even,                          ///< 0, 2, ...
  from_max_window_layers,        ///< max_window_layers and those behind it
  even_below_max_window_layers,  ///< 0, 2, ... before max_window_layers
};

/// Tensor names. "{i}" stands for the layer's number, "{e}" for the expert's. Those of a layer are
/// module names behind `layer`; ".weight" and ".bias" are added to all but the last four.
struct TensorNames {
  std::string embedding = "model.embed_tokens";
  std::string final_norm = "model.norm";
  std::string head = "lm_head";
  std::string layer = "model.layers.{i}.";
  std::string input_norm = "input_layernorm";
  std::string post_attention_norm = "post_attention_layernorm";
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj",
              o = "self_attn.o_proj";
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::string q_a = "self_attn.q_a_proj", q_a_norm = "self_attn.q_a_layernorm",
              q_b = "self_attn.q_b_proj";
  std::string kv_a = "self_attn.kv_a_proj_with_mqa", kv_a_norm = "self_attn.kv_a_layernorm",
              kv_b = "self_attn.kv_b_proj";
  std::string dense_gate = "mlp.gate_proj", dense_up = "mlp.up_proj", dense_down = "mlp.down_proj";
  std::string router = "mlp.gate";
  std::string expert_gate = "mlp.experts.{e}.gate_proj", expert_up = "mlp.experts.{e}.up_proj",
              expert_down = "mlp.experts.{e}.down_proj";
  std::string shared_gate = "mlp.shared_experts.gate_proj",
              shared_up = "mlp.shared_experts.up_proj",
              shared_down = "mlp.shared_experts.down_proj";
  std::string shared_router = {};    ///< empty: the shared expert's factor is 1
  std::string sinks = {};            ///< empty: none
  std::string correction_bias = {};  ///< empty: none
  std::string fused_gate_up = "mlp.experts.gate_up_proj", fused_down = "mlp.experts.down_proj";
};

/// Keys of config.json.
struct ConfigKeys {
  Size vocabulary{{"vocab_size"}};
  Size hidden{{"hidden_size"}};
  Size layers{{"num_hidden_layers"}};
  Size max_positions{{"max_position_embeddings"}, 1 << 20};
  Size heads{{"num_attention_heads"}};
  Keys kv_heads{"num_key_value_heads"};  ///< without it: as many as heads
  Size head_dim{{"head_dim"}};           ///< without it: hidden / heads
  Real norm_eps{{"rms_norm_eps"}, 1e-5};
  Real rope_theta{{"rope_theta"}, 10000};
  Real partial_rotary{{"partial_rotary_factor"}, 1};  ///< share of a head that is rotated
  Size window{{"sliding_window"}};                    ///< null, or nothing and no number: none
  Size max_window_layers{{"max_window_layers"}, 28};
  Size dense_width{{"intermediate_size"}};
  Size experts{};  ///< neither keys nor a number: a dense model
  Size experts_per_token{{"num_experts_per_tok"}};
  Size expert_width{{"moe_intermediate_size"}};
  Size shared_width{};     ///< no keys: shared_experts * expert_width
  Size shared_experts{};   ///< no keys, or 0 or null in config.json: no shared expert
  Size first_moe_layer{};  ///< layers before it are dense; none without keys
  Size moe_every{{}, 1};   ///< layer i is MoE where (i + moe_offset) is a multiple
  Keys dense_layers{};     ///< a list of layers that are dense nevertheless
  Real router_scale{{}, 1};
  Size groups{{}, 1}, kept_groups{{}, 1};
  // of latent attention
  Keys q_rank{"q_lora_rank"};  ///< absent or null: q straight from the input
  Size kv_rank{{"kv_lora_rank"}}, nope_dim{{"qk_nope_head_dim"}}, rope_dim{{"qk_rope_head_dim"}},
      value_dim{{"v_head_dim"}};
  // of the clamped activation
  Real swiglu_limit{{"swiglu_limit"}, 7}, swiglu_alpha{{"swiglu_alpha"}, 1.702};
};

struct Architecture {
  std::string name;                      ///< as `inspect` prints it
  std::string family;                    ///< the class of names that it belongs to: "qwen"
  std::vector<std::string> model_types;  ///< config.json "model_type"
  std::vector<std::string> class_names;  ///< config.json "architectures"[0]
  TensorNames tensors;
  ConfigKeys keys;
  Keys unused_keys;  ///< which published files hold and the family's own code does not read

  // attention
  bool latent_attention = false;
  QkNorm qk_norm = QkNorm::none;
  Flag has_qk_norm{"", true};  ///< whether `qk_norm` applies
  Flag qkv_bias, o_bias;
  Flag sliding_window{"", false};  ///< whether keys.window applies
  WindowedLayers windowed_layers = WindowedLayers::all;
  bool layer_types = true;  ///< layer_types of config.json decides; else it may only agree
  Flag rope_interleaved{"", false};

  // router and experts
  RouterScore score = RouterScore::softmax;
  Flag renormalize;
  GroupScore group_score = GroupScore::largest;
  Index moe_offset = 0;
  Flag mlp_bias, router_bias, expert_bias;
  bool clamped_activation = false;
  bool fused_experts = false;  ///< the published form has 3-D tensors (else they are accepted too)
  bool fused_interleaved = false, fused_transposed = false;
};

/// Whether models of the architecture have routed experts.
bool has_experts(const Architecture& row);

/// Every architecture that this program knows.
std::span<const Architecture> architectures();
/// The row of that name, or nothing.
const Architecture* find_architecture(std::string_view name);

/// The row that config.json names by model_type or architectures[0], or nothing.
const Architecture* named_architecture(std::string_view config_json, std::string_view file);

/// Names and shapes of a checkpoint's tensors.
using TensorShapes = std::map<std::string, std::vector<Index>>;

/// The model that config.json describes, read by `row`. Both generations of keys are read
/// (rope_theta or rope_parameters, ...). With `tensors` the fused form of the experts is chosen
/// where the checkpoint has it. Throws Error{input} naming `file` and the key for what is missing,
/// contradictory or not supported, and for every key that is neither read nor known to be without
/// meaning nor in `assume_unused` (paths, such as "rope_scaling.factor"); Error{usage} for a key in
/// `assume_unused` that is none of those.
Model describe_model(const Architecture& row, std::string_view config_json, std::string_view file,
                     const TensorShapes& tensors = {}, const Keys& assume_unused = {});
/// The same by the row that it names; Error{input} lists the known ones.
Model describe_model(std::string_view config_json, std::string_view file,
                     const Keys& assume_unused = {});

/// A row for an architecture that is not in the table, and what it takes for granted.
struct InferredArchitecture {
  Architecture row;  ///< name "generic_moe" or "standard"
  std::vector<std::string> assumptions;
};
/// From a checkpoint that follows the common names: attention as Llama's, experts as
/// mlp.experts.{e}.{gate,up,down}_proj (or Mixtral's w1, w3, w2), a softmax or sigmoid router.
/// Throws Error{input} naming the first thing that does not fit.
InferredArchitecture infer_architecture(std::string_view config_json, std::string_view file,
                                        const TensorShapes& tensors);

}  // namespace aq
