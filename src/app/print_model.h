#pragma once
/// What `inspect` says of a checkpoint.

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "aq/io/model_files.h"

namespace aq::app {

/// "3 BF16, 1 F32"
std::string counts_text(const std::map<std::string, Index>& counts);
/// Prints the checkpoint and puts the same into `json`.
void print_model(const ModelFiles& files, nlohmann::ordered_json& json);

}  // namespace aq::app
