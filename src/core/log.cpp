#include "aq/core/log.h"

#include <atomic>
#include <cstdio>
#include <mutex>

namespace aq {
namespace {

std::atomic<LogLevel> level{LogLevel::info};

std::string& prefix() {
  static std::string text;
  return text;
}

void write(LogLevel message_level, std::string_view word, std::string_view message) {
  if (message_level > level) return;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  // One write a line, so that the lines of several ranks do not mix.
  std::string line = prefix();
  line += word;
  line += message;
  line += '\n';
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace

void set_log_level(LogLevel new_level) {
  level = new_level;
}
LogLevel log_level() {
  return level;
}
void set_log_prefix(std::string new_prefix) {
  prefix() = std::move(new_prefix);
}
const std::string& log_prefix() {
  return prefix();
}

void log_error(std::string_view message) {
  write(LogLevel::error, "error: ", message);
}
void log_warning(std::string_view message) {
  write(LogLevel::warning, "warning: ", message);
}
void log_info(std::string_view message) {
  write(LogLevel::info, "", message);
}
void log_debug(std::string_view message) {
  write(LogLevel::debug, "", message);
}

}  // namespace aq
