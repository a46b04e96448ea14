#pragma once
/// What of a checkpoint and of text files is looked at.

#include <optional>

#include "aq/io/model_files.h"

namespace aq {

/// The tensors of the checkpoint that hold the linear's weight.
std::vector<std::string> tensors_of(const Model& model, const LinearSpec& linear);

/// What a text file of the directory holds, if it can be understood.
std::optional<std::string> text_of(const std::filesystem::path& path);

}  // namespace aq
