#pragma once
/// The result of a finished run beside the checkpoint that it was made from.

#include "aq/io/matrix_file.h"
#include "aq/io/model_files.h"

namespace aq {

/// model.h5 in the run directory. Throws Error{input, operation} unless it is there and each of its
/// matrices is a linear of the model in its shape.
MatrixReader open_quantized(const std::filesystem::path& run, const ModelFiles& files,
                            const char* operation);

}  // namespace aq
