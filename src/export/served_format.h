#pragma once
/// The formats of exported checkpoints: which tensors a quantized linear becomes, and what
/// config.json says of them.

#include "aq/core/json.h"
#include "aq/formats/quantized_matrix.h"
#include "aq/io/safetensors_writer.h"
#include "aq/recipe/assignments.h"

namespace aq {

/// A linear as the run quantized it.
struct StoredMatrix {
  std::string name;  ///< dotted module name
  Index rows = 0, columns = 0;
  Scheme scheme;
  std::optional<Scheme> activation = std::nullopt;  ///< how its inputs are rounded
  bool routed = false;                              ///< of a routed expert
};

/// As servers see it: a group that is wider than a row of integers or fp8 is the whole row.
Scheme served_scheme(const Scheme& scheme, Index columns);
StoredMatrix stored_matrix(const LinearSpec& linear, const Scheme& scheme,
                           const std::optional<Scheme>& activation);
/// What a run with these assignments will quantize, in the order of the model.
std::vector<StoredMatrix> stored_matrices(const Model& model, const Assignments& assignments);

struct ServedFormat {
  std::string_view name;
  /// The weights are written under the names of the source, in bf16.
  bool plain = false;
  /// The experts of a layer are one, as gpt-oss has them: all are quantized and nothing else is.
  bool fused = false;
  /// Why it cannot hold the matrix; empty when it can.
  std::string (*problem)(const StoredMatrix& matrix) = nullptr;
  /// What to do about that.
  std::string_view remedy =
      "a recipe with groups that divide the columns, or \"channel\", fits; --format bf16 holds "
      "every matrix, dequantized";
  /// The tensors that take the place of "<name>.weight", by their names; of `fused` the linear's
  /// part of each tensor, whose name goes on as that of the part does behind "<name>".
  std::vector<TensorEntry> (*entries)(const StoredMatrix& matrix) = nullptr;
  /// Their bytes, in the same order. Dequantized they are the values of dequantize() exactly, for
  /// `plain` rounded to bf16.
  std::vector<std::vector<std::byte>> (*pack)(const QuantizedMatrix& matrix,
                                              const std::optional<Scheme>& activation) = nullptr;
  /// The value of "quantization_config"; null where there is none. `left`: modules with a
  /// two-dimensional weight that are not quantized.
  OrderedJson (*configuration)(const std::vector<StoredMatrix>& matrices,
                               const std::vector<std::string>& left) = nullptr;
  /// A further file that holds the same; empty for none.
  std::string_view configuration_file = {};
};

const std::vector<ServedFormat>& served_formats();
/// Throws Error{usage} naming the formats for an unknown name.
const ServedFormat& served_format(std::string_view name);

/// Whether the format can hold a checkpoint of this model at all.
bool suits(const ServedFormat& format, const Model& model);
/// What keeps it from holding these matrices: "<name>: <why>", of linears that should be among them
/// too. @pre suits
std::vector<std::string> misfits(const ServedFormat& format, const Model& model,
                                 const std::vector<StoredMatrix>& matrices);

inline constexpr std::string_view kGptOss = "gpt-oss";

ServedFormat compressed_tensors_format();
ServedFormat gptq_format();
ServedFormat gpt_oss_format();
ServedFormat bf16_format();

}  // namespace aq
