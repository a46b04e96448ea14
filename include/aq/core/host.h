#pragma once
/// The machine that this process runs on.

#include <string>

namespace aq {

/// As gethostname says.
std::string host_name();

}  // namespace aq
