#include "aq/model/storage.h"

#include "aq/core/text.h"
#include "model/describe.h"

namespace aq {
namespace {

bool is_fused(const Model& model, const LinearSpec& linear) {
  return model.fused && linear.expert >= 0;
}

/// The part of a fused tensor that belongs to one projection of one expert.
StoredPart fused_part(const Model& model, const LinearSpec& linear) {
  const FusedExperts& fused = *model.fused;
  const MoeSpec& moe = *model.layers[linear.layer].moe;
  const bool both = linear.role != Role::down;
  StoredPart part;
  part.tensor = replace_all(both ? fused.gate_up : fused.down, "{i}", str(linear.layer));
  part.slice = linear.expert;
  part.slices = moe.routing.experts;
  part.outputs = both ? 2 * linear.rows : linear.rows;
  part.inputs = linear.columns;
  part.transposed = fused.transposed && model.encoding != SourceEncoding::mxfp4;
  if (both && fused.interleaved) part.step = 2;
  if (linear.role == Role::up) part.first = fused.interleaved ? 1 : linear.rows;
  return part;
}

Index product(const std::vector<Index>& shape, const std::string& name) {
  Index elements = 1;
  for (const Index extent : shape) elements = checked_multiply(elements, extent, name);
  return elements;
}

/// Collects tensors.
class TensorList {
 public:
  explicit TensorList(const Model& model) : model_(model) {}

  void vector(const std::string& name, Index size) {
    if (!name.empty()) plain(name, {size});
  }
  void plain(const std::string& name, std::vector<Index> shape) {
    const Index parameters = product(shape, name);
    tensors.push_back({name, std::move(shape), parameters, part});
  }
  /// gate and up of fused experts are one tensor, all experts of a layer as well.
  void linear(const LinearSpec& linear) {
    if (is_fused(model_, linear) && (linear.expert > 0 || linear.role == Role::up)) return;
    weight(linear);
    if (linear.bias) {
      const StoredPart stored = stored_bias(model_, linear);
      plain(stored.tensor, stored.shape());
    }
  }

  std::vector<ExpectedTensor> tensors;
  Index part = 0;  ///< of what is added next

 private:
  void weight(const LinearSpec& linear) {
    if (const auto packed = model_.packed.find(linear.name); packed != model_.packed.end()) {
      Index parameters = checked_multiply(linear.rows, linear.columns, linear.name);
      for (const PackedTensor& tensor : packed->second.tensors) {
        tensors.push_back(
            {str(linear.name, ".", tensor.suffix), tensor.shape, parameters, part, true});
        parameters = 0;  // the codes stand first
      }
      return;
    }
    const StoredPart stored = stored_weight(model_, linear);
    const Index parameters = product(stored.shape(), stored.tensor);
    if (stored.fused() && model_.encoding == SourceEncoding::mxfp4) {
      const Index groups = stored.inputs / kMxfp4Group;
      tensors.push_back({mxfp4_blocks_name(stored.tensor),
                         {stored.slices, stored.outputs, groups, kMxfp4Group / 2},
                         parameters,
                         part});
      tensors.push_back(
          {mxfp4_scales_name(stored.tensor), {stored.slices, stored.outputs, groups}, 0, part});
      return;
    }
    tensors.push_back({stored.tensor, stored.shape(), parameters, part});
    if (model_.encoding == SourceEncoding::fp8_blocks && has_block_scales(linear.role))
      tensors.push_back({block_scales_name(stored.tensor),
                         {ceil_div(stored.outputs, model_.block_rows),
                          ceil_div(stored.inputs, model_.block_columns)},
                         0,
                         part});
  }
  static bool has_block_scales(Role role) {
    return role != Role::router && role != Role::shared_router && role != Role::head;
  }

  const Model& model_;
};

/// What a layer reads besides its linears: norms, sinks, the correction of routers.
void list_vectors(const Model& model, const LayerSpec& layer, TensorList& list) {
  const AttentionSpec& attention = layer.attention;
  list.vector(layer.input_norm, model.hidden);
  if (layer.latent) {
    if (layer.latent->q_a) list.vector(layer.latent->q_a_norm, layer.latent->q_a->rows);
    list.vector(layer.latent->kv_a_norm, layer.latent->rank());
  } else {
    const bool by_head = attention.qk_norm == QkNorm::head;
    list.vector(layer.heads->q_norm, by_head ? attention.head_dim : attention.q_width());
    list.vector(layer.heads->k_norm, by_head ? attention.head_dim : attention.k_width());
  }
  list.vector(layer.sinks, attention.heads);
  list.vector(layer.post_attention_norm, model.hidden);
  if (layer.moe) list.vector(layer.moe->correction_bias, layer.moe->routing.experts);
}

/// quantization_config of config.json: what its weights are encoded in.
void read_encoding(const Source& source, const TensorShapes& tensors, Model& model) {
  const auto quantization = source.config.object("quantization_config");
  if (!quantization) return;
  const std::string method = quantization->text_or("quant_method", "");
  if (method == "fp8" && quantization->has("weight_block_size")) {
    if (const std::string format = quantization->text_or("fmt", "e4m3"); format != "e4m3")
      source.config.fail("quantization_config", str("has fmt '", format, "', not 'e4m3'"));
    const Json& block = quantization->json().at("weight_block_size");
    const auto is_size = [](const Json& v) {
      return v.is_number_integer() && v.get<double>() >= 1 && v.get<double>() <= 65536;
    };
    if (!block.is_array() || block.size() != 2 || !is_size(block[0]) || !is_size(block[1]))
      source.config.fail("quantization_config", str("has weight_block_size ", block.dump(),
                                                    ", not two whole numbers in [1, 65536]"));
    model.encoding = SourceEncoding::fp8_blocks;
    model.block_rows = block[0].get<Index>();
    model.block_columns = block[1].get<Index>();
  } else if (method == "mxfp4" && source.row.fused_experts) {
    model.encoding = SourceEncoding::mxfp4;
  } else if (reads_packed(method) && !tensors.empty()) {
    model.encoding = SourceEncoding::packed;
    read_packed(source.config, *quantization, tensors, model);
  } else {
    source.config.fail("quantization_config",
                       str("has quant_method '", method,
                           "': such sources are not supported, but FP8 with weight_block_size, "
                           "the MXFP4 of gpt-oss, and for eval compressed-tensors and gptq are"),
                       "use the bf16 checkpoint");
  }
}

}  // namespace

std::vector<Index> StoredPart::shape() const {
  std::vector<Index> result;
  if (fused()) result.push_back(slices);
  if (inputs == 0) {
    result.push_back(outputs);
  } else {
    result.push_back(transposed ? inputs : outputs);
    result.push_back(transposed ? outputs : inputs);
  }
  return result;
}

StoredPart stored_weight(const Model& model, const LinearSpec& linear) {
  if (is_fused(model, linear)) return fused_part(model, linear);
  StoredPart part;
  part.tensor = linear.role == Role::head ? model.head_tensor() : linear.weight_name();
  part.outputs = linear.rows;
  part.inputs = linear.columns;
  return part;
}

StoredPart stored_bias(const Model& model, const LinearSpec& linear) {
  if (is_fused(model, linear)) {
    StoredPart part = fused_part(model, linear);
    part.tensor += "_bias";
    part.inputs = 0;
    return part;
  }
  StoredPart part;
  part.tensor = linear.bias_name();
  part.outputs = linear.rows;
  return part;
}

std::string block_scales_name(const std::string& tensor) {
  return tensor + "_scale_inv";
}
std::string mxfp4_blocks_name(const std::string& tensor) {
  return tensor + "_blocks";
}
std::string mxfp4_scales_name(const std::string& tensor) {
  return tensor + "_scales";
}

std::vector<ExpectedTensor> expected_tensors(const Model& model) {
  TensorList list(model);
  list.plain(model.embedding, {model.vocabulary, model.hidden});
  for (const LayerSpec& layer : model.layers) {
    list.part = layer.index;
    list_vectors(model, layer, list);
    for (const LinearGroup& group : groups(layer))
      for (const LinearSpec* linear : group.linears) list.linear(*linear);
  }
  list.part = std::ssize(model.layers);
  list.vector(model.final_norm, model.hidden);
  if (!model.tied_head) list.linear(model.head);
  return std::move(list.tensors);
}

Index parameter_count(const Model& model) {
  Index count = 0;
  for (const ExpectedTensor& tensor : expected_tensors(model))
    count = checked_add(count, tensor.parameters, "the model's parameters");
  return count;
}

void read_storage(const Source& source, const TensorShapes& tensors, Model& model) {
  read_encoding(source, tensors, model);
  const std::vector<const LayerSpec*> layers = model.moe_layers();
  if (layers.empty()) return;
  const Architecture& row = source.row;
  const FusedExperts fused{.gate_up = row.tensors.layer + row.tensors.fused_gate_up,
                           .down = row.tensors.layer + row.tensors.fused_down,
                           .interleaved = row.fused_interleaved,
                           .transposed = row.fused_transposed};
  const LayerSpec& first = *layers.front();
  const std::string name = replace_all(fused.down, "{i}", str(first.index));
  const LinearSpec& down = first.mlp(0).down;
  const bool one_by_one = tensors.contains(down.weight_name()) || model.packed.contains(down.name);
  if (!one_by_one && (row.fused_experts || tensors.contains(name))) model.fused = fused;
  if (model.encoding != SourceEncoding::mxfp4) return;
  for (const Index width : {model.hidden, first.mlp(0).gate.rows})
    if (width % kMxfp4Group != 0)
      source.config.fail("quantization_config", str("says mxfp4, but rows of ", width,
                                                    " are no multiple of ", kMxfp4Group));
}

}  // namespace aq
