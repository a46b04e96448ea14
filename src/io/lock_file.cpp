#include "io/lock_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "aq/core/error.h"
#include "aq/core/host.h"

namespace aq {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kFileBytes = 1024;

/// Hosts may share a name, and containers of one machine do not see each other's processes.
std::string machine() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::error_code ignored;
  const auto processes = std::filesystem::read_symlink("/proc/self/ns/pid", ignored);
  return str(host_name(), " ", boot, " ", processes.string());
}

/// Field 22 of /proc/PID/stat; 0 when there is no such process, or only its remains.
Index process_start(Index process) {
  std::ifstream file(str("/proc/", process, "/stat"));
  std::string text;
  std::getline(file, text);
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  fields >> field;
  if (field == "Z" || field == "X") return 0;
  for (int i = 4; i < 22; ++i) fields >> field;
  Index start = 0;
  fields >> start;
  return start;
}

std::string batch_job() {
  for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"})
    if (const char* text = std::getenv(name)) return text;
  return {};
}

std::string local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), "%F %T", &parts);
  return text.data();
}

std::string random_id() {
  std::random_device device;
  return str(device(), "-", device());
}

}  // namespace

std::string to_string(const LockHolder& holder) {
  return str("process ", holder.process, " on ", holder.host, " (",
             holder.job.empty() ? "" : str("job ", holder.job, ", "), "since ", holder.started,
             ")");
}

LockText own_lock_text() {
  return {{host_name(), getpid(), batch_job(), local_time()},
          machine(),
          process_start(getpid()),
          random_id(),
          0};
}

std::string format_lock(const LockText& text) {
  const Json json{{"host", text.holder.host},
                  {"process", text.holder.process},
                  {"job", text.holder.job},
                  {"started", text.holder.started},
                  {"machine", text.machine},
                  {"process_start", text.process_start},
                  {"id", text.id},
                  {"count", text.count}};
  std::string line = json.dump();
  AQ_CHECK(line.size() < kFileBytes, line.size());
  line.resize(kFileBytes - 1, ' ');
  return line + "\n";
}

std::optional<LockText> read_lock(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::string line(kFileBytes, ' ');  // whatever is longer is no lock
  stream.read(line.data(), static_cast<std::streamsize>(line.size()));
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  try {
    return LockText{{json.at("host"), json.at("process"), json.at("job"), json.at("started")},
                    json.at("machine"),
                    json.at("process_start"),
                    json.at("id"),
                    json.at("count")};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::optional<bool> runs_here(const LockText& text) {
  if (text.machine != machine()) return std::nullopt;
  const Index start = process_start(text.holder.process);
  return start != 0 && start == text.process_start;
}

double seconds_between(const std::filesystem::path& first, const std::filesystem::path& second) {
  std::error_code error;
  const auto earlier = std::filesystem::last_write_time(first, error);
  if (error) return 0;
  const auto later = std::filesystem::last_write_time(second, error);
  return error ? 0 : std::chrono::duration<double>(later - earlier).count();
}

}  // namespace aq
