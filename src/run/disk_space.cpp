#include "run/disk_space.h"

#include <algorithm>

#include "aq/comm/watchdog.h"
#include "aq/core/offload.h"
#include "aq/io/file.h"

namespace aq {
namespace {

/// The sum over all tasks of the plan.
template <class BytesOf>
Index bytes_of_tasks(const Plan& plan, const BytesOf& bytes_of) {
  Index bytes = 0;
  const auto add = [&](const StagePlan& stage) {
    for (const TaskPlan& task : stage.tasks) bytes += bytes_of(task);
  };
  for (const LayerPlan& layer : plan.layers)
    for (const StagePlan* stage : layer.stages()) add(*stage);
  add(plan.head);
  return bytes;
}

/// Of the sums that --keep-hessians writes.
Index kept_bytes(const TaskPlan& task) {
  if (!task.needs_hessian) return 0;
  const Index floats = task.columns * (task.columns + 1) / 2 + task.cross_rows * task.columns;
  return floats * static_cast<Index>(sizeof(float));
}

/// Of the quantized matrices as they are stored, with a little for names and attributes.
Index stored_bytes(const TaskPlan& task) {
  constexpr Index kOverhead = 2048;  // of a matrix in an HDF5 file
  Index bytes = 0;
  for (const MatrixPlan& matrix : task.matrices)
    if (matrix.assignment.method != Method::copy)
      bytes += kOverhead + ceil_div(stored_bits(matrix.assignment.scheme, matrix.linear.rows,
                                                matrix.linear.columns),
                                    8);
  return bytes;
}

}  // namespace

void check_disk(const QuantizeOptions& options, const Plan& plan, Communicator& comm) {
  const WorkLabel label("space on disks");
  const Index needed = 2 * bytes_of_tasks(plan, stored_bytes) +
                       (options.keep_hessians ? bytes_of_tasks(plan, kept_bytes) : 0);
  const bool has_tokens = plan.lanes.lanes_of_rank(comm.rank(), comm.size()).size() > 0;
  const Index offloaded = has_tokens || plan.dispatch ? plan.offloaded_bytes : 0;
  // All ranks reserve what they are to offload, and give it back when everything has been found to
  // fit beside it: that counts whoever shares a disk.
  const auto bytes = static_cast<std::size_t>(offloaded);
  void* trial = offloaded > 0 ? take_file_block(bytes) : nullptr;
  comm.barrier();
  if (comm.is_first())
    check_free_space(options.save, std::max<Index>(0, needed - bytes_below(options.save)));
  comm.barrier();
  if (trial != nullptr) give_file_block(trial, bytes);
  count_offloaded_anew();
}

}  // namespace aq
