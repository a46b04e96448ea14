#include "export/directory.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <thread>

#include "aq/core/error.h"
#include "aq/io/file.h"
#include "export/manifest.h"

namespace aq {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kRecord = "aq-dist.json";

[[noreturn]] void fail(const fs::path& path, const std::error_code& error) {
  throw Error(ErrorKind::input, "export", path.string(), error.message());
}

/// Weights in whatever format, their indices, and what belongs to tools rather than to the model.
bool is_left(const fs::path& path) {
  constexpr std::array<std::string_view, 10> kEndings{".safetensors", ".safetensors.index.json",
                                                      ".bin",         ".bin.index.json",
                                                      ".pt",          ".pth",
                                                      ".gguf",        ".onnx",
                                                      ".h5",          ".msgpack"};
  const std::string name = path.filename().string();
  return name.starts_with('.') ||
         std::ranges::any_of(kEndings, [&](std::string_view end) { return name.ends_with(end); });
}

}  // namespace

ExportDirectory::ExportDirectory(fs::path target) : target_(std::move(target)) {
  if (target_.filename().empty()) target_ = target_.parent_path();  // "out/"
  partial_ = target_;
  partial_ += ".partial";
}

bool ExportDirectory::is_complete(const std::string& record) const {
  if (!file_exists(target_)) return false;
  check_free();
  if (read_text_file(target_ / kRecord) == record) return true;
  throw Error(ErrorKind::usage, "export", target_.string(), "another export is there already",
              "name a directory that does not exist, or remove it first");
}

void ExportDirectory::check_free() const {
  if (!file_exists(target_) || file_exists(target_ / kRecord)) return;
  throw Error(ErrorKind::usage, "export", target_.string(), "it exists already",
              "name a directory that does not exist, or remove it first");
}

void ExportDirectory::begin() const {
  // Ranks whose launcher was killed may still write for a moment.
  std::error_code error;
  for (int tries = 0; tries < 50; ++tries) {
    fs::remove_all(partial_, error);
    if (error != std::errc::directory_not_empty) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  if (error) fail(partial_, error);
  make_directory(partial_);
}

void ExportDirectory::write_record(const std::string& record) const {
  write_text_file(partial_ / kRecord, record);
}

void ExportDirectory::finish() const {
  std::error_code error;
  fs::rename(partial_, target_, error);
  if (error) fail(target_, error);
}

std::vector<std::string> copy_companions(const fs::path& from, const fs::path& to) {
  std::vector<std::string> left;
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(from, error);
       entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (error) fail(from, error);
    // Not fs::relative, which follows links: a hub's cache is made of them.
    const fs::path name = entry->path().lexically_relative(from);
    if (name == "config.json" || name == "quantize_config.json" || name == kRecord ||
        name == kExportManifest)
      continue;
    if (is_left(name)) {
      if (entry->is_directory()) entry.disable_recursion_pending();
      if (!name.string().ends_with(".safetensors") &&
          !name.string().ends_with(".safetensors.index.json"))
        left.push_back(name.string());
      continue;
    }
    if (entry->is_directory()) {
      fs::create_directories(to / name, error);
    } else {
      fs::create_directories((to / name).parent_path(), error);
      fs::copy_file(entry->path(), to / name, fs::copy_options::overwrite_existing, error);
    }
    if (error) fail(entry->path(), error);
  }
  if (error) fail(from, error);
  std::ranges::sort(left);
  return left;
}

}  // namespace aq
