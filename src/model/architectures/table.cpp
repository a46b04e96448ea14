#include "model/architectures/table.h"

#include <algorithm>
#include <array>

namespace aq {

std::span<const Architecture> architectures() {
  using namespace architecture_rows;
  static const std::array rows{
      deepseek(), deepseek_v2(), deepseek_v3(), glm4_moe(),  gpt_oss(), llama(),
      mixtral(),  olmoe(),       qwen2(),       qwen2_moe(), qwen3(),   qwen3_moe(),
  };
  return rows;
}

const Architecture* find_architecture(std::string_view name) {
  const auto rows = architectures();
  const auto found = std::find_if(rows.begin(), rows.end(),
                                  [&](const Architecture& row) { return row.name == name; });
  return found == rows.end() ? nullptr : &*found;
}

}  // namespace aq
