#include "plan/memory_layer.h"

namespace aq {

void LayerMemory::attention() {
  const StageShape* before = nullptr;
  Index all = 0;  // output factors: all are made with the first of them
  for (const StageShape& group : sizes_.attention) all += output_bytes(group.task);
  Index left = all;
  const Index original_o =
      sizes_.runs_original ? sizes_.attention.back().task.weights * product_bytes() : 0;
  for (const StageShape& group : sizes_.attention) {
    if (before == nullptr || before->stage != group.stage) run_to(group.stage);
    before = &group;
    MemoryEstimate rest{.activations = inputs_of(group.stage)};
    if (group.stage == Stage::latent) rest.activations *= streams();
    if (group.stage == Stage::o) rest.weights = original_o;
    if (const Index own = output_bytes(group.task); own > 0) {
      if (left == all) add(group.stage, Phase::hessian, output_sums(all));
      left -= own;
      rest.hessians = share_.pending * left;
    }
    MemoryEstimate sum = dense_sum(group.task);
    sum += rest;
    add(group.stage, Phase::hessian, sum);
    quantize(group.stage, group.task, 1, rest);
  }
  add(Stage::o, Phase::forward,
      {.activations = inputs_of(Stage::o),
       .buffers = worker_buffers(sizes_.hidden),
       .weights = sizes_.attention.back().task.weights * product_bytes()});
}

MemoryEstimate LayerMemory::dense_sum(const TaskShape& task) const {
  if (!task.has_hessian) return {};
  const Index busy = sums_at_once(task, share_.lanes);
  const Index ahead = share_.threads * lack_width(task);
  return {.buffers = piece() * (busy * 2 * task.columns + ahead) * kFloat,
          .hessians = (share_.pending + busy - 1) * sum_bytes(task)};
}

MemoryEstimate LayerMemory::output_sums(Index bytes) const {
  const Index width = 2 * sizes_.hidden + sizes_.head_widths + sizes_.gradient_widths;
  const Index o = sizes_.attention.back().task.weights;
  return {.activations = floats(sizes_.latent_width) * streams(),
          .buffers = worker_buffers(width + 2 * runtime::kQueryTile),
          .hessians = (share_.pending + share_.workers + 1) * bytes,
          .weights = (sizes_.attention_weights + o) * product_bytes()};
}

Index LayerMemory::inputs_of(Stage stage) const {
  if (stage == Stage::latent) return floats(sizes_.latent_width);
  return stage == Stage::o ? core_bytes() : 0;
}

Index LayerMemory::attention_buffers() const {
  const Index output = share_.bf16 ? sizes_.core_width : 0;
  return worker_buffers(sizes_.hidden + sizes_.head_widths + output + runtime::kQueryTile);
}

void LayerMemory::run_to(Stage stage) {
  const Index latents = inputs_of(Stage::latent);
  if (stage == Stage::latent)
    add(Stage::latent, Phase::forward,
        {.activations = latents * streams(),
         .buffers = worker_buffers(sizes_.hidden + sizes_.latent_width),
         .weights = sizes_.attention.front().task.weights * product_bytes()});
  if (stage == Stage::o)
    add(Stage::core, Phase::forward,
        {.activations = (inputs_of(Stage::o) + latents) * streams(),
         .buffers = attention_buffers(),
         .weights = sizes_.attention_weights * kFloat});
}

}  // namespace aq
