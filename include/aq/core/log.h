#pragma once
/// Messages for the person who runs the program: plain lines on standard error.

#include <string>
#include <string_view>

namespace aq {

enum class LogLevel { error, warning, info, debug };

void set_log_level(LogLevel level);
LogLevel log_level();
/// Text put before every line of this process, e.g. "rank 3: ". Empty by default.
void set_log_prefix(std::string prefix);
const std::string& log_prefix();

void log_error(std::string_view message);
void log_warning(std::string_view message);
void log_info(std::string_view message);
void log_debug(std::string_view message);

}  // namespace aq
