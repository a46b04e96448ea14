#include "plan/layer_sizes.h"

#include <algorithm>

#include "aq/quant/hessian.h"
#include "aq/runtime/workspace.h"

namespace aq {

CrossSum cross_of(Stage stage) {
  return stage == Stage::o || stage == Stage::down ? CrossSum::outputs : CrossSum::inputs;
}

Index cross_rows(const LinearGroup& group) {
  const LinearSpec& linear = *group.linears.front();
  return cross_of(group.stage) == CrossSum::outputs ? linear.rows : linear.columns;
}

bool is_coupled(const Assignments& assignments, const LayerSpec& layer, const LinearSpec& linear) {
  if (!assignments.settings.sums_outputs()) return false;
  if (assignments.of(linear).method != Method::gptq) return false;
  return std::ranges::any_of(qkv_linears(layer), [&](const LinearSpec* makes_heads) {
    return makes_heads->name == linear.name;
  });
}

namespace {

Index weights_of(const LinearSpec& linear) {
  return linear.rows * linear.columns;
}

/// What a task takes; each matrix as the recipe says.
TaskShape shape_of(const Assignments& assignments, const LinearGroup& group) {
  TaskShape shape;
  for (const LinearSpec* linear : group.linears) {
    shape.columns = linear->columns;
    shape.weights += weights_of(*linear);
    const Assignment& assignment = assignments.of(*linear);
    if (assignment.method == Method::copy) continue;
    shape.rows += linear->rows;
    shape.packed_bytes += packed_bytes(assignment.scheme, linear->rows, linear->columns);
    shape.group = std::max(shape.group, group_width(assignment.scheme, linear->columns));
    shape.has_hessian = shape.has_hessian || assignment.method == Method::gptq;
  }
  if (shape.has_hessian && assignments.settings.runs_original())
    shape.cross_rows = cross_rows(group);
  return shape;
}

void add_attention_sizes(const Assignments& assignments, const LayerSpec& layer,
                         LayerSizes& sizes) {
  const AttentionSpec& attention = layer.attention;
  sizes.core_width = attention.out_width();
  sizes.head_widths = attention.q_width() + attention.k_width() + attention.v_width();
  for (const LinearGroup& group : attention_groups(layer)) {
    sizes.attention.push_back({group.stage, shape_of(assignments, group)});
    for (const LinearSpec* linear : group.linears)
      if (is_coupled(assignments, layer, *linear))
        sizes.attention.back().task.output_rows += linear->rows;
    sizes.layer_packed_bytes += sizes.attention.back().task.packed_bytes;
  }
  sizes.attention_weights = sizes.attention.front().task.weights;
  Index at_once = attention.heads;
  if (layer.latent) {
    const LatentHeads& latent = *layer.latent;
    at_once = std::min(at_once, runtime::kLatentHeads);
    sizes.head_widths = (sizes.head_widths + latent.kv_b.rows) * at_once / attention.heads;
    sizes.latent_width = (latent.q_a ? latent.q_a->rows : 0) + latent.kv_a.rows;
    sizes.attention_weights = weights_of(latent.q) + weights_of(latent.kv_b);
  }
  const bool copies = layer.latent || attention.qk_norm != QkNorm::none || attention.clip_qkv;
  sizes.gradient_widths = at_once * attention.value_dim + attention.head_dim + attention.value_dim +
                          (copies ? sizes.head_widths : 0);
}

/// The larger of both in every size.
void raise(TaskShape& shape, const TaskShape& other) {
  shape.columns = std::max(shape.columns, other.columns);
  shape.rows = std::max(shape.rows, other.rows);
  shape.weights = std::max(shape.weights, other.weights);
  shape.packed_bytes = std::max(shape.packed_bytes, other.packed_bytes);
  shape.group = std::max(shape.group, other.group);
  shape.has_hessian = shape.has_hessian || other.has_hessian;
  shape.cross_rows = std::max(shape.cross_rows, other.cross_rows);
}

}  // namespace

LayerSizes sizes_of(const Model& model, const LayerSpec& layer, const Assignments& assignments) {
  const QuantizeSettings& settings = assignments.settings;
  LayerSizes sizes;
  sizes.hidden = model.hidden;
  sizes.vocabulary = model.vocabulary;
  add_attention_sizes(assignments, layer, sizes);
  for (const MlpSpec& mlp : layer.mlps)
    for (const LinearGroup& group : mlp_groups(mlp))
      sizes.layer_packed_bytes += shape_of(assignments, group).packed_bytes;
  sizes.experts = layer.moe ? layer.moe->routing.experts : 1;
  sizes.refines = settings.gptq.refine > 0;
  sizes.reorders = settings.gptq.act_order == ActOrder::fixed;
  sizes.two_passes = settings.sequential == Sequential::layer;
  sizes.runs_original = settings.runs_original();
  sizes.all_tokens =
      layer.moe && (settings.expert_tokens == ExpertTokens::all ||
                    (settings.starved == Starved::all_tokens && settings.min_tokens > 0));
  return sizes;
}

void set_experts(LayerSizes& sizes, const Assignments& assignments, const LayerSpec& layer,
                 const MlpRun& run) {
  sizes.routed = run.kind == MlpKind::routed;
  sizes.top_k = sizes.routed ? layer.moe->routing.top_k : run.numbers.size();
  sizes.mlp_width = layer.mlp(run.numbers.begin).gate.rows;
  sizes.gate_up = sizes.down = {};
  for (Index number = run.numbers.begin; number < run.numbers.end; ++number)
    for (const LinearGroup& group : mlp_groups(layer.mlp(number)))
      raise(group.stage == Stage::down ? sizes.down : sizes.gate_up, shape_of(assignments, group));
}

void mark_tree_sums(LayerSizes& sizes, SumTraffics& sums) {
  const auto mark = [&](TaskShape& task, bool alone) {
    task.along_tree = alone && task.has_hessian &&
                      always_along_tree(std::span(&sums.of(hessian_size(task.columns)), 1));
  };
  for (StageShape& group : sizes.attention)
    mark(group.task, std::ranges::count(sizes.attention, group.stage, &StageShape::stage) == 1);
  mark(sizes.gate_up, !sizes.routed);
  mark(sizes.down, !sizes.routed);
}

}  // namespace aq
