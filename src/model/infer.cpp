/// A row for a checkpoint whose architecture is not in the table: what its tensors show, and for
/// the rest the habits of most published models. Nothing is assumed silently.

#include <algorithm>

#include "aq/core/text.h"
#include "aq/model/stored_names.h"
#include "aq/model/text_config.h"
#include "model/describe.h"

namespace aq {
namespace {

constexpr std::string_view kAttention = "model.layers.0.self_attn.";

class Inference {
 public:
  Inference(const ConfigReader& config, const TensorShapes& tensors)
      : config_(config), tensors_(tensors) {}

  InferredArchitecture run() {
    row_.name = row_.family = "standard";
    row_.keys.head_dim = {{"head_dim", "kv_channels"}};
    row_.keys.norm_eps = {{"rms_norm_eps", "norm_eps"}, 1e-6};
    row_.sliding_window = {"use_sliding_window", true};
    assume_defaults();
    infer_attention();
    infer_experts();
    return std::move(result_);
  }

 private:
  bool has(std::string_view name) const { return tensors_.contains(std::string(name)); }
  void assume(std::string text) { result_.assumptions.push_back(std::move(text)); }

  /// First extent of a weight that is there.
  Index rows_of(const std::string& name) const {
    const std::vector<Index>& shape = tensors_.at(name);
    if (shape.size() != 2 || shape[0] < 1)
      refuse_unknown_architecture(config_, str(", and its tensor ", name, " is no matrix"));
    return shape[0];
  }

  void infer_attention() {
    for (const char* module : {"q_proj", "k_proj", "v_proj", "o_proj"})
      if (!has(str(kAttention, module, ".weight")))
        refuse_unknown_architecture(
            config_, str(", and its tensors do not follow the common names: there is no ",
                         kAttention, module, ".weight"));
    const Index q_width = rows_of(str(kAttention, "q_proj.weight"));
    row_.qkv_bias = {config_.has("qkv_bias") ? "qkv_bias" : "attention_bias",
                     has(str(kAttention, "q_proj.bias"))};
    row_.o_bias.otherwise = has(str(kAttention, "o_proj.bias"));
    const auto norm = tensors_.find(str(kAttention, "q_norm.weight"));
    if (norm != tensors_.end())
      row_.qk_norm =
          norm->second == std::vector<Index>{q_width} ? QkNorm::projection : QkNorm::head;
    assume(str("attention as Llama's, ", config_.get(row_.qkv_bias) ? "with" : "without",
               " biases of q, k and v, ",
               row_.qk_norm == QkNorm::none   ? "without norms of q and k"
               : row_.qk_norm == QkNorm::head ? "each head of q and k normalised"
                                              : "q and k normalised as a whole",
               ", half-rotate rotary embedding"));
  }

  /// Layer of the first tensor with this ending behind "model.layers.{i}."; -1: none.
  Index first_layer_with(const std::string& module) const {
    const Index layers = std::min(config_.get(row_.keys.layers), kMostLayers);
    for (Index layer = 0; layer < layers; ++layer)
      if (has(str("model.layers.", layer, ".", module))) return layer;
    return -1;
  }

  void infer_experts() {
    const bool by_letters = first_layer_with("block_sparse_moe.experts.0.w1.weight") >= 0;
    if (by_letters) row_.tensors = find_architecture("mixtral")->tensors;
    Index layer = first_layer_with(replace_all(row_.tensors.expert_down, "{e}", "0") + ".weight");
    if (layer < 0) layer = first_layer_with(row_.tensors.fused_down);
    if (layer < 0) {
      row_.mlp_bias = {"mlp_bias", has("model.layers.0.mlp.gate_proj.bias")};
      return assume("one gated MLP in every layer, SiLU");
    }
    row_.name = row_.family = "generic_moe";
    ConfigKeys& keys = row_.keys;
    keys.experts = {{"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}};
    keys.experts_per_token = {{"num_experts_per_tok", "num_experts_per_token", "moe_topk",
                               "moe_top_k", "moe_k", "experts_per_token"}};
    keys.expert_width = {{"moe_intermediate_size", "expert_intermediate_size"}};
    if (config_.first_of(keys.expert_width.keys).empty())
      keys.expert_width = {{"intermediate_size"}};
    keys.first_moe_layer = {{"first_k_dense_replace"}, layer};
    if (layer > 0) assume(str("layers before ", layer, " dense, experts from there on"));
    const std::string prefix = str("model.layers.", layer, ".");
    infer_router(prefix);
    infer_shared_expert(prefix);
  }

  void infer_router(const std::string& prefix) {
    for (const char* name : {"mlp.gate.e_score_correction_bias", "mlp.e_score_correction_bias"})
      if (has(prefix + name)) row_.tensors.correction_bias = name;
    const bool corrected = !row_.tensors.correction_bias.empty();
    const std::string scoring = config_.text_or("scoring_func", corrected ? "sigmoid" : "softmax");
    if (scoring != "sigmoid" && scoring != "softmax")
      config_.fail("scoring_func", str("is '", scoring, "'; known are softmax and sigmoid"));
    row_.score = scoring == "sigmoid" ? RouterScore::sigmoid : RouterScore::softmax;
    row_.renormalize = {"norm_topk_prob", true};
    row_.group_score = corrected ? GroupScore::two_largest : GroupScore::largest;
    row_.keys.groups = {{"n_group"}, 1};
    row_.keys.kept_groups = {{"topk_group"}, 1};
    row_.keys.router_scale = {{"routed_scaling_factor"}, 1};
    row_.router_bias.otherwise = has(str(prefix, row_.tensors.router, ".bias"));
    assume(str(scoring, " over all experts, the chosen weights ",
               config_.get(row_.renormalize) ? "divided by their sum" : "as they are",
               corrected ? ", the choice with e_score_correction_bias" : "",
               config_.has("norm_topk_prob") ? "" : " (no norm_topk_prob says so)"));
  }

  void infer_shared_expert(const std::string& prefix) {
    row_.keys.shared_width = {{"shared_expert_intermediate_size"}};
    row_.keys.shared_experts = {{"n_shared_experts", "num_shared_experts"}};
    for (const char* module : {"mlp.shared_expert.", "mlp.shared_experts."}) {
      const std::string gate = str(prefix, module, "gate_proj.weight");
      if (!has(gate)) continue;
      const Index width = rows_of(gate);
      row_.tensors.shared_gate = str(module, "gate_proj");
      row_.tensors.shared_up = str(module, "up_proj");
      row_.tensors.shared_down = str(module, "down_proj");
      if (has(str(prefix, "mlp.shared_expert_gate.weight")))
        row_.tensors.shared_router = "mlp.shared_expert_gate";
      row_.keys.shared_width.otherwise = width;
      assume(str("a shared expert of width ", width,
                 row_.tensors.shared_router.empty() ? ", added as it is"
                                                    : ", times the sigmoid of its gate"));
    }
  }

  /// Numbers that config.json leaves to the code of the model.
  void assume_defaults() {
    if (config_.first_of(row_.keys.norm_eps.keys).empty())
      assume(str("RMS norms with an epsilon of ", row_.keys.norm_eps.otherwise));
    const auto rope = rope_section(config_);
    if (!config_.has("rope_theta") && !(rope && rope->has("rope_theta")))
      assume(str("a rotary embedding with theta ", row_.keys.rope_theta.otherwise));
    if (const std::string window = config_.first_of(row_.keys.window.keys);
        !window.empty() && !config_.has("layer_types") && config_.get(row_.sliding_window))
      assume(str("a window of ", config_.positive(window), " tokens in every layer"));
  }

  const ConfigReader& config_;
  const TensorShapes& tensors_;
  InferredArchitecture result_;
  Architecture& row_ = result_.row;
};

}  // namespace

InferredArchitecture infer_architecture(std::string_view config_json, std::string_view file,
                                        const TensorShapes& tensors) {
  const TextConfig text = text_config(config_json, file);
  const ConfigReader config(text.json, text.file);
  const TensorNames names = stored_names(TensorNames{}, tensors, file);
  InferredArchitecture found = Inference(config, plain_shapes(names, tensors)).run();
  TensorNames& tensor_names = found.row.tensors;
  tensor_names.embedding = names.embedding;
  tensor_names.final_norm = names.final_norm;
  tensor_names.head = names.head;
  tensor_names.layer = names.layer;
  return found;
}

}  // namespace aq
