#pragma once
/// What a checkpoint's directory is to hold. Private to src/io.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace aq {

/// Throws Error{input}: the checkpoint cannot be opened.
[[noreturn]] void fail_open(const std::filesystem::path& object, const std::string& reason,
                            const std::string& hint = {});
/// Whether there is such a file. Links are normal in a hub's cache; one that leads nowhere is an
/// error of its own.
bool is_there(const std::filesystem::path& path);
/// Throws Error{input} unless it is one; what looks like a hub id is told how to be downloaded.
void check_directory(const std::filesystem::path& directory);
/// Reads config.json and checks that it is a JSON object.
std::string read_config(const std::filesystem::path& directory);
/// weight_map of the index: file name -> names of its tensors.
std::map<std::string, std::vector<std::string>> read_index(const std::filesystem::path& path);

}  // namespace aq
