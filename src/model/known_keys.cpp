#include "model/known_keys.h"

#include <algorithm>
#include <span>

#include "aq/core/text.h"

namespace aq {
namespace {

/// Why a key cannot change what the model computes for tokens of text. '*' stands for anything.
/// Keys of objects inside are written with their path.
struct UnusedKey {
  std::string_view key, reason;
};

constexpr std::string_view kRow = "it chooses the row by which the rest is read";
constexpr std::string_view kOrigin = "says where the file comes from or what writes it";
constexpr std::string_view kCode = "chooses code of another program for the same computation";
constexpr std::string_view kDtype = "the files say the type of each tensor";
constexpr std::string_view kToken = "names a token; tokens are given as numbers";
constexpr std::string_view kText = "is of the tokenizer";
constexpr std::string_view kTraining = "acts in training only";
constexpr std::string_view kGeneration = "controls how tokens are chosen or what a call returns";
constexpr std::string_view kOtherHead = "is of a head for another task";
constexpr std::string_view kPrediction = "is of layers that predict further tokens (MTP)";
constexpr std::string_view kMediaPlace = "places other media among the tokens; there are none";
constexpr std::string_view kLimit = "is a limit on how many tokens a call takes";
constexpr std::string_view kStateSpace = "is of state space layers, whose tensors are refused";
constexpr std::string_view kStored = "the files say how each tensor is stored";

constexpr UnusedKey kUnused[] = {
    {"model_type", kRow},
    {"architectures", kRow},
    {"_name_or_path", kOrigin},
    {"name_or_path", kOrigin},
    {"_commit_hash", kOrigin},
    {"transformers_version", kOrigin},
    {"auto_map", kOrigin},
    {"custom_pipelines", kOrigin},
    {"transformers.js_config", kOrigin},
    {"is_llama_config", kOrigin},
    {"unsloth_fixed", kOrigin},
    {"unsloth_version", kOrigin},
    {"torchscript", kCode},
    {"use_cache", kCode},
    {"use_flash_attn", kCode},
    {"_flash_attn_2_enabled", kCode},
    {"attn_implementation", kCode},
    {"_attn_implementation", kCode},
    {"_attn_implementation_autoset", kCode},
    {"_attn_implementation_internal", kCode},
    {"experts_implementation", kCode},
    {"_experts_implementation", kCode},
    {"_experts_implementation_internal", kCode},
    {"chunk_size_feed_forward", kCode},
    {"pretraining_tp", kCode},
    {"ep_size", kCode},
    {"torch_dtype", kDtype},
    {"dtype", kDtype},
    {"use_bfloat16", kDtype},
    {"*_token_id", kToken},
    {"*_token_ids", kToken},
    {"*_token_index", kToken},
    {"tokenizer_class", kText},
    {"bos_token", kText},
    {"eos_token", kText},
    {"pad_token", kText},
    {"unk_token", kText},
    {"prefix", kText},
    {"model_max_length", kText},
    {"*_dropout", kTraining},
    {"*_dropout_prob", kTraining},
    {"*_pdrop", kTraining},
    {"dropout", kTraining},
    {"initializer_range", kTraining},
    {"initializer_factor", kTraining},
    {"router_aux_loss_coef", kTraining},
    {"router_z_loss_coef", kTraining},
    {"router_jitter_noise", kTraining},
    {"aux_loss_alpha", kTraining},
    {"seq_aux", kTraining},
    {"gradient_checkpointing", kTraining},
    {"neftune_noise_alpha", kTraining},
    {"assistant_confidence_threshold", kGeneration},
    {"assistant_lookbehind", kGeneration},
    {"bad_words_ids", kGeneration},
    {"begin_suppress_tokens", kGeneration},
    {"diversity_penalty", kGeneration},
    {"do_sample", kGeneration},
    {"early_stopping", kGeneration},
    {"encoder_no_repeat_ngram_size", kGeneration},
    {"encoder_repetition_penalty", kGeneration},
    {"epsilon_cutoff", kGeneration},
    {"eta_cutoff", kGeneration},
    {"exponential_decay_length_penalty", kGeneration},
    {"length_penalty", kGeneration},
    {"max_length", kGeneration},
    {"max_new_tokens", kGeneration},
    {"min_length", kGeneration},
    {"no_repeat_ngram_size", kGeneration},
    {"num_assistant_tokens", kGeneration},
    {"num_assistant_tokens_schedule", kGeneration},
    {"num_beam_groups", kGeneration},
    {"num_beams", kGeneration},
    {"num_logits_to_keep", kGeneration},
    {"num_return_sequences", kGeneration},
    {"output_attentions", kGeneration},
    {"output_hidden_states", kGeneration},
    {"output_router_logits", kGeneration},
    {"output_scores", kGeneration},
    {"remove_invalid_values", kGeneration},
    {"repetition_penalty", kGeneration},
    {"return_dict", kGeneration},
    {"return_dict_in_generate", kGeneration},
    {"suppress_tokens", kGeneration},
    {"target_lookbehind", kGeneration},
    {"temperature", kGeneration},
    {"tf_legacy_loss", kGeneration},
    {"top_k", kGeneration},
    {"top_p", kGeneration},
    {"typical_p", kGeneration},
    {"use_return_dict", kGeneration},
    {"classifier_dropout", kOtherHead},
    {"finetuning_task", kOtherHead},
    {"id2label", kOtherHead},
    {"label2id", kOtherHead},
    {"num_labels", kOtherHead},
    {"problem_type", kOtherHead},
    {"task_specific_params", kOtherHead},
    {"num_nextn_predict_layers", kPrediction},
    {"num_mtp_layers", kPrediction},
    {"rope_scaling.mrope_section", kMediaPlace},
    {"rope_scaling.mrope_interleaved", kMediaPlace},
    {"rope_parameters.mrope_section", kMediaPlace},
    {"rope_parameters.mrope_interleaved", kMediaPlace},
    {"quantization_config.activation_scheme", "activations are computed in fp32"},
    {"quantization_config.scale_fmt", kStored},
    {"quantization_config.modules_to_not_convert", kStored},
    {"quantization_config.ignored_layers", kStored},
    {"quantization_config.dequantize", kCode},
    {"max_sequence_length", kLimit},
    {"max_seq_length", kLimit},
    {"max_seq_len", kLimit},
    {"seq_length", kLimit},
    {"mask_value", "stands for minus infinity in code of another program"},
    {"time_step_floor", kStateSpace},
    {"time_step_limit", kStateSpace},
    {"time_step_max", kStateSpace},
    {"time_step_min", kStateSpace},
    {"time_step_rank", kStateSpace},
};

/// Values that leave everything as it is: 1 where it is a factor, false where it switches on.
struct NeutralValue {
  std::string_view key, value, reason;
};

constexpr std::string_view kFactor = "is a factor of 1";
constexpr std::string_view kOff = "is switched off";
constexpr std::string_view kNoBias = "there are no such biases, or the files would hold them";
constexpr std::string_view kEveryLayer = "is so in every layer";
constexpr std::string_view kNone = "there are none";

constexpr NeutralValue kNeutral[] = {
    {"embedding_multiplier", "1", kFactor},
    {"residual_multiplier", "1", kFactor},
    {"logits_scaling", "1", kFactor},
    {"logit_scale", "1", kFactor},
    {"scale_emb", "1", kFactor},
    {"routed_scaling_factor", "1", kFactor},
    {"partial_rotary_factor", "1", "all dimensions are rotated"},
    {"rotary_pct", "1", "all dimensions are rotated"},
    {"add_cross_attention", "false", kOff},
    {"alibi", "false", kOff},
    {"attn_temperature_tuning", "false", kOff},
    {"is_decoder", "true", "every model here is a decoder"},
    {"is_decoder", "false", "says only that it is no half of an encoder-decoder"},
    {"is_encoder_decoder", "false", kOff},
    {"parallel_attn", "false", kOff},
    {"use_parallel_residual", "false", kOff},
    {"pruned_heads", "{}", kNone},
    {"tie_encoder_decoder", "false", kOff},
    {"use_bidirectional_attention", "false", kOff},
    {"use_mrope", "false", kOff},
    {"qk_layernorm", "false", kOff},
    {"add_bias_linear", "false", kNoBias},
    {"attention_out_bias", "false", kNoBias},
    {"use_bias", "false", kNoBias},
    {"decoder_sparse_step", "1", kEveryLayer},
    {"moe_layer_freq", "1", kEveryLayer},
    {"moe_layer_interval", "1", kEveryLayer},
    {"first_k_dense_replace", "0", kEveryLayer},
    {"mlp_only_layers", "[]", kEveryLayer},
    {"n_group", "1", "all experts are one group"},
    {"topk_group", "1", "all experts are one group"},
    {"n_shared_experts", "0", kNone},
    {"num_shared_experts", "0", kNone},
    {"shared_expert_intermediate_size", "0", kNone},
    {"zero_expert_num", "0", kNone},
};

bool is_without_meaning(const std::string& path, const Json& value) {
  return std::ranges::any_of(
             kUnused,
             [&](const UnusedKey& k) { return matches_pattern(std::string(k.key), path); }) ||
         std::ranges::any_of(kNeutral, [&](const NeutralValue& k) {
           return k.key == path && value == Json::parse(k.value);
         });
}

bool contains(const Keys& keys, const std::string& key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

}  // namespace

void refuse_unread_keys(const ConfigReader& config, const Architecture& row, const Keys& assumed) {
  constexpr Index kMostShown = 4;
  Keys open = assumed;  // less those that are met
  std::string unknown;
  Index count = 0;
  for (const auto& [path, value] : config.unread()) {
    if (is_without_meaning(path, *value) || contains(row.unused_keys, path)) continue;
    if (std::erase(open, path) > 0) continue;
    if (++count <= kMostShown)
      unknown += str(unknown.empty() ? "" : ", ", "'", shown_key(path), "' (", shown(*value), ")");
  }
  if (count > kMostShown) unknown += str(" and ", count - kMostShown, " more");
  if (count > 0)
    throw Error(ErrorKind::input, "read the model's configuration", config.file(),
                str(count == 1 ? "key " : "keys ", unknown,
                    ": what this means for the forward pass of ", row.name, " is not known"),
                "--assume-unused KEY goes on as if it had no meaning");
  if (!open.empty())
    throw Error(ErrorKind::usage, "read the model's configuration", config.file(),
                str("--assume-unused ", open.front().substr(0, 100),
                    ": there is no such key, or it is understood already"));
}

}  // namespace aq
