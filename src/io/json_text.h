#pragma once
/// JSON from files that are not to be trusted. Private to src/io.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace aq {

using Json = nlohmann::json;

/// Parses `text`, which must be one JSON object without duplicate keys, of at most 64 levels and
/// ten million values. Throws Error{input} "operation: object: reason".
Json parse_json_object(std::string_view text, std::string_view operation,
                       const std::string& object);

}  // namespace aq
