#include "aq/io/model_files.h"

#include <set>

#include "aq/model/architecture.h"

namespace aq {
namespace {

std::string shape_text(const std::vector<Index>& shape) {
  std::string text = "[";
  for (const Index extent : shape) text += str(text.size() > 1 ? ", " : "", extent);
  return text + "]";
}

}  // namespace

ModelFiles open_model(const std::filesystem::path& directory) {
  Checkpoint checkpoint = Checkpoint::open(directory);
  Model model = describe_model(checkpoint.config_json(), checkpoint.config_path().string());
  std::set<std::string> needed;
  for (const ExpectedTensor& tensor : expected_tensors(model)) {
    needed.insert(tensor.name);
    if (!checkpoint.has(tensor.name))
      throw Error(ErrorKind::input, "open the model", checkpoint.config_path().string(),
                  str("describes tensor ", tensor.name, " ", shape_text(tensor.shape),
                      ", which no file of ", directory.string(), " holds"),
                  "config.json and weights do not belong together, or the download is incomplete");
    const TensorInfo& info = checkpoint.info(tensor.name);
    if (info.shape != tensor.shape)
      throw Error(ErrorKind::input, "open the model", checkpoint.config_path().string(),
                  str("describes tensor ", tensor.name, " as ", shape_text(tensor.shape),
                      ", but the file holds ", shape_text(info.shape)),
                  "config.json and weights do not belong together");
  }
  std::vector<std::string> extra;
  for (const auto& [name, info] : checkpoint.tensors())
    if (!needed.contains(name)) extra.push_back(name);
  return {std::move(checkpoint), std::move(model), std::move(extra)};
}

}  // namespace aq
