#include "verify/source.h"

#include "aq/io/file.h"
#include "aq/io/read_error.h"

namespace aq {

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
