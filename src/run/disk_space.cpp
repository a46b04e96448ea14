#include "run/disk_space.h"

#include <algorithm>

#include "aq/comm/watchdog.h"
#include "aq/core/offload.h"
#include "aq/io/file.h"

namespace aq {
namespace {

/// Bytes of the sums that --keep-hessians writes.
Index kept_bytes(const Plan& plan) {
  Index floats = 0;
  const auto add = [&](const StagePlan& stage) {
    for (const TaskPlan& task : stage.tasks)
      if (task.needs_hessian) floats += task.columns * (task.columns + 1) / 2;
  };
  for (const LayerPlan& layer : plan.layers)
    for (const StagePlan* stage : layer.stages()) add(*stage);
  add(plan.head);
  return floats * static_cast<Index>(sizeof(float));
}

/// Bytes of all quantized matrices as they are stored, with a little for names and attributes.
Index stored_bytes(const Plan& plan) {
  constexpr Index kOverhead = 2048;  // of a matrix in an HDF5 file
  Index bytes = 0;
  const auto add = [&](const StagePlan& stage) {
    for (const TaskPlan& task : stage.tasks)
      for (const MatrixPlan& matrix : task.matrices)
        if (matrix.assignment.method != Method::copy)
          bytes += kOverhead + ceil_div(stored_bits(matrix.assignment.scheme, matrix.linear.rows,
                                                    matrix.linear.columns),
                                        8);
  };
  for (const LayerPlan& layer : plan.layers)
    for (const StagePlan* stage : layer.stages()) add(*stage);
  add(plan.head);
  return bytes;
}

/// All ranks reserve what they are to offload and give it back: that counts whoever shares a disk.
void try_offload(const std::filesystem::path& directory, Index bytes, Communicator& comm) {
  const WorkLabel label("space for --offload");
  void* block = take_file_block(static_cast<std::size_t>(bytes));
  comm.barrier();
  give_file_block(block, static_cast<std::size_t>(bytes));
  comm.barrier();
  offload_to(directory);  // the trial does not count
}

}  // namespace

void check_disk(const QuantizeOptions& options, const Plan& plan, Communicator& comm) {
  const Index needed = 2 * stored_bytes(plan) + (options.keep_hessians ? kept_bytes(plan) : 0);
  if (comm.is_first())
    check_free_space(options.save, std::max<Index>(0, needed - bytes_below(options.save)));
  if (plan.offloaded_bytes > 0) try_offload(options.offload, plan.offloaded_bytes, comm);
}

}  // namespace aq
