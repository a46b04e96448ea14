#pragma once
/// The result of a finished run beside the checkpoint that it was made from.

#include "aq/io/matrix_file.h"
#include "aq/io/model_files.h"
#include "aq/io/run_directory.h"

namespace aq {

/// Where a run's checkpoint is and how it is read, for a command that is told otherwise than the
/// run was; empty: as the run was told.
struct SourceChoice {
  std::filesystem::path model, architecture;
  Keys assume_unused;
};

/// What the run was told (Manifest::configuration); empty where that is not known.
std::string recorded(const Manifest& manifest, std::string_view key);
/// Opens the checkpoint that the run was made from. Error{usage, operation} when it is not there;
/// whether it is the same one, its fingerprint tells.
ModelFiles open_source(const Manifest& manifest, const std::filesystem::path& run,
                       SourceChoice choice, const char* operation);

/// model.h5 in the run directory. Throws Error{input, operation} unless it is there and each of its
/// matrices is a linear of the model in its shape.
MatrixReader open_quantized(const std::filesystem::path& run, const ModelFiles& files,
                            const char* operation);

}  // namespace aq
