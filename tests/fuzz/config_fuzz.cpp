/// The input is config.json: read by the row that it names, by one inferred from tensors, and by a
/// row with every kind of key.

#include "aq/model/architecture.h"
#include "aq/model/storage.h"
#include "fuzz.h"

namespace {

using namespace aq;

/// Tensors of a checkpoint with common names, some of them without a dimension.
TensorShapes common_tensors(bool scalars) {
  const std::vector<Index> shape = scalars ? std::vector<Index>{} : std::vector<Index>{8, 8};
  TensorShapes shapes;
  for (const char* module :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "self_attn.q_norm", "mlp.gate", "mlp.experts.0.down_proj", "mlp.shared_expert.gate_proj",
        "mlp.shared_expert_gate"})
    shapes[str("model.layers.0.", module, ".weight")] = shape;
  return shapes;
}

void describe(const Architecture& row, std::string_view config, const TensorShapes& shapes) {
  fuzz::expect_error_or_success([&] {
    const Model model = describe_model(row, config, "config.json", shapes);
    all_linears(model);
    parameter_count(model);
    for (const LinearSpec* linear : all_linears(model)) {
      stored_weight(model, *linear).shape();
      if (linear->bias) stored_bias(model, *linear).shape();
    }
  });
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view config = fuzz::text_of(data, size);
  static const TensorShapes none, matrices = common_tensors(false), scalars = common_tensors(true);
  fuzz::expect_error_or_success([&] {
    const Architecture* row = named_architecture(config, "config.json");
    if (row != nullptr) describe(*row, config, none);
  });
  for (const TensorShapes* shapes : {&matrices, &scalars})
    fuzz::expect_error_or_success(
        [&] { describe(infer_architecture(config, "config.json", *shapes).row, config, *shapes); });
  return 0;
}
