#include "export/layout.h"

#include <algorithm>
#include <map>
#include <set>

#include "aq/io/weight_reader.h"
#include "export/bits.h"

namespace aq {
namespace {

constexpr std::string_view kWeight = ".weight";

/// The linear's values as they are served: the run's, or the source's.
Matrix values_of(const ExportSource& source, const LinearSpec& linear) {
  if (!source.matrices.has(linear.name))
    return read_weight_rows(source.files.checkpoint, source.files.model, linear, 0, linear.rows);
  Matrix values(linear.rows, linear.columns);
  dequantize(source.matrices.read(linear.name).matrix, values.view());
  return values;
}

ExportPiece copied(const ExportSource& source, const RawTensor& tensor) {
  return {{{tensor.name, tensor.dtype, tensor.shape}}, [&source, tensor](SafetensorsWriter& out) {
            constexpr Index kPiece = Index{16} << 20;
            std::vector<std::byte> bytes(std::min(kPiece, tensor.bytes));
            for (Index done = 0; done < tensor.bytes; done += kPiece) {
              const auto piece = std::span(bytes).first(std::min(kPiece, tensor.bytes - done));
              source.files.checkpoint.read_raw(tensor, done, piece);
              out.write(tensor.name, piece);
            }
          }};
}

ExportPiece quantized(const ExportSource& source, const ServedFormat& format,
                      const StoredMatrix& matrix) {
  std::vector<TensorEntry> entries = format.entries(matrix);
  return {entries, [&source, &format, matrix, entries](SafetensorsWriter& out) {
            const auto bytes =
                format.pack(source.matrices.read(matrix.name).matrix, matrix.activation);
            for (std::size_t i = 0; i < entries.size(); ++i) out.write(entries[i].name, bytes[i]);
          }};
}

ExportPiece decoded(const ExportSource& source, const LinearSpec& linear) {
  const std::string name = linear.weight_name();
  return {{{name, "BF16", {linear.rows, linear.columns}}},
          [&source, &linear, name](SafetensorsWriter& out) {
            out.write(name, floats_as(DType::bf16, values_of(source, linear).values));
          }};
}

/// A FP8 weight with block scales of a module that the model does not know: of an MTP layer.
ExportPiece decoded_stranger(const ExportSource& source, const RawTensor& tensor) {
  return {{{tensor.name, "BF16", tensor.shape}}, [&source, tensor](SafetensorsWriter& out) {
            const Checkpoint& checkpoint = source.files.checkpoint;
            const Model& model = source.files.model;
            const Index rows = tensor.shape[0], columns = tensor.shape[1];
            Matrix values = checkpoint.read_matrix(tensor.name, rows, columns);
            const Matrix scales = checkpoint.read_matrix(block_scales_name(tensor.name),
                                                         ceil_div(rows, model.block_rows),
                                                         ceil_div(columns, model.block_columns));
            for (Index r = 0; r < rows; ++r)
              for (Index c = 0; c < columns; ++c)
                values(r, c) *= scales(r / model.block_rows, c / model.block_columns);
            out.write(tensor.name, floats_as(DType::bf16, values.values));
          }};
}

/// The bias of one expert's linear out of that of all experts.
ExportPiece own_bias(const ExportSource& source, const LinearSpec& linear) {
  const std::string name = linear.bias_name();
  const DType dtype =
      source.files.checkpoint.info(stored_bias(source.files.model, linear).tensor).dtype;
  return {{{name, std::string(dtype_name(dtype)), {linear.rows}}},
          [&source, &linear, name, dtype](SafetensorsWriter& out) {
            out.write(name, floats_as(dtype, read_bias(source.files.checkpoint, source.files.model,
                                                       linear)));
          }};
}

/// The linears that one tensor of fused experts holds, expert by expert.
ExportPiece refilled(const ExportSource& source, const std::vector<const LinearSpec*>& linears) {
  const Model& model = source.files.model;
  StoredPart whole = stored_weight(model, *linears.front());
  whole.transposed = model.fused->transposed;  // MXFP4 is stored otherwise
  return {{{whole.tensor, "BF16", whole.shape()}},
          [&source, linears, whole](SafetensorsWriter& out) {
            const Index size = whole.outputs * whole.inputs;
            std::vector<float> slice(size);
            for (std::size_t i = 0; i < linears.size(); ++i) {
              const StoredPart part = stored_weight(source.files.model, *linears[i]);
              const Matrix values = values_of(source, *linears[i]);
              for (Index r = 0; r < values.rows; ++r) {
                const Index output = part.first + r * part.step;
                for (Index c = 0; c < values.columns; ++c)
                  slice[whole.transposed ? c * whole.outputs + output : output * whole.inputs + c] =
                      values(r, c);
              }
              const bool last_of_expert =
                  i + 1 == linears.size() || linears[i + 1]->expert != linears[i]->expert;
              if (last_of_expert) out.write(whole.tensor, floats_as(DType::bf16, slice));
            }
          }};
}

/// The same where the format has them fused as well: its tensors, expert by expert.
ExportPiece refilled_packed(const ExportSource& source, const ServedFormat& format,
                            const std::vector<const LinearSpec*>& linears,
                            const std::map<std::string, const StoredMatrix*>& matrices) {
  const StoredPart whole = stored_weight(source.files.model, *linears.front());
  std::vector<TensorEntry> entries = format.entries(*matrices.at(linears.front()->name));
  for (TensorEntry& entry : entries) {
    entry.name = whole.tensor + entry.name.substr(linears.front()->name.size());
    entry.shape[0] = whole.outputs;
    entry.shape.insert(entry.shape.begin(), whole.slices);
  }
  return {entries, [&source, &format, linears, whole, entries](SafetensorsWriter& out) {
            std::vector<std::vector<std::byte>> slices;
            for (const TensorEntry& entry : entries)
              slices.emplace_back(entry.bytes() / whole.slices);
            for (std::size_t i = 0; i < linears.size(); ++i) {
              const StoredPart part = stored_weight(source.files.model, *linears[i]);
              const QuantizedMatrix matrix = source.matrices.read(linears[i]->name).matrix;
              const auto packed = format.pack(matrix, std::nullopt);
              for (std::size_t t = 0; t < slices.size(); ++t) {
                const Index bytes = std::ssize(packed[t]) / matrix.rows;  // of a row
                for (Index r = 0; r < matrix.rows; ++r)
                  std::ranges::copy_n(packed[t].begin() + r * bytes, bytes,
                                      slices[t].begin() + (part.first + r * part.step) * bytes);
              }
              if (i + 1 < linears.size() && linears[i + 1]->expert == linears[i]->expert) continue;
              for (std::size_t t = 0; t < slices.size(); ++t) out.write(entries[t].name, slices[t]);
            }
          }};
}

/// Which pieces take the place of which tensor of the source.
class Layout {
 public:
  Layout(const ExportSource& source, const std::vector<StoredMatrix>& matrices,
         const ServedFormat& format)
      : source_(source), format_(format) {
    for (const StoredMatrix& matrix : matrices) matrices_[matrix.name] = &matrix;
  }

  std::vector<ExportPiece> pieces() {
    std::map<std::string, std::vector<const LinearSpec*>> fused;
    for (const LinearSpec* linear : all_linears(model())) {
      const StoredPart part = stored_weight(model(), *linear);
      if (part.fused())
        fused[part.tensor].push_back(linear);
      else
        place(*linear, part.tensor);
    }
    for (const auto& [tensor, linears] : fused)
      for (const LinearSpec* linear : linears)
        if (source_.matrices.has(linear->name)) split_layers_.insert(linear->layer);
    for (const auto& [tensor, linears] : fused) place_fused(tensor, linears);
    return in_source_order();
  }

 private:
  const Model& model() const { return source_.files.model; }
  const Checkpoint& checkpoint() const { return source_.files.checkpoint; }

  /// An encoded tensor is replaced whatever the run did.
  bool is_encoded(const std::string& tensor) const {
    return model().encoding == SourceEncoding::fp8_blocks &&
           checkpoint().has(block_scales_name(tensor));
  }

  void place(const LinearSpec& linear, const std::string& tensor) {
    const bool chosen = source_.matrices.has(linear.name);
    if (!chosen && !is_encoded(tensor)) return;
    pieces_[tensor].push_back(chosen ? quantized(source_, format_, *matrices_.at(linear.name))
                                     : decoded(source_, linear));
    // A head that shares the embedding's tensor becomes a tensor of its own.
    if (tensor != model().embedding) replaced_.insert(tensor);
    if (is_encoded(tensor)) replaced_.insert(block_scales_name(tensor));
  }

  void place_fused(const std::string& tensor, const std::vector<const LinearSpec*>& linears) {
    const bool mxfp4 = model().encoding == SourceEncoding::mxfp4;
    const auto chosen = [&](const LinearSpec* l) { return source_.matrices.has(l->name); };
    const bool stays = format_.plain ? std::ranges::none_of(linears, chosen)
                                     : !split_layers_.contains(linears.front()->layer);
    if (!mxfp4 && stays) return;
    const std::string stored = mxfp4 ? mxfp4_blocks_name(tensor) : tensor;
    replaced_.insert(stored);
    if (mxfp4) replaced_.insert(mxfp4_scales_name(tensor));
    if (format_.plain || format_.fused) {
      pieces_[stored].push_back(format_.plain
                                    ? refilled(source_, linears)
                                    : refilled_packed(source_, format_, linears, matrices_));
      return;
    }
    for (const LinearSpec* linear : linears) {
      pieces_[stored].push_back(chosen(linear)
                                    ? quantized(source_, format_, *matrices_.at(linear->name))
                                    : decoded(source_, *linear));
      if (!linear->bias) continue;
      const std::string bias = stored_bias(model(), *linear).tensor;
      pieces_[bias].push_back(own_bias(source_, *linear));
      replaced_.insert(bias);
    }
  }

  std::vector<ExportPiece> in_source_order() {
    std::vector<ExportPiece> result;
    const std::vector<RawTensor> tensors = checkpoint().raw_tensors();
    for (const RawTensor& tensor : tensors) {
      if (pieces_.contains(tensor.name) || !is_encoded(tensor.name)) continue;
      pieces_[tensor.name].push_back(decoded_stranger(source_, tensor));
      replaced_.insert(tensor.name);
      replaced_.insert(block_scales_name(tensor.name));
    }
    for (const RawTensor& tensor : tensors) {
      if (!replaced_.contains(tensor.name)) result.push_back(copied(source_, tensor));
      if (const auto mine = pieces_.find(tensor.name); mine != pieces_.end())
        for (ExportPiece& piece : mine->second) result.push_back(std::move(piece));
    }
    return result;
  }

  const ExportSource& source_;
  const ServedFormat& format_;
  std::map<std::string, const StoredMatrix*> matrices_;
  std::map<std::string, std::vector<ExportPiece>> pieces_;  // by tensor of the source
  std::set<Index> split_layers_;    // with an expert of fused ones that was quantized
  std::set<std::string> replaced_;  // tensors that are not carried over
};

}  // namespace

Index ExportPiece::bytes() const {
  Index total = 0;
  for (const TensorEntry& entry : entries) total += entry.bytes();
  return total;
}

std::vector<ExportPiece> export_pieces(const ExportSource& source,
                                       const std::vector<StoredMatrix>& matrices,
                                       const ServedFormat& format) {
  return Layout(source, matrices, format).pieces();
}

std::vector<StoredMatrix> stored_matrices(const ExportSource& source) {
  std::vector<StoredMatrix> matrices;
  for (const LinearSpec* linear : all_linears(source.files.model))
    if (source.matrices.has(linear->name))
      matrices.push_back(stored_matrix(*linear, source.matrices.describe(linear->name).first,
                                       source.matrices.activation(linear->name)));
  return matrices;
}

std::vector<std::string> modules_left(const ExportSource& source) {
  std::set<std::string> left;
  for (const LinearSpec* linear : all_linears(source.files.model))
    if (!source.matrices.has(linear->name)) left.insert(linear->name);
  for (const RawTensor& tensor : source.files.checkpoint.raw_tensors()) {
    if (tensor.shape.size() != 2 || !tensor.name.ends_with(kWeight)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kWeight.size());
    if (tensor.name != source.files.model.embedding && !source.matrices.has(name))
      left.insert(name);
  }
  return {left.begin(), left.end()};
}

}  // namespace aq
