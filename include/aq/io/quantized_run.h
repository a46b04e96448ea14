#pragma once
/// The result of a finished run beside the checkpoint that it was made from.

#include "aq/io/matrix_file.h"
#include "aq/io/model_files.h"
#include "aq/io/run_directory.h"

namespace aq {

/// Where a checkpoint is and how it is read. What is empty in the choice of a command is as in the
/// record of the run or export.
struct SourceChoice {
  std::filesystem::path model, architecture;
  Keys assume_unused;
};
/// From texts as they are recorded; the last is "key, key".
SourceChoice recorded_source(const std::string& model, const std::string& architecture,
                             std::string_view assume_unused);

SourceChoice recorded_source(const Manifest& manifest);
/// Opens the checkpoint that the run or export in `directory` was made from. Error{usage,
/// operation} when it is not there; whether it is the same one, its fingerprint tells.
ModelFiles open_source(SourceChoice choice, const SourceChoice& recorded,
                       const std::filesystem::path& directory, const char* operation);

/// model.h5 in the run directory. Throws Error{input, operation} unless it is there and each of its
/// matrices is a linear of the model in its shape.
MatrixReader open_quantized(const std::filesystem::path& run, const ModelFiles& files,
                            const char* operation);

}  // namespace aq
