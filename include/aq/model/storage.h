#pragma once
/// Where the weights of a model lie in its checkpoint.

#include "aq/model/model.h"

namespace aq {

/// A weight or a bias inside a tensor: output r of the linear is output first + r * step of the
/// tensor's, of slice `slice` where the tensor has one more dimension for the experts.
struct StoredPart {
  std::string tensor;
  Index slice = -1;   ///< -1: the tensor has no dimension for experts
  Index slices = 0;   ///< extent of that dimension
  Index outputs = 0;  ///< of the tensor (of one slice)
  Index inputs = 0;   ///< 0: a bias
  Index first = 0;
  Index step = 1;
  bool transposed = false;  ///< inputs before outputs
  bool fused() const { return slice >= 0; }
  /// Shape of the tensor when it is stored plainly.
  std::vector<Index> shape() const;
};
StoredPart stored_weight(const Model& model, const LinearSpec& linear);
/// @pre linear.bias
StoredPart stored_bias(const Model& model, const LinearSpec& linear);

/// Companions of a weight tensor that is not stored plainly.
std::string block_scales_name(const std::string& tensor);  ///< fp8_blocks: "x.weight_scale_inv"
std::string mxfp4_blocks_name(const std::string& tensor);  ///< "..._blocks" U8 [.., groups, 16]
std::string mxfp4_scales_name(const std::string& tensor);  ///< "..._scales" U8 [.., groups]
constexpr Index kMxfp4Group = 32;

/// A tensor that the model needs, with its shape.
struct ExpectedTensor {
  std::string name;
  std::vector<Index> shape;
  Index parameters = 0;  ///< weights that it stands for; 0 for scales
  Index part = 0;        ///< layer that first reads it; final norm and head come after the layers
  bool packed = false;   ///< of a linear of Model::packed
};
/// Every tensor that the forward pass reads. With fp8_blocks every linear but
/// routers and the head is expected to have scales; a checkpoint may store some of them plainly.
std::vector<ExpectedTensor> expected_tensors(const Model& model);
/// Number of weights of all expected tensors.
Index parameter_count(const Model& model);

}  // namespace aq
