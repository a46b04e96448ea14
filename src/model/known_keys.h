#pragma once
/// What is not read of config.json: keys without meaning for the forward pass, and all others,
/// which are refused.

#include "model/config_reader.h"

namespace aq {

/// Error{input} naming every key that was not read and is neither in the table of keys without
/// meaning nor in `row.unused_keys` nor in `assumed`. A key of an object inside is its path,
/// "rope_scaling.factor". Error{usage} for a key of `assumed` that config.json does not have or
/// that is understood.
void refuse_unread_keys(const ConfigReader& config, const Architecture& row, const Keys& assumed);

}  // namespace aq
