#pragma once
/// Is what lies on the disk what was written, and is it a quantization of its checkpoint? Found out
/// anew from the bytes: nothing of the solver, the pipeline or the export takes part.

#include <filesystem>
#include <string>
#include <vector>

#include "aq/comm/communicator.h"
#include "aq/io/quantized_run.h"

namespace aq {

/// One thing that is wrong. `kind` is one of
/// - missing, extra, twice: a matrix, tensor or file that should be there, should not, is in two
/// files
/// - shape: a dtype, shape or scheme that is not what was planned
/// - scale, code, padding: numbers that the scheme does not have, or scales that are not those of
/// the
///   codes
/// - zero, foreign, error: a matrix that is all zeros; is no quantization of its source, but
/// perhaps
///   of another tensor; is not as far from its source as was logged
/// - checksum: bytes that are not those that were written, and nothing of the above
/// - source: the checkpoint is not what the run read
/// - untouched: a tensor or file that should be the source's, bit by bit, and is not
/// - index, config, log: what a text file says of the tensors is not so
/// - unreadable: a file or object that is damaged so that nothing can be said of its content
struct Finding {
  std::string kind;
  std::string file;    ///< inside of the directory
  std::string object;  ///< matrix, tensor or key; empty: the file itself
  std::string text;    ///< a clause: "its codes ..."
};
/// "model.h5: 'lm_head': ... (checksum)"
std::string to_string(const Finding& finding);

struct VerifyOptions {
  std::filesystem::path directory;  ///< of a run, or of an export
  SourceChoice source;
};

struct VerifyReport {
  std::string what;  ///< "run", or the format of the export
  std::vector<Finding> findings;
  Index matrices = 0, tensors = 0;  ///< that were looked at
  /// Matrices of runs of older builds, which log no distance from the weights: these were only
  /// looked at for likeness with them.
  Index unlogged = 0;
  Index bytes = 0;  ///< read, of all ranks
  double seconds = 0;
};

/// Checks a run (`model.h5` and its log against plan and checkpoint) or an export (against its
/// manifest and the checkpoint). Matrices and tensors are shared out over the ranks, each of which
/// holds one at a time; every rank gets the whole report, the same on any number of ranks.
/// Collective. Throws Error only where there is nothing to check: no directory, neither run nor
/// export, no checkpoint.
VerifyReport verify(const VerifyOptions& options, Communicator& comm);

}  // namespace aq
