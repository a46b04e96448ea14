#pragma once
/// What a checkpoint contains, as values: layers, named and shaped linears, and the facts of the
/// forward pass. Made from config.json by an architecture's row (architecture.h); where each weight
/// lies in the files is in storage.h.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "aq/core/index.h"
#include "aq/core/stage.h"
#include "aq/model/packed_weight.h"

namespace aq {

/// How the frequencies of a rotary embedding are changed for longer contexts.
enum class RopeScaling { none, linear, llama3, yarn };

/// Rotary position embedding of the dimensions [begin, begin + dims) of every head: pair j is
/// rotated by pos * frequency(j), frequency(j) = theta^(-2j/dims) before scaling.
struct RopeSpec {
  double theta = 10000;
  Index begin = 0;
  Index dims = 0;            ///< even
  bool interleaved = false;  ///< pair j is (2j, 2j+1), else (j, j + dims/2)
  double magnitude = 1;      ///< multiplies cosine and sine (YaRN's attention factor)
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;              ///< of linear, llama3 and yarn
  double original_positions = 0;  ///< of llama3 and yarn: the context before scaling
  double low_frequency_factor = 1, high_frequency_factor = 4;  ///< of llama3
  double beta_fast = 32, beta_slow = 1;                        ///< of yarn
  bool truncate = true;  ///< of yarn: the ends of its ramp are whole dimensions
  bool operator==(const RopeSpec&) const = default;
};

/// Where q and k are normalised before the rotary embedding: over the whole projected width, or
/// each head by itself.
enum class QkNorm { none, projection, head };

struct AttentionSpec {
  Index heads = 0;
  Index kv_heads = 0;   ///< kv head g serves query heads g*(heads/kv_heads) ...
  Index head_dim = 0;   ///< of a head of q and k
  Index value_dim = 0;  ///< of a head of v and of the output
  double scale = 1;     ///< of q·k; usually head_dim^-1/2
  double norm_eps = 1e-5;
  QkNorm qk_norm = QkNorm::none;
  std::optional<double> clip_qkv;  ///< clamp of q, k, v after the norm
  Index sliding_window = 0;        ///< 0: every earlier position; else q - k < window
  RopeSpec rope;

  Index q_width() const { return heads * head_dim; }
  Index k_width() const { return kv_heads * head_dim; }
  Index v_width() const { return kv_heads * value_dim; }
  Index out_width() const { return heads * value_dim; }
};

enum class RouterScore {
  softmax,            ///< over all experts
  sigmoid,            ///< of each expert by itself
  softmax_of_chosen,  ///< the largest logits are chosen, the softmax is over them alone
};

/// What makes a group of experts be kept (DeepSeek): its best expert, or its two best together.
enum class GroupScore { largest, two_largest };

/// Scores of all experts; the `kept_groups` best of `groups` equal groups stay; of their experts
/// the top_k with the largest score plus correction bias are chosen (groups are compared by these
/// sums too); their scores, divided by their
/// sum when `renormalize` and multiplied by `scale`, are the factors of the experts' outputs.
struct RouterSpec {
  Index experts = 0;
  Index top_k = 0;
  RouterScore score = RouterScore::softmax;
  bool renormalize = false;
  double scale = 1;
  Index groups = 1;
  Index kept_groups = 1;
  GroupScore group_score = GroupScore::largest;
};

/// What a linear is for. q_a, q_b, kv_a and kv_b are those of latent attention (MLA).
enum class Role { q, k, v, o, q_a, q_b, kv_a, kv_b, router, shared_router, gate, up, down, head };

/// y = x Wᵀ + b, W `[rows, columns]` = [outputs, inputs].
struct LinearSpec {
  std::string name;  ///< dotted module name, as published
  Index rows = 0;
  Index columns = 0;
  Role role = Role::q;
  Index layer = -1;   ///< -1 outside the layers
  Index expert = -1;  ///< -1 when not part of a routed expert
  bool bias = false;
  Index id = -1;  ///< its place in all_linears of the model; set by number_linears

  std::string weight_name() const { return name + ".weight"; }
  std::string bias_name() const { return name + ".bias"; }
};

/// h = silu(gate) * up; or, clamped (gpt-oss), with g = min(gate, limit) and u = up within ±limit:
/// h = g * sigmoid(alpha * g) * (u + 1).
struct GatedActivation {
  bool clamped = false;
  double limit = 7;
  double alpha = 1.702;
  bool operator==(const GatedActivation&) const = default;
};

/// Which tokens an MLP gets.
enum class MlpKind {
  routed,  ///< those that the layer's router sends to it, with the factors that it gives them
  shared,  ///< every token, beside routed experts
  dense,   ///< every token, of a layer without experts
};

/// down(activation(gate(x), up(x))).
struct MlpSpec {
  MlpKind kind = MlpKind::dense;
  LinearSpec gate, up, down;
  GatedActivation activation;
  /// One row: the sigmoid of its output is the factor of the MLP's; without one it is 1.
  std::optional<LinearSpec> output_gate;
};

/// How tokens choose among the routed experts of a layer.
struct MoeSpec {
  LinearSpec router;
  RouterSpec routing;
  std::string correction_bias;  ///< tensor `[experts]` added to scores for the choice; or empty
};

/// q, k and v straight from the layer's input.
struct ProjectedHeads {
  LinearSpec q, k, v;
  std::string q_norm, k_norm;  ///< tensor names; empty when QkNorm::none
};

/// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1). kv_a gives a latent of
/// kv_b.columns numbers and a rotary key that all heads share; kv_b turns the normalised latent
/// into each head's key without rotation and its value. A head of q and k is [no rotation |
/// rotary].
struct LatentHeads {
  std::optional<LinearSpec> q_a;  ///< then q reads its normalised output, else the layer's input
  std::string q_a_norm;
  LinearSpec q;
  LinearSpec kv_a;
  std::string kv_a_norm;
  LinearSpec kv_b;
  double norm_eps = 1e-6;  ///< of both norms

  Index rank() const { return kv_b.columns; }
  Index rope_dim() const { return kv_a.rows - kv_b.columns; }
};

/// x += o(attention(q, k, v of norm(x))); x += mlp(norm(x)).
struct LayerSpec {
  Index index = 0;
  std::string input_norm, post_attention_norm;  ///< tensor names
  AttentionSpec attention;
  std::optional<ProjectedHeads> heads;  ///< exactly one of heads and latent
  std::optional<LatentHeads> latent;
  std::string sinks;  ///< tensor `[heads]`: logits of a key without value (gpt-oss); or empty
  LinearSpec o;
  std::optional<MoeSpec> moe;  ///< exactly with routed MLPs
  /// Their outputs are added up. A routed expert stands at its number, so the routed ones come
  /// first; in routings and waves the others have the numbers that follow.
  std::vector<MlpSpec> mlps;

  const MlpSpec& mlp(Index number) const { return mlps[number]; }
};

/// MLPs of one kind that follow each other in a layer.
struct MlpRun {
  MlpKind kind = MlpKind::dense;
  Range numbers;
};
std::vector<MlpRun> mlp_runs(const LayerSpec& layer);
/// The first MLP of the kind; null when the layer has none.
const MlpSpec* first_mlp(const LayerSpec& layer, MlpKind kind);

/// Those whose outputs are the heads' q, k and v: q, k, v, or q and kv_b of latents.
std::vector<const LinearSpec*> qkv_linears(const LayerSpec& layer);

/// Linears that read one input, and so share one Hessian.
struct LinearGroup {
  Stage stage = Stage::qkv;
  std::vector<const LinearSpec*> linears;
};
// The order in which tokens meet the linears of a layer is written here alone: plans, costs, kept
// Hessians and listings walk it, and the forward pass knows what happens between the groups.
// Groups of one stage have different inputs, follow each other and are worked on together.
std::vector<LinearGroup> attention_groups(const LayerSpec& layer);
/// Attention, then the routers and output gates, which read what the MLPs read.
std::vector<LinearGroup> groups_before_mlps(const LayerSpec& layer);
std::vector<LinearGroup> mlp_groups(const MlpSpec& mlp);
/// All of the above, MLP by MLP.
std::vector<LinearGroup> groups(const LayerSpec& layer);

/// Experts of a layer stored as two 3-D tensors, one for gate and up, one for down.
struct FusedExperts {
  std::string gate_up, down;  ///< tensor names; "{i}" stands for the layer
  bool interleaved = false;   ///< rows of gate and up alternate; else all of gate, then all of up
  bool transposed = false;    ///< [experts, inputs, outputs], else [experts, outputs, inputs]
};

/// How the checkpoint stores the weights of its linears.
enum class SourceEncoding {
  plain,       ///< F32, F16 or BF16
  fp8_blocks,  ///< F8_E4M3 with `weight_scale_inv`, a factor for each block
  mxfp4,       ///< fused experts as `_blocks` (two FP4 a byte) and `_scales` (E8M0, 32 a group)
  packed,      ///< plain but for the linears of Model::packed
};

struct Model {
  std::string architecture;  ///< row of the table: "qwen2_moe"
  std::string family;        ///< "qwen"
  Index vocabulary = 0;
  Index hidden = 0;
  Index max_positions = 0;
  double norm_eps = 1e-5;
  std::string embedding, final_norm;  ///< tensor names
  LinearSpec head;                    ///< when tied its weight is the embedding
  bool tied_head = false;
  std::vector<LayerSpec> layers;
  std::optional<FusedExperts> fused;  ///< nothing: one tensor an expert and projection
  SourceEncoding encoding = SourceEncoding::plain;
  Index block_rows = 128, block_columns = 128;  ///< of fp8_blocks
  /// Linears that another program quantized, by name; of `packed` checkpoints.
  std::map<std::string, PackedWeight> packed = {};

  /// Tensor that holds the weight of `head`.
  std::string head_tensor() const;
  /// The layers with routed experts.
  std::vector<const LayerSpec*> moe_layers() const;
};

/// Every linear in order of use, routers and the head included.
std::vector<const LinearSpec*> all_linears(const Model& model);
/// Gives every linear its id; a described model has them.
void number_linears(Model& model);

}  // namespace aq
