#pragma once
/// A model that tokens are run through to be scored.

#include <functional>

#include "aq/forward/decoder_layer.h"
#include "aq/forward/routing.h"
#include "aq/forward/weights.h"
#include "aq/io/matrix_file.h"
#include "aq/io/model_files.h"

namespace aq {

/// Sees the routing of each layer when its tokens have passed it.
using AfterLayer = std::function<void(const LayerSpec&, const Routing&)>;

/// How the inputs of linears with an activation format are taken.
enum class Activations { exact, rounded };

/// The file with the matrix that stands for a linear; null: it is the checkpoint's.
using QuantizedLinears = std::function<const MatrixReader*(const LinearSpec&)>;
/// Whatever the file holds; null: nothing.
QuantizedLinears all_of(const MatrixReader* quantized);

class ScoredModel {
 public:
  explicit ScoredModel(const ModelFiles& files, QuantizedLinears quantized = all_of(nullptr),
                       Activations activations = Activations::exact);

  const Model& model() const { return files_.model; }
  Tensor embed(const Batch& batch) const { return embed_tokens(weights_, batch); }
  /// One layer: x becomes the next one's input.
  Routing run(const LayerSpec& layer, const Batch& batch, Tensor& x);
  /// Final hidden states of the tokens `[rows, hidden]`.
  Tensor run_layers(const Batch& batch, const AfterLayer& after_layer);
  /// Logits of hidden states, as a function that any thread may call.
  std::function<Tensor(const Tensor& hidden)> head();

 private:
  /// Puts the quantized matrices of one layer, or of the head for -1, in their places.
  void load(Index layer);

  const ModelFiles& files_;
  QuantizedLinears quantized_;
  Activations activations_;
  Weights weights_;
};

}  // namespace aq
