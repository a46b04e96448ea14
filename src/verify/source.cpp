#include "verify/source.h"

#include "aq/io/file.h"
#include "aq/io/read_error.h"

namespace aq {

ModelFiles open_source(const RecordedSource& recorded, const VerifyOptions& options) {
  const std::filesystem::path model =
      options.model.empty() ? std::filesystem::path(recorded.model) : options.model;
  const std::filesystem::path architecture = options.architecture.empty()
                                                 ? std::filesystem::path(recorded.architecture)
                                                 : options.architecture;
  Keys unused = options.assume_unused;
  for (std::string_view left = recorded.assume_unused;
       options.assume_unused.empty() && !left.empty();) {
    const std::size_t end = std::min(left.find(", "), left.size());
    unused.emplace_back(left.substr(0, end));
    left.remove_prefix(std::min(end + 2, left.size()));
  }
  if (model.empty() || !file_exists(model))
    throw Error(ErrorKind::usage, "verify", options.directory.string(),
                model.empty() ? "it does not say where the checkpoint was"
                              : str("the checkpoint is no longer in '", model.string(), "'"),
                "say where it is: --model DIRECTORY");
  return open_model(model, architecture, unused);
}

std::vector<std::string> tensors_of(const Model& model, const LinearSpec& linear) {
  const std::string tensor = stored_weight(model, linear).tensor;
  return {tensor, block_scales_name(tensor), mxfp4_blocks_name(tensor), mxfp4_scales_name(tensor)};
}

std::optional<std::string> text_of(const std::filesystem::path& path) {
  if (!file_exists(path)) return std::nullopt;
  try {
    return read_text_file(path);
  } catch (const ReadError&) {
    throw;
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace aq
