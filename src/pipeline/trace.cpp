#include "pipeline/trace.h"

#include <cstring>

#include "aq/io/trace_file.h"

namespace aq {
namespace {

/// The ranks' arrays one after the other, in rank order (which is window order).
template <class T>
std::vector<T> gather(const std::vector<T>& mine, Communicator& comm) {
  std::vector<T> all;
  for (const std::vector<std::byte>& bytes : comm.all_gather(std::as_bytes(std::span(mine)))) {
    const std::size_t before = all.size();
    all.resize(before + bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(all.data() + before, bytes.data(), bytes.size());
  }
  return all;
}

}  // namespace

void write_trace(const std::filesystem::path& path, const Trace& trace, const Model& model,
                 Index windows, Index window, Communicator& comm) {
  TraceData data;
  data.windows = windows;
  data.window = window;
  data.vocabulary = model.vocabulary;
  data.moe_layers = trace.moe_layers;
  data.logits = gather(trace.logits, comm);
  for (std::size_t i = 0; i < trace.moe_layers.size(); ++i) {
    const auto layer = static_cast<std::size_t>(trace.moe_layers[i]);
    data.top_k = model.layers[layer].moe->routing.top_k;
    for (const std::int32_t value : gather(trace.router_index[i], comm))
      data.router_index.push_back(value);
    for (const float value : gather(trace.router_weight[i], comm))
      data.router_weight.push_back(value);
  }
  if (comm.is_first()) write_trace_file(path, data);
  comm.barrier();
}

}  // namespace aq
