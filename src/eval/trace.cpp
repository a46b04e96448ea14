#include "eval/trace.h"

#include <algorithm>
#include <numeric>

#include "aq/io/trace_file.h"

namespace aq {
namespace {

/// The ranks' arrays one after the other, in rank order (which is window order).
template <class T>
std::vector<T> gather(const std::vector<T>& mine, Communicator& comm) {
  std::vector<T> all;
  for (const std::vector<T>& some : all_gather_values(comm, mine))
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

/// `[windows, longest window, vocabulary]` from the windows one after the other; zero behind the
/// end of a shorter one.
std::vector<float> padded(const std::vector<float>& logits, const std::vector<Index>& lengths,
                          Index longest, Index vocabulary) {
  std::vector<float> out(lengths.size() * static_cast<std::size_t>(longest * vocabulary), 0.0f);
  auto from = logits.begin();
  auto to = out.begin();
  for (const Index length : lengths) {
    std::copy(from, from + length * vocabulary, to);
    from += length * vocabulary;
    to += longest * vocabulary;
  }
  return out;
}

}  // namespace

void write_trace(const std::filesystem::path& path, const Trace& trace, const Model& model,
                 const std::vector<Index>& lengths, Communicator& comm) {
  TraceData data;
  data.windows = static_cast<Index>(lengths.size());
  data.window = *std::max_element(lengths.begin(), lengths.end());
  data.tokens = std::accumulate(lengths.begin(), lengths.end(), Index{0});
  data.vocabulary = model.vocabulary;
  data.moe_layers = trace.moe_layers;
  const std::vector<float> logits = gather(trace.logits, comm);
  for (std::size_t i = 0; i < trace.moe_layers.size(); ++i) {
    const auto layer = static_cast<std::size_t>(trace.moe_layers[i]);
    data.top_k = model.layers[layer].moe->routing.top_k;
    for (const std::int32_t value : gather(trace.router_index[i], comm))
      data.router_index.push_back(value);
    for (const float value : gather(trace.router_weight[i], comm))
      data.router_weight.push_back(value);
  }
  if (comm.is_first()) {
    data.logits = padded(logits, lengths, data.window, model.vocabulary);
    write_trace_file(path, data);
  }
  comm.barrier();
}

}  // namespace aq
