#pragma once
/// config.json as Python's json module writes it.

#include <string>
#include <string_view>

namespace aq {

/// The text with NaN, Infinity and -Infinity, which Python writes and JSON does not know, as texts
/// ("NaN", ...): a reader that needs a number there refuses them, any other can go on. Standard
/// JSON stays as it is; what is no JSON stays none.
std::string standard_json(std::string_view text);

}  // namespace aq
