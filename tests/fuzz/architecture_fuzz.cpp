/// The input is a user's description of an architecture, used to read a small configuration.

#include "aq/model/architecture_json.h"
#include "aq/model/storage.h"
#include "fuzz.h"

namespace {

constexpr const char* kConfig = R"({"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40, "num_experts": 4,
  "num_experts_per_tok": 2, "moe_intermediate_size": 24, "kv_lora_rank": 8, "qk_nope_head_dim": 8,
  "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 2, "topk_group": 1})";

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  fuzz::expect_error_or_success([&] {
    const Architecture row = architecture_from_json(fuzz::text_of(data, size), "row.json");
    architecture_from_json(architecture_to_json(row), "row.json");
    const Model model = describe_model(row, kConfig, "config.json");
    all_linears(model);
    parameter_count(model);
  });
  return 0;
}
