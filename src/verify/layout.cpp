#include "verify/layout.h"

#include <algorithm>
#include <set>

namespace aq {
namespace {

using Holds = ExpectedPiece::Holds;

/// Which linears each tensor of the source holds.
class SourceMap {
 public:
  SourceMap(const ModelFiles& source, const PlannedMatrices& planned, const std::string& format)
      : model_(source.model), checkpoint_(source.checkpoint), planned_(planned), format_(format) {
    for (const LinearSpec* linear : all_linears(model_)) {
      const StoredPart part = stored_weight(model_, *linear);
      const bool blocks = part.fused() && model_.encoding == SourceEncoding::mxfp4;
      weights_[blocks ? mxfp4_blocks_name(part.tensor) : part.tensor].push_back(linear);
      if (blocks) gone_.insert(mxfp4_scales_name(part.tensor));
      if (part.fused() && linear->bias)
        biases_[stored_bias(model_, *linear).tensor].push_back(linear);
      if (part.fused() && (blocks || is_planned(*linear))) split_layers_.insert(linear->layer);
    }
    symmetric_ = std::ranges::all_of(
        planned, [](const auto& matrix) { return matrix.second.scheme.symmetric; });
  }

  std::vector<ExpectedPiece> pieces_of(const RawTensor& tensor) const {
    const auto linears = weights_.find(tensor.name);
    if (is_scale_of_blocks(tensor.name) || gone_.contains(tensor.name)) return {};
    if (const auto biases = biases_.find(tensor.name);
        biases != biases_.end() && !stays_fused() &&
        split_layers_.contains(biases->second.front()->layer))
      return own_biases(tensor, biases->second);
    if (linears == weights_.end())
      return {is_encoded(tensor.name) ? rounded(tensor.name, nullptr, tensor.shape)
                                      : copied(tensor)};
    if (stored_weight(model_, *linears->second.front()).fused())
      return stays_fused() ? whole(tensor, linears->second) : split(tensor, linears->second);
    return plainly_stored(tensor, *linears->second.front());
  }

 private:
  bool stays_fused() const { return format_ == "bf16" || format_ == "gpt-oss"; }
  bool is_planned(const LinearSpec& linear) const { return planned_.contains(linear.name); }
  bool is_encoded(const std::string& tensor) const {
    return model_.encoding == SourceEncoding::fp8_blocks && checkpoint_.has(tensor) &&
           checkpoint_.has(block_scales_name(tensor));
  }
  bool is_scale_of_blocks(const std::string& name) const {
    constexpr std::string_view kEnd = "_scale_inv";
    return name.ends_with(kEnd) && is_encoded(name.substr(0, name.size() - kEnd.size()));
  }

  static ExpectedPiece copied(const RawTensor& tensor) {
    return {Holds::copy, tensor.name, {}, {{tensor.name, tensor.dtype, tensor.shape}}};
  }
  ExpectedPiece rounded(const std::string& source, const LinearSpec* linear,
                        const std::vector<Index>& shape) const {
    ExpectedPiece piece{Holds::rounded, source};
    if (linear != nullptr) piece.linears = {linear};
    piece.tensors = {{linear != nullptr ? linear->weight_name() : source, "BF16", shape}};
    return piece;
  }
  ExpectedPiece quantized(const std::string& source, const LinearSpec& linear) const {
    ExpectedPiece piece{Holds::quantized, source, {&linear}};
    piece.tensors = parts_of(served_form(format_, symmetric_, linear, planned_.at(linear.name)));
    for (TensorEntry& entry : piece.tensors) entry.name = str(linear.name, ".", entry.name);
    return piece;
  }

  std::vector<ExpectedPiece> plainly_stored(const RawTensor& tensor,
                                            const LinearSpec& linear) const {
    // A tied head gets a tensor of its own, and the embedding stays.
    if (tensor.name == model_.embedding)
      return is_planned(linear)
                 ? std::vector<ExpectedPiece>{copied(tensor), quantized(tensor.name, linear)}
                 : std::vector<ExpectedPiece>{copied(tensor)};
    if (is_planned(linear)) return {quantized(tensor.name, linear)};
    if (is_encoded(tensor.name)) return {rounded(tensor.name, &linear, tensor.shape)};
    return {copied(tensor)};
  }

  /// Every expert's linear under its own name.
  std::vector<ExpectedPiece> split(const RawTensor& tensor,
                                   const std::vector<const LinearSpec*>& linears) const {
    if (!split_layers_.contains(linears.front()->layer)) return {copied(tensor)};
    std::vector<ExpectedPiece> pieces;
    for (const LinearSpec* linear : linears)
      pieces.push_back(is_planned(*linear)
                           ? quantized(tensor.name, *linear)
                           : rounded(tensor.name, linear, {linear->rows, linear->columns}));
    return pieces;
  }

  std::vector<ExpectedPiece> own_biases(const RawTensor& tensor,
                                        const std::vector<const LinearSpec*>& linears) const {
    std::vector<ExpectedPiece> pieces;
    for (const LinearSpec* linear : linears)
      pieces.push_back({Holds::bias,
                        tensor.name,
                        {linear},
                        {{linear->bias_name(), tensor.dtype, {linear->rows}}}});
    return pieces;
  }

  std::vector<ExpectedPiece> whole(const RawTensor& tensor,
                                   const std::vector<const LinearSpec*>& linears) const {
    const bool encoded = model_.encoding == SourceEncoding::mxfp4;
    if (!encoded && std::ranges::none_of(linears, [&](auto* l) { return is_planned(*l); }))
      return {copied(tensor)};
    StoredPart part = stored_weight(model_, *linears.front());
    if (format_ == "gpt-oss") return {packed_whole(tensor, part, linears)};
    part.transposed = model_.fused->transposed;
    return {{Holds::fused, tensor.name, linears, {{part.tensor, "BF16", part.shape()}}}};
  }

  /// A dimension for the experts before those of a matrix.
  ExpectedPiece packed_whole(const RawTensor& tensor, const StoredPart& part,
                             const std::vector<const LinearSpec*>& linears) const {
    ExpectedPiece piece{Holds::fused, tensor.name, linears};
    piece.tensors = parts_of({format_, gpt_oss_scheme(), part.outputs, part.inputs});
    for (TensorEntry& entry : piece.tensors) {
      entry.name = str(part.tensor, "_", entry.name);
      entry.shape.insert(entry.shape.begin(), part.slices);
    }
    return piece;
  }

  const Model& model_;
  const Checkpoint& checkpoint_;
  const PlannedMatrices& planned_;
  std::string format_;
  bool symmetric_ = true;
  std::map<std::string, std::vector<const LinearSpec*>> weights_, biases_;
  std::set<std::string> gone_;
  std::set<Index> split_layers_;
};

}  // namespace

ServedForm served_form(const std::string& format, bool symmetric, const LinearSpec& linear,
                       const PlannedMatrix& matrix) {
  std::string layout = format;
  if (format == "compressed-tensors") layout = layout_name(matrix.scheme, matrix.activation);
  if (format == "gptq" && !symmetric) layout = "gptq_v2";
  return {layout, matrix.scheme, linear.rows, linear.columns};
}

std::vector<ExpectedPiece> expected_pieces(const ModelFiles& source, const PlannedMatrices& planned,
                                           const std::string& format) {
  const SourceMap map(source, planned, format);
  std::vector<ExpectedPiece> pieces;
  for (const RawTensor& tensor : source.checkpoint.raw_tensors())
    for (ExpectedPiece& piece : map.pieces_of(tensor)) pieces.push_back(std::move(piece));
  return pieces;
}

}  // namespace aq
