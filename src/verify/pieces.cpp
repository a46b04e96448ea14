#include "verify/pieces.h"

#include <algorithm>
#include <cstring>

#include "aq/core/dtype.h"
#include "aq/io/weight_reader.h"

namespace aq {
namespace {

using Holds = ExpectedPiece::Holds;

constexpr double kBf16Step = 0x1p-8;  ///< rounding moves a value by half of that at most

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::string entry_text(const std::string& dtype, const std::vector<Index>& shape) {
  return str(dtype, " ", Json(shape).dump());
}

std::vector<std::byte> as_bf16(std::span<const float> values) {
  std::vector<std::byte> bytes(values.size() * 2);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = float_to_bf16(values[i]);
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  }
  return bytes;
}

}  // namespace

const std::string& PieceCheck::file_of(const std::string& tensor) const {
  static const std::string kNone;
  const auto found = manifest_.tensors.find(tensor);
  return found == manifest_.tensors.end() ? kNone : found->second.file;
}

bool PieceCheck::is_changed(const StoredPlace& place) const {
  const auto found = manifest_.tensors.find(place.tensor.name);
  return found != manifest_.tensors.end() && found->second.checksum != files_.checksum(place);
}

void PieceCheck::operator()(const ExpectedPiece& piece) {
  const std::string object =
      piece.holds == Holds::quantized ? piece.linears.front()->name : piece.tensors.front().name;
  const std::string& file = file_of(piece.tensors.front().name);
  std::vector<std::string> absent;
  for (const TensorEntry& entry : piece.tensors) {
    const std::string& written = file_of(entry.name);
    if (!written.empty() && !files_.is_readable(written)) return;  // the file has its finding
    if (files_.find(entry.name) == nullptr) absent.push_back(entry.name);
  }
  if (!absent.empty())
    return collector_.find("missing", file, object,
                           piece.holds == Holds::copy ? "it was not carried over from the source"
                                                      : str("there is no ", joined(absent)));
  for (const TensorEntry& entry : piece.tensors) {
    const RawTensor& tensor = files_.find(entry.name)->tensor;
    if (tensor.dtype != entry.dtype || tensor.shape != entry.shape)
      return collector_.find("shape", file, object,
                             str(entry.name, " is ", entry_text(tensor.dtype, tensor.shape),
                                 ", not ", entry_text(entry.dtype, entry.shape)));
    collector_.count_tensor(tensor.bytes);
  }
  if (piece.holds == Holds::quantized) return check_matrix(piece, file);
  if (piece.holds == Holds::fused) return check_fused(piece, file);
  check_untouched(piece, file);
}

/// The tensors' bytes, and which of them are not those that were written.
Parts PieceCheck::read_parts(const ExpectedPiece& piece, std::vector<std::string>& changed) const {
  Parts parts;
  const std::size_t prefix = piece.linears.front()->name.size() + 1;
  for (const TensorEntry& entry : piece.tensors) {
    const StoredPlace& place = *files_.find(entry.name);
    parts[entry.name.substr(prefix)] = files_.read(place, 0, place.tensor.bytes);
    if (is_changed(place)) changed.push_back(entry.name.substr(prefix));
  }
  return parts;
}

void PieceCheck::check_matrix(const ExpectedPiece& piece, const std::string& file) {
  const LinearSpec& linear = *piece.linears.front();
  const PlannedMatrix& planned = manifest_.matrices.at(linear.name);
  std::vector<std::string> changed;
  const Parts parts = read_parts(piece, changed);
  const ServedForm served =
      served_form(manifest_.format, planned.scheme.symmetric, linear, planned);
  const Known known{problem_of(served, parts), joined(changed), planned.logged,
                    served.layout == "bf16" ? kBf16Step : 0};
  judge_linear(form_of(served, parts), linear, known, file);
}

bool PieceCheck::judge_linear(const MatrixForm& form, const LinearSpec& linear, const Known& known,
                              const std::string& file) {
  collector_.count_matrix(known.logged.has_value());
  const Problem problem = judge(form, source_weight(linear), known);
  if (problem) collector_.find(problem.kind, file, linear.name, problem.text);
  return !problem;
}

Matrix PieceCheck::source_weight(const LinearSpec& linear) const {
  collector_.count_bytes(static_cast<Index>(stored_weight_bytes(source_, linear) *
                                            static_cast<double>(linear.rows * linear.columns)));
  return read_weight_rows(source_.checkpoint, source_.model, linear, 0, linear.rows);
}

/// The linears of all experts in one tensor, or in one of codes and one of scales.
void PieceCheck::check_fused(const ExpectedPiece& piece, const std::string& file) {
  const bool packed = piece.tensors.size() > 1;
  bool clean = true;
  for (const LinearSpec* linear : piece.linears) {
    StoredPart part = stored_weight(source_.model, *linear);
    part.transposed = !packed && source_.model.fused->transposed;
    const auto planned = manifest_.matrices.find(linear->name);
    const bool quantized = planned != manifest_.matrices.end();
    ServedForm whole{packed ? manifest_.format : "bf16", {}, part.outputs, part.inputs};
    if (part.transposed) std::swap(whole.rows, whole.columns);
    if (packed) whole.scheme = gpt_oss_scheme();
    if (packed && quantized && planned->second.scheme != whole.scheme) {
      collector_.find("config", file, linear->name,
                      str("the run has it as ", to_string(planned->second.scheme),
                          ", this form holds ", to_string(whole.scheme)));
      clean = false;
      continue;
    }
    const Parts slice = read_slice(piece, part);
    const MatrixForm stored = form_of(whole, slice);
    MatrixForm form = stored;
    form.rows = linear->rows;
    form.columns = linear->columns;
    if (!packed) form.group = linear->columns;
    const auto output = [&](Index r) { return part.first + r * part.step; };
    form.element = [&](Index r, Index c) {
      return part.transposed ? stored.element(c, output(r)) : stored.element(output(r), c);
    };
    form.scale = [&](Index r, Index g) { return stored.scale(output(r), g); };
    const Problem problem = packed ? problem_of(form, whole.scheme) : Problem{};
    const bool good =
        quantized
            ? judge_linear(form, *linear,
                           {problem, "", planned->second.logged, packed ? 0 : kBf16Step}, file)
            : check_rounded(form, *linear, file);
    clean = clean && good;
  }
  for (const TensorEntry& entry : piece.tensors)
    if (const StoredPlace& place = *files_.find(entry.name); clean && is_changed(place))
      collector_.find("checksum", file, entry.name,
                      "its bytes differ from what was saved (checksum)");
}

/// The bytes of one expert.
Parts PieceCheck::read_slice(const ExpectedPiece& piece, const StoredPart& part) const {
  Parts slice;
  for (const TensorEntry& entry : piece.tensors) {
    const Index bytes = entry.bytes() / part.slices;
    const bool packed = entry.name != part.tensor;
    slice[packed ? entry.name.substr(part.tensor.size() + 1) : "weight"] =
        files_.read(*files_.find(entry.name), part.slice * bytes, bytes);
  }
  return slice;
}

/// bf16 of the source, value by value.
bool PieceCheck::check_rounded(const MatrixForm& form, const LinearSpec& linear,
                               const std::string& file) {
  const Matrix weight = source_weight(linear);
  for (Index r = 0; r < form.rows; ++r)
    for (Index c = 0; c < form.columns; ++c)
      if (form.element(r, c) != bf16_to_float(float_to_bf16(weight(r, c)))) {
        collector_.find("untouched", file, linear.name,
                        str("its value at [", r, ", ", c, "] is not the source's in bf16"));
        return false;
      }
  return true;
}

/// Copies, and what only had to be decoded or cut out.
void PieceCheck::check_untouched(const ExpectedPiece& piece, const std::string& file) {
  const StoredPlace& place = *files_.find(piece.tensors.front().name);
  const Index at = first_difference(piece, place);
  const bool changed = is_changed(place);
  if (at >= 0)
    collector_.find("untouched", file, place.tensor.name,
                    str("it is not what the source holds, from byte ", at, " on",
                        changed ? "; it differs from what was saved (checksum)" : ""));
  else if (changed)
    collector_.find("source", kCheckpoint, piece.source,
                    "it is not what the export carried over, though both are alike now (checksum)");
}

/// Of the stored bytes from those that the source makes; -1: none.
Index PieceCheck::first_difference(const ExpectedPiece& piece, const StoredPlace& place) {
  constexpr Index kPiece = Index{4} << 20;
  const auto compare = [&](Index first, std::span<const std::byte> wanted) -> Index {
    const std::vector<std::byte> stored = files_.read(place, first, std::ssize(wanted));
    const auto [a, b] = std::ranges::mismatch(stored, wanted);
    return a == stored.end() ? -1 : first + (a - stored.begin());
  };
  if (piece.holds != Holds::copy) return compare(0, made_of_source(piece));
  const RawTensor& source = raw_tensor(piece.source);
  collector_.count_bytes(source.bytes);
  std::vector<std::byte> wanted;
  for (Index first = 0; first < source.bytes; first += kPiece) {
    wanted.resize(std::min(kPiece, source.bytes - first));
    source_.checkpoint.read_raw(source, first, wanted);
    if (const Index at = compare(first, wanted); at >= 0) return at;
  }
  return -1;
}

std::vector<std::byte> PieceCheck::made_of_source(const ExpectedPiece& piece) const {
  const Checkpoint& checkpoint = source_.checkpoint;
  if (piece.holds == Holds::bias) {
    const std::vector<float> bias = read_bias(checkpoint, source_.model, *piece.linears.front());
    const std::string& dtype = piece.tensors.front().dtype;
    if (dtype == "BF16") return as_bf16(bias);
    if (dtype == "F32") {
      const auto bytes = std::as_bytes(std::span(bias));
      return {bytes.begin(), bytes.end()};
    }
    std::vector<std::byte> bytes;
    for (const float value : bias) {
      const std::uint16_t bits = float_to_f16(value);
      const auto pair = std::as_bytes(std::span(&bits, 1));
      bytes.insert(bytes.end(), pair.begin(), pair.end());
    }
    return bytes;
  }
  if (!piece.linears.empty()) return as_bf16(source_weight(*piece.linears.front()).values);
  const auto& shape = piece.tensors.front().shape;  // FP8 of a module that the model has not
  const Model& model = source_.model;
  Matrix values = checkpoint.read_matrix(piece.source, shape[0], shape[1]);
  const Matrix scales =
      checkpoint.read_matrix(block_scales_name(piece.source), ceil_div(shape[0], model.block_rows),
                             ceil_div(shape[1], model.block_columns));
  for (Index r = 0; r < values.rows; ++r)
    for (Index c = 0; c < values.columns; ++c)
      values(r, c) *= scales(r / model.block_rows, c / model.block_columns);
  return as_bf16(values.values);
}

const RawTensor& PieceCheck::raw_tensor(const std::string& name) {
  if (raw_.empty())
    for (RawTensor& tensor : source_.checkpoint.raw_tensors()) raw_[tensor.name] = tensor;
  return raw_.at(name);
}

}  // namespace aq
