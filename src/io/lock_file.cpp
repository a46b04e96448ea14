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
#include "aq/io/file.h"
#include "aq/io/read_error.h"

namespace aq {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kFileBytes = 4096;
constexpr std::size_t kLongestDirectory = 2048;  // a longer one is not named

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

LockText own_lock_text(const std::filesystem::path& directory) {
  std::error_code ignored;
  const std::string place = std::filesystem::canonical(directory, ignored).string();
  return {{host_name(), getpid(), batch_job(), local_time()},
          machine(),
          process_start(getpid()),
          random_id(),
          0,
          place.size() > kLongestDirectory ? "" : place};
}

std::string format_lock(const LockText& text) {
  const Json json{{"host", text.holder.host},
                  {"process", text.holder.process},
                  {"job", text.holder.job},
                  {"started", text.holder.started},
                  {"machine", text.machine},
                  {"process_start", text.process_start},
                  {"id", text.id},
                  {"count", text.count},
                  {"directory", text.directory}};
  std::string line = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  AQ_CHECK(line.size() < kFileBytes, line.size());
  line.resize(kFileBytes - 1, ' ');
  return line + "\n";
}

std::optional<LockText> read_lock(const std::filesystem::path& file) {
  try {
    const Json json = Json::parse(read_text_file(file, kFileBytes));
    return LockText{{json.at("host"), json.at("process"), json.at("job"), json.at("started")},
                    json.at("machine"),
                    json.at("process_start"),
                    json.at("id"),
                    json.at("count"),
                    json.value("directory", std::string())};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  } catch (const ReadError&) {
    throw;
  } catch (const Error&) {  // it is gone, or longer than any lock
    return std::nullopt;
  }
}

bool is_copied(const std::filesystem::path& file, const LockText& text) {
  if (text.directory.empty()) return false;
  const std::filesystem::path original = std::filesystem::path(text.directory) / file.filename();
  struct stat here {
  }, there{};
  if (::stat(file.c_str(), &here) != 0 || ::stat(original.c_str(), &there) != 0) return false;
  // One file seen through two mounts has one inode number, but maybe two devices.
  if (here.st_ino == there.st_ino) return false;
  try {
    const std::optional<LockText> of_holder = read_lock(original);
    return of_holder && of_holder->id == text.id;
  } catch (const ReadError&) {
    return false;
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
