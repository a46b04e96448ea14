#pragma once
/// What a run needs before its first layer: everything checked, nothing computed.

#include "aq/comm/communicator.h"
#include "aq/forward/batch.h"
#include "aq/io/compare_ranks.h"
#include "aq/io/model_files.h"
#include "aq/io/run_directory.h"
#include "aq/plan/choose.h"
#include "aq/run/kept_hessians.h"
#include "aq/run/options.h"

namespace aq {

struct Prepared {
  ModelFiles files;
  Fitted fitted;  ///< what is done with each linear
  Workload workload;
  Batch batch;             ///< this rank's calibration tokens
  Index memory_limit = 0;  ///< bytes a rank
  Plan plan;
  CostEstimate cost;
  std::string way_reason;            ///< why tokens travel, or sums
  Manifest manifest;                 ///< of a fresh run
  std::optional<KeptHessians> kept;  ///< the sums to quantize from; then `batch` is empty
  /// With kept sums: of every part, read and found to be those of the sums. Else empty.
  std::vector<SourceChecksums> sources;
};

/// Kept Hessians are those of the original model: with them the order is Sequential::none. Products
/// are bf16 when every rank has instructions for them, or fp32. Collective.
QuantizeOptions resolve(QuantizeOptions options, Communicator& comm);

/// Opens, checks and plans. Every rank gets the same plan. Collective.
Prepared prepare(const QuantizeOptions& options, Communicator& comm);

/// Throws Error{input, operation} for a checkpoint that another program quantized.
void refuse_packed(const ModelFiles& files, std::string_view operation);
/// What was taken for granted about an architecture that is not known, and what is left out.
void warn_of_assumptions(const ModelFiles& files);
/// Error{input} unless all ranks were told the same, have the same program and compute alike
/// (numerics), which decides the last bits of the matrices that a rank owns. Collective.
void compare_told(RankFields told, Communicator& comm);
/// What the ranks of a quantization are told, but paths and what decides no result (threads,
/// log level, time limits).
RankFields told(const QuantizeOptions& options);
/// Error{input} unless all ranks see the same checkpoint, whatever its path. Collective.
void compare_checkpoints(const ModelFiles& files, Communicator& comm);
/// "OpenBLAS 0.3.21 Cooperlake, row kernel v4, LibTorch 1.13.1": what decides the last bits.
std::string numerics();

/// The table of resolved parameters that is printed before anything starts.
std::string start_table(const QuantizeOptions& options, const Prepared& prepared,
                        Communicator& comm);

}  // namespace aq
