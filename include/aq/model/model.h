#pragma once
/// What a checkpoint contains, as values: layers, named and shaped linears, and the facts of the
/// forward pass. Made from config.json alone by an architecture's row (architecture.h).

#include <optional>
#include <string>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// Rotary position embedding, half-rotate convention (y[j], y[j+d/2] rotated by pos *
/// theta^(-2j/d)).
struct RopeSpec {
  double theta = 10000;
  bool operator==(const RopeSpec&) const = default;
};

/// Where q and k are normalised before the rotary embedding.
enum class QkNorm { none, projection };  ///< projection: RMS over the whole projected width

struct AttentionSpec {
  Index heads = 0;
  Index kv_heads = 0;  ///< kv head g serves query heads g*(heads/kv_heads) ...
  Index head_dim = 0;
  double norm_eps = 1e-5;
  QkNorm qk_norm = QkNorm::none;
  std::optional<double> clip_qkv;  ///< clamp of q, k, v after the norm
  Index sliding_window = 0;        ///< 0: every earlier position; else q - k < window
  RopeSpec rope;
};

/// softmax over all experts in fp32, the top_k largest, divided by their sum when `renormalize`.
struct RouterSpec {
  Index experts = 0;
  Index top_k = 0;
  bool renormalize = false;
};

/// What a linear is for.
enum class Role { q, k, v, o, router, gate, up, down, head };

/// y = x Wᵀ, weight tensor `name + ".weight"` of `[rows, columns]` = [outputs, inputs].
struct LinearSpec {
  std::string name;  ///< dotted module name, as published
  Index rows = 0;
  Index columns = 0;
  Role role = Role::q;
  Index layer = -1;   ///< -1 outside the layers
  Index expert = -1;  ///< -1 when not part of a routed expert

  std::string weight_name() const { return name + ".weight"; }
};

/// down(silu(gate(x)) * up(x)): a routed expert, or a dense MLP.
struct MlpSpec {
  LinearSpec gate, up, down;
};

struct MoeSpec {
  LinearSpec router;
  RouterSpec routing;
  std::vector<MlpSpec> experts;
};

/// x += o(attention(q, k, v of norm(x))); x += mlp(norm(x)).
struct LayerSpec {
  Index index = 0;
  std::string input_norm, post_attention_norm;  ///< tensor names
  std::string q_norm, k_norm;                   ///< tensor names; empty when QkNorm::none
  LinearSpec q, k, v, o;
  std::optional<MlpSpec> dense;  ///< exactly one of dense and moe
  std::optional<MoeSpec> moe;
};

struct Model {
  std::string architecture;  ///< row of the table: "olmoe"
  Index vocabulary = 0;
  Index hidden = 0;
  Index max_positions = 0;
  double norm_eps = 1e-5;
  AttentionSpec attention;
  std::string embedding, final_norm;  ///< tensor names
  LinearSpec head;                    ///< when tied its weight is the embedding
  bool tied_head = false;
  std::vector<LayerSpec> layers;

  /// Tensor that holds the weight of `head`.
  std::string head_tensor() const;
};

/// A tensor that the model needs, with its shape.
struct ExpectedTensor {
  std::string name;
  std::vector<Index> shape;
};
/// Every tensor that the forward pass reads, in order of use.
std::vector<ExpectedTensor> expected_tensors(const Model& model);
/// Every linear in order of use, routers and the head included.
std::vector<const LinearSpec*> all_linears(const Model& model);
/// Number of weights of all expected tensors.
Index parameter_count(const Model& model);

}  // namespace aq
