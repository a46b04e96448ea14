/// The input is a recipe or a flat plan, applied to a small model.

#include "aq/model/architecture.h"
#include "aq/recipe/recipe.h"
#include "fuzz.h"

namespace {

constexpr const char* kConfig = R"({"model_type": "olmoe", "vocab_size": 96, "hidden_size": 64,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
  "intermediate_size": 40, "num_experts": 4, "num_experts_per_tok": 2})";

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  static const Model model = describe_model(kConfig, "config.json");
  fuzz::expect_error_or_success([&] {
    const Recipe recipe = parse_recipe(fuzz::text_of(data, size), "recipe.json");
    unmatched_patterns(recipe, model);
    group_remarks(assign(recipe, model), model);
    for (const LinearSpec* linear : all_linears(model)) to_string(resolve(recipe, *linear));
    const Recipe again = parse_recipe(flat_plan(recipe, assign(recipe, model), model), "plan.json");
    for (const LinearSpec* linear : all_linears(model))
      AQ_CHECK(resolve(again, *linear) == resolve(recipe, *linear), linear->name);
  });
  return 0;
}
