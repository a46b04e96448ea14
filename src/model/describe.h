#pragma once
/// The parts of a model's description, read from config.json by an architecture's row.

#include "model/config_reader.h"

namespace aq {

/// The row by which config.json is read.
struct Source {
  const ConfigReader& config;
  const Architecture& row;
};

/// Far above every published model; what a damaged or hostile file asks for must not fill the
/// memory.
constexpr Index kLargestWidth = Index{1} << 31;
constexpr Index kMostLayers = 4096;
constexpr Index kMostExperts = 65536;         // of a layer
constexpr Index kMostExpertsInAll = 1 << 18;  // of all layers

/// Names and shapes of a layer's linears.
class LayerNamer {
 public:
  LayerNamer(const Architecture& row, Index hidden, Index layer);

  std::string tensor(std::string_view module) const;  ///< with ".weight"
  std::string bare(std::string_view module) const;    ///< without
  LinearSpec linear(std::string_view module, Role role, Index rows, Index columns,
                    bool bias = false, Index expert = -1) const;
  MlpSpec expert(Index number, Index width, bool bias) const;
  MlpSpec shared_expert(Index width) const;
  MlpSpec dense(Index width, bool bias) const;

 private:
  const TensorNames& names_;
  Index hidden_;
  Index layer_;
  std::string prefix_;
};

/// Attention of layer `index` with all of its linears and tensors.
void read_attention(const Source& source, const LayerNamer& namer, Index hidden, LayerSpec& layer);
/// rope_parameters or rope_scaling, which are two names of one object; nothing without both.
std::optional<ConfigReader> rope_section(const ConfigReader& config);
/// Rotary embedding of heads with `dims` dimensions that may be rotated, from `begin` on.
/// `softmax_factor`: what YaRN multiplies the scores by where latent attention is used (m^2 of
/// DeepSeek's mscale_all_dim).
RopeSpec read_rope(const Source& source, Index begin, Index dims, double& softmax_factor);
/// The MLP or the experts of layer `index`.
void read_mlp(const Source& source, const LayerNamer& namer, Index hidden, LayerSpec& layer);
/// How weights are stored: quantization_config and the fused form of the experts.
void read_storage(const Source& source, const TensorShapes& tensors, Model& model);
/// Whether linears that this "quant_method" makes are read by read_packed.
bool reads_packed(std::string_view method);
/// What the tensors say of linears that another program quantized. Error{input} for tensors that
/// are not understood. @pre reads_packed(the method of `quantization`)
void read_packed(const ConfigReader& config, const ConfigReader& quantization,
                 const TensorShapes& shapes, Model& model);

}  // namespace aq
