#include "aq/io/weight_reader.h"

#include <algorithm>

#include "aq/core/finite.h"
#include "io/fp4.h"
#include "io/packed_weights.h"

namespace aq {
namespace {

[[noreturn]] void fail_beyond_float(const Checkpoint& checkpoint, const std::string& tensor,
                                    Index row) {
  throw Error(ErrorKind::input, "read a tensor", str(checkpoint.directory().string(), ": ", tensor),
              str("a value of row ", row, " times its scale is infinite"));
}

/// Multiplies rows [begin, begin + rows.rows) of the weight by the factors of their blocks.
void apply_block_scales(const Checkpoint& checkpoint, const Model& model, const StoredPart& part,
                        Index begin, Matrix& rows) {
  const Index blocks = ceil_div(part.inputs, model.block_columns);
  const Matrix scales = checkpoint.read_matrix(block_scales_name(part.tensor),
                                               ceil_div(part.outputs, model.block_rows), blocks);
  for (Index r = 0; r < rows.rows; ++r) {
    const std::span<const float> factors = scales.view().row((begin + r) / model.block_rows);
    const std::span<float> row = rows.view().row(r);
    for (Index c = 0; c < rows.columns; ++c) row[c] *= factors[c / model.block_columns];
    if (!all_finite(row)) fail_beyond_float(checkpoint, part.tensor, begin + r);
  }
}

/// Outputs [begin, begin + count) of a two-dimensional tensor.
Matrix read_own_tensor(const Checkpoint& checkpoint, const Model& model, const StoredPart& part,
                       Index begin, Index count) {
  Matrix rows = checkpoint.read_rows(part.tensor, part.outputs, part.inputs, begin, count);
  if (checkpoint.info(part.tensor).dtype == DType::f8_e4m3)
    apply_block_scales(checkpoint, model, part, begin, rows);
  return rows;
}

/// Outputs [begin, begin + count) of one slice stored as MXFP4.
Matrix read_mxfp4(const Checkpoint& checkpoint, const StoredPart& part, Index begin, Index count) {
  constexpr Index kBytes = kMxfp4Group / 2;
  const Index groups = part.inputs / kMxfp4Group;
  const std::string scales_name = mxfp4_scales_name(part.tensor);
  std::vector<std::uint8_t> blocks(count * groups * kBytes);
  std::vector<std::uint8_t> scales(count * groups);
  const Index first = (part.slice * part.outputs + begin) * groups;
  checkpoint.read_bytes(mxfp4_blocks_name(part.tensor), {part.slices, part.outputs, groups, kBytes},
                        first * kBytes, blocks);
  checkpoint.read_bytes(scales_name, {part.slices, part.outputs, groups}, first, scales);
  if (std::find(scales.begin(), scales.end(), 255) != scales.end())
    throw Error(ErrorKind::input, "read a tensor",
                str(checkpoint.directory().string(), ": ", scales_name),
                str("a scale of expert ", part.slice, " is NaN (255)"));
  const std::array<float, 16>& fp4 = fp4_values();
  Matrix rows(count, part.inputs);
  for (std::size_t group = 0; group < scales.size(); ++group) {
    const float scale = e8m0_to_float(scales[group]);
    const std::uint8_t* bytes = blocks.data() + group * kBytes;
    float* out = rows.values.data() + group * kMxfp4Group;
    for (Index i = 0; i < kBytes; ++i) {
      out[2 * i] = scale * fp4[bytes[i] & 15];
      out[2 * i + 1] = scale * fp4[bytes[i] >> 4];
    }
    if (!all_finite({out, static_cast<std::size_t>(kMxfp4Group)}))
      fail_beyond_float(checkpoint, mxfp4_blocks_name(part.tensor),
                        begin + static_cast<Index>(group) / groups);
  }
  return rows;
}

/// Outputs [begin, begin + count) of one slice of a plain three-dimensional tensor.
Matrix read_slice(const Checkpoint& checkpoint, const StoredPart& part, Index begin, Index count) {
  if (checkpoint.info(part.tensor).dtype == DType::f8_e4m3)
    throw Error(ErrorKind::input, "read a tensor",
                str(checkpoint.directory().string(), ": ", part.tensor),
                "fused experts in FP8 are not supported", "store one tensor for each expert");
  const Index size = part.outputs * part.inputs;
  Matrix rows(count, part.inputs);
  if (!part.transposed) {
    checkpoint.read_elements(part.tensor, part.shape(), part.slice * size + begin * part.inputs,
                             count * part.inputs, rows.values.data());
    return rows;
  }
  Matrix whole(part.inputs, part.outputs);
  checkpoint.read_elements(part.tensor, part.shape(), part.slice * size, size, whole.values.data());
  for (Index r = 0; r < count; ++r)
    for (Index c = 0; c < part.inputs; ++c) rows(r, c) = whole(c, begin + r);
  return rows;
}

}  // namespace

Matrix read_weight_rows(const Checkpoint& checkpoint, const Model& model, const LinearSpec& linear,
                        Index begin, Index count) {
  AQ_CHECK(begin >= 0 && count >= 0 && begin <= linear.rows - count, linear.name, ": rows ", begin,
           " + ", count);
  if (const auto packed = model.packed.find(linear.name); packed != model.packed.end())
    return read_packed_rows(checkpoint, linear, packed->second, begin, count);
  const StoredPart part = stored_weight(model, linear);
  if (!part.fused()) return read_own_tensor(checkpoint, model, part, begin, count);
  if (count == 0) return Matrix(0, part.inputs);
  const Index first = part.first + begin * part.step;
  const Index outputs = (count - 1) * part.step + 1;  // with those of the other projection between
  Matrix read = model.encoding == SourceEncoding::mxfp4
                    ? read_mxfp4(checkpoint, part, first, outputs)
                    : read_slice(checkpoint, part, first, outputs);
  if (part.step == 1) return read;
  Matrix rows(count, part.inputs);
  for (Index r = 0; r < count; ++r)
    std::ranges::copy(read.view().row(r * part.step), rows.view().row(r).begin());
  return rows;
}

std::vector<float> read_bias(const Checkpoint& checkpoint, const Model& model,
                             const LinearSpec& linear) {
  if (!linear.bias) return {};
  const StoredPart part = stored_bias(model, linear);
  if (!part.fused()) return checkpoint.read(part.tensor, part.shape());
  std::vector<float> all(part.outputs);
  checkpoint.read_elements(part.tensor, part.shape(), part.slice * part.outputs, part.outputs,
                           all.data());
  std::vector<float> bias;
  for (Index r = 0; r < linear.rows; ++r) bias.push_back(all[part.first + r * part.step]);
  return bias;
}

}  // namespace aq
