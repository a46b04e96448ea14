#include "export/serving_rules.h"

#include <algorithm>
#include <array>

#include "aq/core/text.h"
#include "aq/model/stored_names.h"
#include "export/served_format.h"

namespace aq {

bool ServingCase::quantized(const LinearSpec& linear) const {
  return assignments.of(linear).method != Method::copy;
}
const Scheme& ServingCase::scheme(const LinearSpec& linear) const {
  return assignments.of(linear).scheme;
}
const std::optional<Scheme>& ServingCase::inputs(const LinearSpec& linear) const {
  return assignments.of(linear).activation;
}

Linears where(const ServingCase& c,
              const std::function<bool(const LinearSpec&, const Scheme&)>& breaks) {
  Linears found;
  for (const LinearSpec* linear : all_linears(c.model))
    if (c.quantized(*linear) && breaks(*linear, c.scheme(*linear))) found.push_back(linear);
  return found;
}

namespace {

using Case = ServingCase;

bool is_fp8(const Scheme& scheme) {
  return scheme.element == Element::e4m3 && !scheme.is_mx();
}
bool is_common_width(const Scheme& scheme) {
  return scheme.is_float() || scheme.bits == 4 || scheme.bits == 8;
}
bool has_own_scales(const Scheme& scheme) {
  return scheme.is_mx() || scheme.is_nvfp4();
}

// Linears that are to be alike.

/// Whether a server sees the same scheme: the type of a scale is not part of it.
bool alike(const Case& c, const LinearSpec& a, const LinearSpec& b) {
  if (c.quantized(a) != c.quantized(b)) return false;
  if (!c.quantized(a)) return true;
  Scheme left = c.scheme(a), right = c.scheme(b);
  if (!has_own_scales(left) && !has_own_scales(right))
    left.scale_type = right.scale_type = ScaleType::bf16;
  return left == right && c.inputs(a) == c.inputs(b);
}

/// The linears that differ from the first of their set.
Linears unlike(const Case& c, const std::vector<Linears>& sets) {
  Linears found;
  for (const Linears& set : sets)
    for (const LinearSpec* linear : set)
      if (!alike(c, *linear, *set.front())) found.push_back(linear);
  return found;
}

Linears unlike_experts_of_a_layer(const Case& c) {
  return unlike(c, experts_by_layer(c.model));
}
Linears unlike_experts_of_the_model(const Case& c) {
  return unlike(c, experts_of_all_layers(c.model));
}
Linears unlike_fused(const Case& c) {
  return unlike(c, fused_sets(c.model));
}

// What stays as it is.

Linears quantized_routers(const Case& c) {
  return where(c, [](const LinearSpec& linear, const Scheme&) {
    return linear.role == Role::router || linear.role == Role::shared_router;
  });
}

Linears tied_head(const Case& c) {
  return where(c, [&](const LinearSpec& linear, const Scheme&) {
    return linear.role == Role::head && c.model.tied_head;
  });
}

/// All but the experts where these fit into their own form alone; else the experts, first those
/// that do not fit.
Linears beside_gpt_oss(const Case& c) {
  const ServedFormat& own = served_format(kGptOss);
  const auto is_routed = [](const LinearSpec& linear, const Scheme&) { return routed(linear); };
  const bool concerned = c.model.architecture == "gpt_oss" && c.format != own.name;
  if (!concerned || where(c, is_routed).empty()) return {};
  Linears experts = all_linears(c.model);
  std::erase_if(experts, [](const LinearSpec* linear) { return !routed(*linear); });
  const auto fit =
      std::stable_partition(experts.begin(), experts.end(), [&](const LinearSpec* linear) {
        return !c.quantized(*linear) ||
               !own.problem(stored_matrix(*linear, c.scheme(*linear), c.inputs(*linear))).empty();
      });
  if (fit != experts.begin() || c.format == "gptq" || !suits(own, c.model)) return experts;
  return where(c, [](const LinearSpec& linear, const Scheme&) { return !routed(linear); });
}

// Formats.

Linears without_form(const Case& c) {
  const ServedFormat& format = served_format(c.format);
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    return !format.problem(stored_matrix(linear, scheme, c.inputs(linear))).empty();
  });
}

Linears grouped_fp8(const Case& c) {
  return where(c, [](const LinearSpec&, const Scheme& scheme) {
    return is_fp8(scheme) && scheme.group_size > 0;
  });
}

Linears fp8_experts_alone(const Case& c) {
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    const auto& inputs = c.inputs(linear);
    return routed(linear) && is_fp8(scheme) &&
           !(scheme.group_size == kPerChannel && inputs && is_fp8(*inputs) &&
             inputs->group_size == kPerChannel);
  });
}

bool has_integer_inputs(const Case& c, const LinearSpec& linear) {
  const auto& inputs = c.inputs(linear);
  return !c.scheme(linear).is_float() && inputs && !inputs->is_float();
}

Linears integer_inputs(const Case& c) {
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    const bool int8 = scheme.bits == 8 && scheme.symmetric && scheme.group_size == kPerChannel;
    return has_integer_inputs(c, linear) &&
           !(int8 && c.inputs(linear)->bits == 8 && c.inputs(linear)->group_size == kPerChannel);
  });
}

Linears integer_inputs_of_experts(const Case& c) {
  return where(c, [&](const LinearSpec& linear, const Scheme&) {
    return routed(linear) && has_integer_inputs(c, linear);
  });
}

Linears fp8_inputs_of_integers(const Case& c) {
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    return !scheme.is_float() && c.inputs(linear) && is_fp8(*c.inputs(linear));
  });
}

bool is_mxfp4_expert(const LinearSpec& linear, const Scheme& scheme) {
  return routed(linear) && scheme.is_mx() && scheme.bits == 4;
}

Linears mxfp4_experts(const Case& c) {
  return c.format == kGptOss ? Linears{} : where(c, is_mxfp4_expert);
}

Linears other_microscaled(const Case& c) {
  return where(c, [](const LinearSpec& linear, const Scheme& scheme) {
    return scheme.is_mx() && !is_mxfp4_expert(linear, scheme);
  });
}

Linears transformers_experts(const Case& c) {
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    const bool packed = !scheme.is_float() && !c.inputs(linear);
    return routed(linear) && !packed && !is_fp8(scheme) && !is_mxfp4_expert(linear, scheme);
  });
}

/// Packed integers are the format of the whole checkpoint then.
Linears beside_integer_experts(const Case& c) {
  const auto packed = [&](const LinearSpec& linear) {
    return !c.scheme(linear).is_float() && !c.inputs(linear);
  };
  const bool wanted = !where(c, [&](const LinearSpec& linear, const Scheme&) {
                         return routed(linear) && packed(linear);
                       }).empty();
  return where(c,
               [&](const LinearSpec& linear, const Scheme&) { return wanted && !packed(linear); });
}

// Widths, zero points, signs.

Linears rare_widths(const Case& c) {
  return where(c, [](const LinearSpec&, const Scheme& scheme) { return !is_common_width(scheme); });
}

/// Of a checkpoint with more than one scheme.
Linears rare_and_mixed(const Case& c) {
  const Linears all = where(c, [](const LinearSpec&, const Scheme&) { return true; });
  const bool one_scheme = std::ranges::all_of(
      all, [&](const LinearSpec* linear) { return alike(c, *linear, *all.front()); });
  return one_scheme ? Linears{} : rare_widths(c);
}

Linears eight_bits_with_zeros(const Case& c) {
  return where(c, [](const LinearSpec&, const Scheme& scheme) {
    return !scheme.symmetric && scheme.bits == 8;
  });
}

Linears uncommon_gptq(const Case& c) {
  return where(c, [](const LinearSpec&, const Scheme& scheme) {
    return !is_common_width(scheme) || !scheme.symmetric;
  });
}

Linears zeros_of_experts(const Case& c) {
  return where(c, [](const LinearSpec& linear, const Scheme& scheme) {
    return routed(linear) && !scheme.symmetric;
  });
}

Linears negative_scales(const Case& c) {
  const GptqSettings& gptq = c.assignments.settings.gptq;
  const bool possible = gptq.negative_scales && gptq.scale_search != ScaleSearch::absmax;
  return where(c, [&](const LinearSpec&, const Scheme& scheme) {
    return possible && !scheme.is_float() && scheme.symmetric && scheme.group_size > 0 &&
           is_common_width(scheme);
  });
}

// Groups.

Linears per_tensor_integers(const Case& c) {
  return where(c, [](const LinearSpec&, const Scheme& scheme) {
    return !scheme.is_float() && scheme.group_size == kPerTensor;
  });
}

Linears slow_groups(const Case& c) {
  constexpr std::array<Index, 4> kMarlin{kPerChannel, 32, 64, 128};
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    return !scheme.is_float() && is_common_width(scheme) &&
           (std::ranges::find(kMarlin, scheme.group_size) == kMarlin.end() ||
            (routed(linear) && c.model.hidden % 128 != 0));
  });
}

Linears channels_of_experts(const Case& c) {
  return where(c, [&](const LinearSpec& linear, const Scheme& scheme) {
    return routed(linear) && !scheme.is_float() && !c.inputs(linear) &&
           served_scheme(scheme, linear.columns).group_size == kPerChannel;
  });
}

/// Servers name the modules of a wrapper otherwise, which patterns miss.
Linears wrapped_and_mixed(const Case& c) {
  const Linears all = where(c, [](const LinearSpec&, const Scheme&) { return true; });
  return where(c, [&](const LinearSpec& linear, const Scheme&) {
    return !alike(c, linear, *all.front()) && plain_name(linear.name) != linear.name;
  });
}

enum : unsigned { vllm = 1, vllm_gptq = 2, transformers = 4, sglang = 8 };
constexpr unsigned kCompressed = vllm | transformers | sglang, kServers = vllm | vllm_gptq | sglang,
                   kAll = kCompressed | vllm_gptq;

const std::vector<ServingTarget>& target_table() {
  static const std::vector<ServingTarget> all{
      {"vllm", vllm, "compressed-tensors", experts_and_fused},
      {"vllm-gptq", vllm_gptq, "gptq", experts_and_fused},
      {"transformers", transformers, "compressed-tensors", experts_of_all_layers},
      {"sglang", sglang, "compressed-tensors", experts_and_fused}};
  return all;
}

}  // namespace

const ServingTarget& serving_target(std::string_view name) {
  const auto row = std::ranges::find(target_table(), name, &ServingTarget::name);
  if (row == target_table().end())
    throw Error(ErrorKind::usage, "judge the recipe", "target",
                str("'", name, "' is not known", did_you_mean(name, serving_targets())),
                "vllm, vllm-gptq, transformers and sglang are");
  return *row;
}

std::vector<Linears> alike_linears(std::string_view target, const Model& model) {
  return serving_target(target).alike(model);
}

std::vector<std::string_view> serving_targets() {
  std::vector<std::string_view> names;
  for (const ServingTarget& row : target_table()) names.push_back(row.name);
  return names;
}

const std::vector<ServingRule>& serving_rules() {
  using enum Gravity;
  static const std::vector<ServingRule> all{
      {kServers, refused, "the routed experts of a layer have one scheme, gate, up and down alike",
       "vLLM compressed_tensors_moe.py, SGLang get_moe_scheme", unlike_experts_of_a_layer},
      {transformers, refused, "the routed experts of the whole model have one scheme",
       "transformers get_experts_scheme", unlike_experts_of_the_model},
      {kServers, refused, "q, k and v, gate and up, q_a and kv_a are fused and have one scheme",
       "vLLM compressed_tensors/utils.py", unlike_fused},
      {kAll, refused, "routers stay as they are", "vLLM models, GateLinear", quantized_routers},
      {kServers, refused, "a head that is the embedding's tensor stays as it is",
       "vLLM models, tie_weights", tied_head},
      {kAll, refused,
       "experts of gpt-oss are all mxfp4 and all else is untouched, or they are untouched",
       "vLLM and SGLang models/gpt_oss.py, transformers integrations/mxfp4.py", beside_gpt_oss},
      {kAll, refused, "the export's format can hold the matrix",
       "compressed-tensors quant_args.py, GPTQModel quantization/config.py", without_form},
      {vllm | sglang, refused, "fp8 has a scale for each channel or one for the tensor",
       "vLLM compressed_tensors.py, _is_fp8_w8a8", grouped_fp8},
      {vllm | sglang, refused, "fp8 experts have channel scales and fp8 inputs",
       "vLLM compressed_tensors_moe_w8a8_fp8.py", fp8_experts_alone},
      {vllm | sglang, refused, "integer inputs go with symmetric int8 by channel",
       "vLLM compressed_tensors.py, _is_dynamic_token_w8a8", integer_inputs},
      {sglang, refused, "experts have no integer inputs but on NPUs",
       "SGLang compressed_tensors.py, get_moe_scheme", integer_inputs_of_experts},
      {sglang, refused, "there is no mxfp8, and mxfp4 for experts alone",
       "SGLang compressed_tensors.py", other_microscaled},
      {sglang, note, "mxfp4 experts run code that was written for gpt-oss",
       "SGLang compressed_tensors.py", mxfp4_experts},
      {sglang, refused, "beside integer experts everything is packed integers",
       "SGLang schemes/compressed_tensors_wNa16_moe.py", beside_integer_experts},
      {transformers, refused, "experts are integers with plain inputs, fp8 or mxfp4",
       "transformers get_experts_scheme", transformers_experts},
      {transformers, refused, "experts have no zero points", "transformers get_experts_scheme",
       zeros_of_experts},
      {vllm_gptq, refused, "matrices are symmetric, of 4 or 8 bits", "vLLM auto_gptq.py, TYPE_MAP",
       uncommon_gptq},
      {kServers, refused, "integers have a scale for each group or channel",
       "vLLM CompressedTensorsWNA16", per_tensor_integers},
      {kServers, refused, "attention and MLPs can be cut into so many parts (--tp)",
       "vLLM distributed/utils.py, ensure_divisibility", not_cut},
      {kServers, refused, "the columns of a rank's part are whole groups (--tp)",
       "vLLM verify_group_size_divides_partition", cut_groups},
      {vllm | sglang, refused, "the zero points of a rank's part are whole words (--tp)",
       "vLLM PackedvLLMParameter", cut_zeros},
      {sglang, refused, "the number of experts is a multiple of the ranks (--tp, --ep)",
       "SGLang fused_moe_triton/layer.py", experts_that_do_not_spread},
      {vllm, note, "widths other than 4 and 8 bits need the Humming kernels",
       "vLLM oracle/int_wna16.py", rare_widths},
      {sglang, refused, "other widths than 4 and 8 bits are those of the whole checkpoint",
       "SGLang quantization/humming.py", rare_and_mixed},
      {sglang, refused, "integers of 8 bits have no zero points",
       "SGLang compressed_tensors_wNa16.py", eight_bits_with_zeros},
      {sglang, note, "widths other than 4 and 8 bits need --quantization humming",
       "SGLang quantization/humming.py", rare_widths},
      {vllm, note, "fp8 inputs of integers need compute capability 9.0, int4 and groups of 128",
       "vLLM compressed_tensors_w4a8_fp8.py", fp8_inputs_of_integers},
      {kServers, note, "the Marlin kernels take groups of 32, 64, 128 or a channel",
       "vLLM check_moe_marlin_supports_config", slow_groups},
      {vllm, note, "experts with channel scales need --moe-backend marlin on Hopper",
       "vLLM compressed_tensors_moe_wna16.py, prioritize_humming", channels_of_experts},
      {kAll, note, "a model inside a wrapper has other names in servers: give it one scheme",
       "vLLM WeightsMapper", wrapped_and_mixed},
      {vllm | vllm_gptq, hint,
       "scales may be negative, which vLLM reads wrongly with VLLM_MARLIN_INPUT_DTYPE=int8: leave "
       "it unset, or quantize with scale_sign positive",
       "vllm-project/vllm#48905", negative_scales}};
  return all;
}

std::string_view format_for(const ServingTarget& target, const Model& model,
                            const Assignments& assignments) {
  const ServedFormat& own = served_format(kGptOss);
  const bool fits = target.bit != vllm_gptq && suits(own, model) &&
                    misfits(own, model, stored_matrices(model, assignments)).empty();
  return fits ? own.name : target.format;
}

std::vector<BrokenRule> broken_rules(const ServingTarget& target, const Model& model,
                                     const Assignments& assignments, const ServingPlan& plan) {
  const ServingCase judged{model, assignments, plan, format_for(target, model, assignments)};
  std::vector<BrokenRule> broken;
  for (const ServingRule& rule : serving_rules())
    if ((rule.targets & target.bit) != 0)
      if (Linears linears = rule.broken_by(judged); !linears.empty())
        broken.push_back({&rule, std::move(linears)});
  return broken;
}

}  // namespace aq
