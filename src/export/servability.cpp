#include "aq/export/servability.h"

#include <algorithm>
#include <array>
#include <functional>

#include "aq/comm/common_error.h"
#include "aq/core/text.h"
#include "export/served_format.h"

namespace aq {
namespace {

enum Target : unsigned { vllm = 1, vllm_gptq = 2, transformers = 4, sglang = 8 };
constexpr unsigned kCompressed = vllm | transformers | sglang, kServers = vllm | vllm_gptq | sglang;

struct TargetRow {
  std::string_view name;
  Target target;
  std::string_view format;
};
constexpr std::array<TargetRow, 4> kTargets{{{"vllm", vllm, "compressed-tensors"},
                                             {"vllm-gptq", vllm_gptq, "gptq"},
                                             {"transformers", transformers, "compressed-tensors"},
                                             {"sglang", sglang, "compressed-tensors"}}};

using Linears = std::vector<const LinearSpec*>;

/// What is judged.
struct Case {
  const Model& model;
  const Assignments& assignments;
  const ServingPlan& plan;
  std::string_view format;

  bool quantized(const LinearSpec& linear) const {
    return assignments.of(linear).method != Method::copy;
  }
  const Scheme& scheme(const LinearSpec& linear) const { return assignments.of(linear).scheme; }
  const std::optional<Scheme>& inputs(const LinearSpec& linear) const {
    return assignments.of(linear).activation;
  }
  /// Whether a server sees the same scheme: the type of a scale is not part of it.
  bool alike(const LinearSpec& a, const LinearSpec& b) const {
    if (quantized(a) != quantized(b)) return false;
    if (!quantized(a)) return true;
    Scheme left = scheme(a), right = scheme(b);
    if (!left.is_mx() && !left.is_nvfp4() && !right.is_mx() && !right.is_nvfp4())
      left.scale_type = right.scale_type = ScaleType::bf16;
    return left == right && inputs(a) == inputs(b);
  }
  /// All quantized linears for which `breaks` holds.
  Linears where(const std::function<bool(const LinearSpec&, const Scheme&)>& breaks) const {
    Linears found;
    for (const LinearSpec* linear : all_linears(model))
      if (quantized(*linear) && breaks(*linear, scheme(*linear))) found.push_back(linear);
    return found;
  }
  /// Columns of a rank's part: o and down are cut along their inputs. 0 where they cannot be cut.
  Index columns(const LinearSpec& linear) const {
    const bool cut = linear.role == Role::o ||
                     (linear.role == Role::down && !(plan.expert_parallel && routed(linear)));
    if (!cut) return linear.columns;
    return linear.columns % plan.tensor_parallel == 0 ? linear.columns / plan.tensor_parallel : 0;
  }
  static bool routed(const LinearSpec& linear) { return linear.expert >= 0; }
};

/// The linears that differ from the first of their set.
void add_unlike(const Case& c, const Linears& set, Linears& found) {
  for (const LinearSpec* linear : set)
    if (!c.alike(*linear, *set.front())) found.push_back(linear);
}

Linears experts_of(const LayerSpec& layer) {
  Linears experts;
  for (const LinearGroup& group : groups(layer))
    for (const LinearSpec* linear : group.linears)
      if (Case::routed(*linear)) experts.push_back(linear);
  return experts;
}

Linears unlike_experts_of_a_layer(const Case& c) {
  Linears found;
  for (const LayerSpec& layer : c.model.layers)
    if (const Linears experts = experts_of(layer); !experts.empty()) add_unlike(c, experts, found);
  return found;
}

Linears unlike_experts_of_the_model(const Case& c) {
  Linears all;
  for (const LayerSpec& layer : c.model.layers)
    for (const LinearSpec* linear : experts_of(layer)) all.push_back(linear);
  Linears found;
  if (!all.empty()) add_unlike(c, all, found);
  return found;
}

/// q, k, v; gate, up; q_a, kv_a: a server runs them as one.
Linears unlike_fused(const Case& c) {
  Linears found;
  for (const LayerSpec& layer : c.model.layers)
    for (const LinearGroup& group : groups(layer)) {
      Linears set;
      for (const LinearSpec* linear : group.linears)
        if (!Case::routed(*linear) && linear->role != Role::router &&
            linear->role != Role::shared_router)
          set.push_back(linear);
      const bool latent = !set.empty() && set.back()->role == Role::kv_a;
      if (set.size() < 2 || (latent && set.front()->role != Role::q_a)) continue;
      add_unlike(c, set, found);
    }
  return found;
}

Linears quantized_routers(const Case& c) {
  return c.where([](const LinearSpec& linear, const Scheme&) {
    return linear.role == Role::router || linear.role == Role::shared_router;
  });
}

Linears tied_head(const Case& c) {
  return c.where([&](const LinearSpec& linear, const Scheme&) {
    return linear.role == Role::head && c.model.tied_head;
  });
}

Linears without_form(const Case& c) {
  const ServedFormat& format = served_format(c.format);
  return c.where([&](const LinearSpec& linear, const Scheme& scheme) {
    return !format
                .problem({linear.name, linear.rows, linear.columns,
                          served_scheme(scheme, linear.columns), c.inputs(linear)})
                .empty();
  });
}

Linears grouped_fp8(const Case& c) {
  return c.where([](const LinearSpec&, const Scheme& scheme) {
    return scheme.element == Element::e4m3 && !scheme.is_mx() && scheme.group_size > 0;
  });
}

bool is_fp8(const Scheme& scheme) {
  return scheme.element == Element::e4m3 && !scheme.is_mx();
}

Linears fp8_experts_alone(const Case& c) {
  return c.where([&](const LinearSpec& linear, const Scheme& scheme) {
    const auto& inputs = c.inputs(linear);
    return Case::routed(linear) && is_fp8(scheme) &&
           !(scheme.group_size == kPerChannel && inputs && is_fp8(*inputs) &&
             inputs->group_size == kPerChannel);
  });
}

Linears integer_inputs(const Case& c) {
  return c.where([&](const LinearSpec& linear, const Scheme& scheme) {
    const auto& inputs = c.inputs(linear);
    const bool int8 = scheme.bits == 8 && scheme.symmetric && scheme.group_size == kPerChannel &&
                      inputs && inputs->bits == 8 && inputs->group_size == kPerChannel;
    return !scheme.is_float() && inputs && !inputs->is_float() && !int8;
  });
}

Linears per_tensor_integers(const Case& c) {
  return c.where([](const LinearSpec&, const Scheme& scheme) {
    return !scheme.is_float() && scheme.group_size == kPerTensor;
  });
}

Linears cut_groups(const Case& c) {
  return c.where([&](const LinearSpec& linear, const Scheme& scheme) {
    const Index group = served_scheme(scheme, linear.columns).group_size;
    const Index columns = c.columns(linear);
    return columns == 0 || (group > 0 && columns % group != 0);
  });
}

bool is_common_width(const Scheme& scheme) {
  return scheme.is_float() || scheme.bits == 4 || scheme.bits == 8;
}

Linears rare_widths(const Case& c) {
  return c.where([](const LinearSpec&, const Scheme& scheme) { return !is_common_width(scheme); });
}

Linears uncommon_gptq(const Case& c) {
  return c.where([](const LinearSpec&, const Scheme& scheme) {
    return !is_common_width(scheme) || !scheme.symmetric;
  });
}

Linears zeros_of_experts(const Case& c) {
  return c.where([](const LinearSpec& linear, const Scheme& scheme) {
    return Case::routed(linear) && !scheme.symmetric;
  });
}

Linears slow_groups(const Case& c) {
  constexpr std::array<Index, 4> kMarlin{kPerChannel, 32, 64, 128};
  return c.where([&](const LinearSpec& linear, const Scheme& scheme) {
    return !scheme.is_float() && is_common_width(scheme) &&
           (std::ranges::find(kMarlin, scheme.group_size) == kMarlin.end() ||
            (Case::routed(linear) && c.model.hidden % 128 != 0));
  });
}

Linears gpt_oss_experts(const Case& c) {
  return c.where([&](const LinearSpec& linear, const Scheme&) {
    return Case::routed(linear) && c.model.architecture == "gpt_oss";
  });
}

Linears transformers_experts(const Case& c) {
  return c.where([&](const LinearSpec& linear, const Scheme& scheme) {
    const bool packed = !scheme.is_float() && !c.inputs(linear);
    return Case::routed(linear) && !packed && !is_fp8(scheme) && !scheme.is_mx();
  });
}

struct Rule {
  unsigned targets;
  bool warning;
  std::string_view text;
  std::string_view source;
  Linears (*find)(const Case&);
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> all{
      {kServers, false, "the routed experts of a layer have one scheme, gate, up and down alike",
       "vLLM compressed_tensors_moe.py, SGLang get_moe_scheme", unlike_experts_of_a_layer},
      {transformers, false, "the routed experts of the whole model have one scheme",
       "transformers get_experts_scheme", unlike_experts_of_the_model},
      {kServers, false, "q, k and v, gate and up, q_a and kv_a are fused and have one scheme",
       "vLLM compressed_tensors/utils.py", unlike_fused},
      {vllm | vllm_gptq | transformers | sglang, false, "routers stay as they are",
       "vLLM models, GateLinear", quantized_routers},
      {kServers, false, "a head that is the embedding's tensor stays as it is",
       "vLLM models, tie_weights", tied_head},
      {kCompressed | vllm_gptq, false, "the export's format can hold the matrix",
       "compressed-tensors quant_args.py, GPTQModel quantization/config.py", without_form},
      {vllm | sglang, false, "fp8 has a scale for each channel or one for the tensor",
       "vLLM compressed_tensors.py, _is_fp8_w8a8", grouped_fp8},
      {vllm | sglang, false, "fp8 experts have channel scales and fp8 inputs",
       "vLLM compressed_tensors_moe_w8a8_fp8.py", fp8_experts_alone},
      {vllm | sglang, false, "integer inputs go with symmetric int8 by channel",
       "vLLM compressed_tensors.py, _is_dynamic_token_w8a8", integer_inputs},
      {kServers, false, "integers have a scale for each group or channel",
       "vLLM CompressedTensorsWNA16", per_tensor_integers},
      {kServers, false, "the columns of a rank's part are whole groups (--tp)",
       "vLLM verify_group_size_divides_partition", cut_groups},
      {vllm, true, "widths other than 4 and 8 bits need the Humming kernels",
       "vLLM oracle/int_wna16.py", rare_widths},
      {sglang, true, "widths other than 4 and 8 bits need --quantization humming and one scheme",
       "SGLang quantization/humming.py", rare_widths},
      {vllm_gptq, false, "matrices are symmetric, of 4 or 8 bits", "vLLM auto_gptq.py, TYPE_MAP",
       uncommon_gptq},
      {transformers, false, "experts have no zero points", "transformers get_experts_scheme",
       zeros_of_experts},
      {transformers, false, "experts are integers with plain inputs, fp8 or mxfp4",
       "transformers get_experts_scheme", transformers_experts},
      {vllm | vllm_gptq | sglang, true,
       "the Marlin kernels take groups of 32, 64, 128 or a channel",
       "vLLM check_moe_marlin_supports_config", slow_groups},
      {kCompressed | vllm_gptq, false, "experts of gpt-oss stay one tensor: export them as bf16",
       "vLLM models/gpt_oss.py", gpt_oss_experts}};
  return all;
}

}  // namespace

bool Verdict::served() const {
  return std::ranges::all_of(objections, &Objection::warning);
}

std::vector<std::string_view> serving_targets() {
  std::vector<std::string_view> names;
  for (const TargetRow& row : kTargets) names.push_back(row.name);
  return names;
}

Verdict judge(std::string_view target, const Model& model, const Assignments& assignments,
              const ServingPlan& plan) {
  const auto row = std::ranges::find(kTargets, target, &TargetRow::name);
  if (row == kTargets.end())
    throw Error(ErrorKind::usage, "judge the recipe", "target",
                str("'", target, "' is not known", did_you_mean(target, serving_targets())),
                "vllm, vllm-gptq, transformers and sglang are");
  Verdict verdict{row->name, row->format, {}};
  const Case judged{model, assignments, plan, row->format};
  for (const Rule& rule : rules()) {
    if ((rule.targets & row->target) == 0) continue;
    Objection objection{rule.text, rule.source, rule.warning, {}};
    for (const LinearSpec* linear : rule.find(judged)) objection.matrices.push_back(linear->name);
    if (!objection.matrices.empty()) verdict.objections.push_back(std::move(objection));
  }
  return verdict;
}

std::string verdict_text(const Verdict& verdict) {
  std::string text = verdict.served() ? "yes" : "no";
  for (const Objection& objection : verdict.objections) {
    const std::size_t more = objection.matrices.size() - 1;
    text += str("\n", objection.warning ? "note: " : "rule: ", objection.rule,
                "; not so: ", objection.matrices.front(),
                more > 0 ? str(" and ", more, " more") : "", " [", objection.source, "]");
  }
  return text;
}

std::string servers_line(const Model& model, const Assignments& assignments,
                         const ServingPlan& plan) {
  std::string text;
  if (std::ranges::all_of(assignments.linears, [](const Assignment& assignment) {
        return assignment.method == Method::copy;
      }))
    return text;
  for (const std::string_view target : serving_targets()) {
    const Verdict verdict = judge(target, model, assignments, plan);
    const bool notes = verdict.served() && !verdict.objections.empty();
    text += str(text.empty() ? "" : ", ", target, verdict.served() ? " yes" : " no",
                notes ? " (with notes)" : "");
  }
  return text;
}

void require_servable(std::string_view target, const Model& model, const Assignments& assignments,
                      const ServingPlan& plan) {
  const Verdict verdict = judge(target, model, assignments, plan);
  if (verdict.served()) return;
  throw CommonError(ErrorKind::usage, "judge the recipe", target,
                    replace_all(verdict_text(verdict), "\n", "; "),
                    "docs/serving.md says what servers load");
}

}  // namespace aq
