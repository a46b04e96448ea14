#include "aq/io/quantized_run.h"

#include <map>

#include "aq/io/file.h"
#include "aq/io/run_directory.h"

namespace aq {

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
