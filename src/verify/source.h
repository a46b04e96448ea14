#pragma once
/// The checkpoint that a run or an export was made from.

#include "aq/io/model_files.h"
#include "aq/verify/verify.h"

namespace aq {

/// Where the directory says that its checkpoint was, and how it was read.
struct RecordedSource {
  std::string model, architecture, assume_unused;  ///< the last: "key, key"
};

/// What the options say goes before what was recorded. Throws Error{usage} where it is not.
ModelFiles open_source(const RecordedSource& recorded, const VerifyOptions& options);

/// The tensors of the checkpoint that hold the linear's weight.
std::vector<std::string> tensors_of(const Model& model, const LinearSpec& linear);

/// What a text file of the directory holds, if it can be understood.
std::optional<std::string> text_of(const std::filesystem::path& path);

}  // namespace aq
