#pragma once
/// A model that tokens are run through to be scored.

#include <functional>

#include "aq/forward/routing.h"
#include "aq/forward/weights.h"
#include "aq/io/matrix_file.h"
#include "aq/io/model_files.h"

namespace aq {

/// Sees the routing of each layer when its tokens have passed it.
using AfterLayer = std::function<void(const LayerSpec&, const Routing&)>;

/// How the inputs of linears with an activation format are taken.
enum class Activations { exact, rounded };

class ScoredModel {
 public:
  /// @param quantized  matrices in the place of the checkpoint's; null: none
  ScoredModel(const ModelFiles& files, const MatrixReader* quantized, Activations activations);

  const Model& model() const { return files_.model; }
  /// Final hidden states of the tokens `[rows, hidden]`.
  Tensor run_layers(const Batch& batch, const AfterLayer& after_layer);
  /// Logits of hidden states, as a function that any thread may call.
  std::function<Tensor(const Tensor& hidden)> head();

 private:
  /// Puts the quantized matrices of one layer, or of the head for -1, in their places.
  void load(Index layer);

  const ModelFiles& files_;
  const MatrixReader* quantized_;
  Activations activations_;
  Weights weights_;
};

}  // namespace aq
