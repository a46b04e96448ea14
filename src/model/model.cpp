#include "aq/model/model.h"

namespace aq {

std::string Model::head_tensor() const {
  return tied_head ? embedding : head.weight_name();
}

namespace {

/// Calls visit(linear) for every linear of the layer in order of use.
template <class Visit>
void for_each_linear(const LayerSpec& layer, const Visit& visit) {
  for (const LinearSpec* linear : {&layer.q, &layer.k, &layer.v, &layer.o}) visit(*linear);
  const auto visit_mlp = [&](const MlpSpec& mlp) {
    for (const LinearSpec* linear : {&mlp.gate, &mlp.up, &mlp.down}) visit(*linear);
  };
  if (layer.dense) visit_mlp(*layer.dense);
  if (layer.moe) {
    visit(layer.moe->router);
    for (const MlpSpec& expert : layer.moe->experts) visit_mlp(expert);
  }
}

}  // namespace

std::vector<const LinearSpec*> all_linears(const Model& model) {
  std::vector<const LinearSpec*> linears;
  for (const LayerSpec& layer : model.layers)
    for_each_linear(layer, [&](const LinearSpec& linear) { linears.push_back(&linear); });
  linears.push_back(&model.head);
  return linears;
}

std::vector<ExpectedTensor> expected_tensors(const Model& model) {
  std::vector<ExpectedTensor> tensors{{model.embedding, {model.vocabulary, model.hidden}}};
  const AttentionSpec& attention = model.attention;
  for (const LayerSpec& layer : model.layers) {
    tensors.push_back({layer.input_norm, {model.hidden}});
    tensors.push_back({layer.post_attention_norm, {model.hidden}});
    if (attention.qk_norm == QkNorm::projection) {
      tensors.push_back({layer.q_norm, {attention.heads * attention.head_dim}});
      tensors.push_back({layer.k_norm, {attention.kv_heads * attention.head_dim}});
    }
    for_each_linear(layer, [&](const LinearSpec& linear) {
      tensors.push_back({linear.weight_name(), {linear.rows, linear.columns}});
    });
  }
  tensors.push_back({model.final_norm, {model.hidden}});
  if (!model.tied_head)
    tensors.push_back({model.head.weight_name(), {model.vocabulary, model.hidden}});
  return tensors;
}

Index parameter_count(const Model& model) {
  Index count = 0;
  for (const ExpectedTensor& tensor : expected_tensors(model)) {
    Index elements = 1;
    for (const Index extent : tensor.shape)
      elements = checked_multiply(elements, extent, tensor.name);
    count = checked_add(count, elements, "the model's parameters");
  }
  return count;
}

}  // namespace aq
