#include "aq/io/quantized_run.h"

#include <algorithm>
#include <map>

#include "aq/io/file.h"
#include "aq/io/run_directory.h"

namespace aq {
SourceChoice recorded_source(const std::string& model, const std::string& architecture,
                             std::string_view assume_unused) {
  SourceChoice source{model, architecture, {}};
  while (!assume_unused.empty()) {
    const std::size_t end = std::min(assume_unused.find(", "), assume_unused.size());
    source.assume_unused.emplace_back(assume_unused.substr(0, end));
    assume_unused.remove_prefix(std::min(end + 2, assume_unused.size()));
  }
  return source;
}

SourceChoice recorded_source(const Manifest& manifest) {
  return recorded_source(field_of(manifest.configuration, "model"),
                         field_of(manifest.configuration, "architecture"),
                         field_of(manifest.configuration, "assume_unused"));
}

ModelFiles open_source(SourceChoice choice, const SourceChoice& recorded,
                       const std::filesystem::path& directory, const char* operation) {
  if (choice.model.empty()) choice.model = recorded.model;
  if (choice.architecture.empty()) choice.architecture = recorded.architecture;
  if (choice.assume_unused.empty()) choice.assume_unused = recorded.assume_unused;
  if (choice.model.empty() || !file_exists(choice.model))
    throw Error(ErrorKind::usage, operation, directory.string(),
                choice.model.empty() ? "it does not say where the checkpoint was"
                                     : str("the checkpoint is not where the run read it, '",
                                           choice.model.string(), "'"),
                "say where it is: --model DIRECTORY");
  return open_model(choice.model, choice.architecture, choice.assume_unused);
}

MatrixReader open_quantized(const std::filesystem::path& run, const ModelFiles& files,
                            const char* operation) {
  const std::filesystem::path path = RunDirectory{run}.model();
  if (!file_exists(path))
    throw Error(ErrorKind::input, operation, run.string(), "there is no model.h5",
                "it must be the directory of a finished run; `aq-dist status` tells");
  MatrixReader reader(path);
  std::map<std::string, const LinearSpec*> linears;
  for (const LinearSpec* linear : all_linears(files.model)) linears[linear->name] = linear;
  for (const std::string& name : reader.names()) {
    const auto found = linears.find(name);
    const auto [rows, columns] = reader.describe(name).second;
    if (found == linears.end() || rows != found->second->rows || columns != found->second->columns)
      throw Error(ErrorKind::input, operation, run.string(),
                  str("matrix ", name, " [", rows, ", ", columns,
                      "] does not belong to the model in ", files.checkpoint.directory().string()));
  }
  return reader;
}

}  // namespace aq
