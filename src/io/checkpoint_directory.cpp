#include "io/checkpoint_directory.h"

#include <algorithm>
#include <cctype>

#include "aq/core/error.h"
#include "aq/core/json.h"
#include "aq/io/file.h"

namespace aq {

namespace fs = std::filesystem;

namespace {

/// "allenai/OLMoE-1B-7B-0924": owner and name.
bool looks_like_hub_id(std::string_view text) {
  const auto is_name = [](std::string_view part) {
    const auto allowed = [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
    };
    return !part.empty() && part.front() != '.' && std::all_of(part.begin(), part.end(), allowed);
  };
  const auto slash = text.find('/');
  return slash != std::string_view::npos && is_name(text.substr(0, slash)) &&
         is_name(text.substr(slash + 1));
}

/// A file of the index must lie beside it.
void check_shard_name(const std::string& file, const std::string& tensor, const fs::path& index) {
  if (file.empty() || file == "." || file == ".." || file.find_first_of("/\\") != std::string::npos)
    throw Error(ErrorKind::input, "read the index", index.string(),
                str("'", tensor, "' is said to be in '", file.substr(0, 100),
                    "', which is not a file name in the same directory"));
}

}  // namespace

void fail_open(const fs::path& object, const std::string& reason, const std::string& hint) {
  throw Error(ErrorKind::input, "open the checkpoint", object.string(), reason, hint);
}

bool is_there(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error)) return true;
  if (fs::is_symlink(path, error))
    fail_open(path, str("it is a dangling link to ", fs::read_symlink(path, error).string()),
              "the download is not complete, or was moved without what it links to");
  return false;
}

void check_directory(const fs::path& directory) {
  std::error_code error;
  if (fs::is_directory(directory, error)) return;
  if (fs::exists(directory, error))
    fail_open(directory, "it is not a directory", "name the directory that holds config.json");
  const std::string text = directory.string();
  if (!looks_like_hub_id(text)) fail_open(directory, "there is no such directory");
  fail_open(
      directory, "there is no such directory",
      str("if this is a Hugging Face model name, download it first: huggingface-cli download ",
          text, " --local-dir ", directory.filename().string(), ", then give that directory"));
}

std::string read_config(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  if (!is_there(path))
    fail_open(directory, "it holds no config.json", "is this a Hugging Face checkpoint?");
  std::string text = read_text_file(path, Index{1} << 24);
  parse_json(text, {ErrorKind::input, "read the model configuration", path.native()},
             JsonDialect::python);
  return text;
}

std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const std::string object = path.string();
  const Json index = parse_json(read_text_file(path, Index{1} << 28),
                                {ErrorKind::input, "read the index", object});
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty())
    throw Error(ErrorKind::input, "read the index", object, "it has no object 'weight_map'");
  std::map<std::string, std::vector<std::string>> files;
  for (const auto& entry : map->items()) {
    if (!entry.value().is_string())
      throw Error(ErrorKind::input, "read the index", object,
                  str("the file of '", entry.key(), "' is not a text"));
    const auto& file = entry.value().get_ref<const std::string&>();
    check_shard_name(file, entry.key(), path);
    files[file].push_back(entry.key());
  }
  return files;
}

}  // namespace aq
