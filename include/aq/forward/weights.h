#pragma once
/// The weights of the forward pass: packed results where a matrix was quantized, else the
/// checkpoint.

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "aq/comm/lanes.h"
#include "aq/formats/quantized_matrix.h"
#include "aq/io/checkpoint.h"
#include "aq/model/model.h"
#include "aq/runtime/tensor.h"

namespace aq {

/// A linear as it is run.
struct UsedLinear {
  Tensor weight;                     ///< `[rows, columns]`, dequantized or from the checkpoint
  std::vector<float> bias;           ///< `[rows]`; empty: none
  std::optional<Scheme> activation;  ///< how its inputs are rounded; nothing: not at all
};

/// Rows of a matrix as the checkpoint has it.
struct OriginalRows {
  const LinearSpec& linear;
  Range rows;
};

class Weights {
 public:
  /// @param products  elements of the weights of linears that run, and so of their inputs: float32
  ///   or bfloat16
  Weights(const Checkpoint& checkpoint, const Model& model, DType products = DType::f32)
      : checkpoint_(checkpoint), model_(model), products_(products) {}

  /// Of what linears multiply.
  runtime::TensorKind kind() const { return {{}, products_}; }
  /// From now on `name` stands for this matrix. With `activation` its inputs are rounded so when it
  /// runs (see SharedInput); calibration never does that.
  void put(const std::string& name, QuantizedMatrix matrix,
           std::optional<Scheme> activation = std::nullopt);
  /// Forgets all quantized matrices (their layer is done).
  void clear() { quantized_.clear(); }

  /// The linear as it is used: dequantized, or read from the checkpoint.
  UsedLinear used(const LinearSpec& linear) const { return used_as(linear, products_); }
  /// The same in float32 always: routers, whose choices are not continuous.
  UsedLinear used_exactly(const LinearSpec& linear) const { return used_as(linear, DType::f32); }
  /// Rows of the original.
  Matrix original_rows(const LinearSpec& linear, Index begin, Index count) const;
  /// Reads several on all threads; `use(i, rows)` gets those of wanted[i] on the thread that has
  /// read them.
  void read(std::span<const OriginalRows> wanted,
            const std::function<void(Index, Matrix)>& use) const;
  /// A one-dimensional tensor.
  std::vector<float> vector(const std::string& tensor, Index size) const;
  /// Embeddings of the tokens `[tokens, hidden]`; each row of the table is read once.
  Tensor embeddings(std::span<const std::int32_t> tokens) const;

 private:
  UsedLinear used_as(const LinearSpec& linear, DType dtype) const;

  const Checkpoint& checkpoint_;
  const Model& model_;
  DType products_;
  struct Quantized {
    QuantizedMatrix matrix;
    std::optional<Scheme> activation;
  };
  std::map<std::string, Quantized> quantized_;
};

}  // namespace aq
