#include "model/architectures/table.h"

#include <array>

namespace aq {

std::span<const Architecture> architectures() {
  static const std::array rows{
      architecture_rows::llama,
      architecture_rows::mixtral,
      architecture_rows::olmoe,
  };
  return rows;
}

}  // namespace aq
