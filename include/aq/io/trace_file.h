#pragma once
/// HDF5 file of `eval --trace`.

#include <cstdint>
#include <filesystem>
#include <vector>

#include "aq/core/index.h"

namespace aq {

struct TraceData {
  Index windows = 0;
  Index window = 0;  ///< tokens of the longest window
  Index tokens = 0;  ///< of all windows
  Index vocabulary = 0, top_k = 0;
  std::vector<float> logits;               ///< [windows, window, vocabulary], zero behind the end
  std::vector<std::int32_t> router_index;  ///< [moe layers, tokens, top_k], by falling weight
  std::vector<float> router_weight;        ///< the same shape
  std::vector<std::int32_t> moe_layers;    ///< layer numbers
};

/// Dataset `logits` and, unless the model is dense, `router_index`, `router_weight` and the
/// attribute `moe_layers`. Whole or not at all.
void write_trace_file(const std::filesystem::path& path, const TraceData& trace);

}  // namespace aq
