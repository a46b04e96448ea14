#pragma once
/// What a result was made from: checksums of the stored bytes of every tensor that a part read,
/// kept with it in the manifest. They do not depend on the ranks, nor on which of them read what.

#include "aq/comm/communicator.h"
#include "aq/io/model_files.h"
#include "aq/io/run_directory.h"

namespace aq {

/// Names of the tensors that each part reads, `[layers + 1]`; the embedding belongs to the first
/// layer, and to the head where they share it.
std::vector<std::vector<std::string>> tensors_of_parts(const ModelFiles& files);

/// Checksums of the tensors of the parts before `count`, of each part in the order of
/// tensors_of_parts. The ranks share the reading. Collective, one exchange.
std::vector<SourceChecksums> read_sources(const ModelFiles& files, Index first, Index count,
                                          Communicator& comm);

/// "model.layers.1.mlp.gate.weight has the checksum ..., but ... was read for layer 1": the first
/// difference; empty without one.
std::string source_difference(const SourceChecksums& then, const SourceChecksums& now);

}  // namespace aq
