#pragma once
/// An architecture's row as a JSON file: `--architecture FILE.json` (docs/architectures.md).

#include "aq/model/architecture.h"

namespace aq {

/// A row written by the user. "like" names a row of the table that it starts from; every other key
/// replaces one field. Throws Error{usage} naming `file` and the key for JSON that is none, unknown
/// keys and values, and rows without a name.
Architecture architecture_from_json(std::string_view text, std::string_view file);
/// The whole row; architecture_from_json reads it back as the same.
std::string architecture_to_json(const Architecture& row);

}  // namespace aq
