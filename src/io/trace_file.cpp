#include "aq/io/trace_file.h"

#include "io/hdf5.h"
#include "io/posix_file.h"

namespace aq {

void write_trace_file(const std::filesystem::path& path, const TraceData& trace) {
  const std::filesystem::path place = find_regular_output(path);
  PosixFile::create(partial_path(place));  // a plain reason when it cannot be made
  try {
    hdf5::Object file = hdf5::create_file(partial_path(place));
    const auto layers = static_cast<Index>(trace.moe_layers.size());
    hdf5::write_dataset(file, "logits", hdf5::Type::f32,
                        {trace.windows, trace.window, trace.vocabulary}, trace.logits.data());
    if (layers > 0) {
      const std::vector<Index> shape{layers, trace.tokens, trace.top_k};
      hdf5::write_dataset(file, "router_index", hdf5::Type::i32, shape, trace.router_index.data());
      hdf5::write_dataset(file, "router_weight", hdf5::Type::f32, shape,
                          trace.router_weight.data());
      hdf5::write_numbers(file, "moe_layers", hdf5::Type::i32, layers, trace.moe_layers.data());
    }
    file.close();
    publish_partial(place);
  } catch (...) {
    remove_partial(place);
    throw;
  }
}

}  // namespace aq
