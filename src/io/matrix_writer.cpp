#include <array>
#include <utility>

#include "aq/core/dtype.h"
#include "aq/core/json.h"
#include "aq/io/hessian_file.h"
#include "aq/io/matrix_file.h"
#include "io/checksum.h"
#include "io/matrix_names.h"
#include "io/posix_file.h"

namespace aq {

using namespace matrix_file;

/// Groups are declared after the file: they are closed before it.
struct MatrixWriter::State {
  std::filesystem::path path;
  hdf5::Object file, matrices, hessians;
  Index matrix_count = 0, hessian_count = 0;
  bool closed = false;
};

namespace {

/// A member of a group must not look like a path.
void check_name(const std::string& name) {
  AQ_CHECK(!name.empty() && name != "." && name.find('/') == std::string::npos &&
               name.find('\0') == std::string::npos,
           "'", name, "' cannot be the name of a module");
}

/// The arrays must have the sizes that scheme and shape ask for.
void check_matrix(const NamedMatrix& named) {
  const QuantizedMatrix& m = named.matrix;
  check_name(named.name);
  const Index scales = scale_count(m.scheme, m.rows, m.columns);
  AQ_CHECK(static_cast<Index>(m.codes.size()) == m.rows * words_per_row(m.scheme.bits, m.columns),
           named.name, " has ", m.codes.size(), " words");
  AQ_CHECK(static_cast<Index>(m.scales.size()) == scales, named.name, " has ", m.scales.size(),
           " scales");
  AQ_CHECK(static_cast<Index>(m.zeros.size()) == (m.scheme.symmetric ? 0 : scales), named.name,
           " has ", m.zeros.size(), " zeros");
}

/// The bits of the scales as they are stored, of `Bits` each.  @pre each is a value of the type
template <class Bits, class Encode, class Decode>
std::vector<Bits> scale_bits(const NamedMatrix& named, Encode&& encode, Decode&& decode) {
  std::vector<Bits> bits;
  bits.reserve(named.matrix.scales.size());
  for (const float scale : named.matrix.scales) {
    const float stored = scale * named.matrix.global_scale;
    bits.push_back(static_cast<Bits>(encode(stored)));
    AQ_CHECK(decode(bits.back()) == stored && stored != 0, named.name, ": the scale ", stored,
             " is no ", scale_type_name(named.matrix.scheme.scale_type));
  }
  return bits;
}

/// What goes into the dataset `scales`.
std::vector<std::byte> stored_scales(const NamedMatrix& named) {
  const auto bytes = [](const auto& values) {
    const auto view = std::as_bytes(std::span(values));
    return std::vector<std::byte>(view.begin(), view.end());
  };
  switch (named.matrix.scheme.scale_type) {
    case ScaleType::f32:
      return bytes(named.matrix.scales);
    case ScaleType::f16:
      return bytes(scale_bits<std::uint16_t>(named, float_to_f16, f16_to_float));
    case ScaleType::bf16:
      return bytes(scale_bits<std::uint16_t>(named, float_to_bf16, bf16_to_float));
    case ScaleType::e8m0:
      return bytes(scale_bits<std::uint8_t>(named, float_to_e8m0, e8m0_to_float));
    case ScaleType::e4m3:
      return bytes(scale_bits<std::uint8_t>(
          named, [](float x) { return element_code(Element::e4m3, x); },
          [](std::uint8_t code) { return element_value(Element::e4m3, code); }));
  }
  return {};
}

void write_text(const hdf5::Object& object, const char* name, const std::string& text,
                Checksum& checksum) {
  hdf5::write_text(object, name, text);
  checksum.add(name, text);
}

/// Attributes and datasets are written in the order of their names: that of the checksum.
void write_attributes(const hdf5::Object& group, const NamedMatrix& named, Checksum& checksum) {
  const QuantizedMatrix& m = named.matrix;
  if (named.activation) write_text(group, kActivation, scheme_to_json(*named.activation), checksum);
  write_text(group, kScheme, scheme_to_json(m.scheme), checksum);
  const std::array<std::int64_t, 2> shape{m.rows, m.columns};
  hdf5::write_numbers(group, kShape, hdf5::Type::i64, 2, shape.data());
  checksum.add(kShape, std::as_bytes(std::span(shape)));
  write_text(group, kStats, named.stats_json, checksum);
}

void write_codes(const hdf5::Object& group, const QuantizedMatrix& m, Checksum& checksum) {
  hdf5::write_dataset(group, kCodes, hdf5::Type::u32,
                      {m.rows, words_per_row(m.scheme.bits, m.columns)}, m.codes.data());
  checksum.add(kCodes, std::as_bytes(std::span(m.codes)));
}

void write_scales(const hdf5::Object& group, const QuantizedMatrix& m,
                  const std::vector<std::byte>& values, Checksum& checksum) {
  const ScaleType type = m.scheme.scale_type;
  if (m.scheme.is_nvfp4()) {
    hdf5::write_dataset(group, kGlobalScale, hdf5::Type::f32, {}, &m.global_scale);
    checksum.add(kGlobalScale, std::as_bytes(std::span(&m.global_scale, 1)));
  }
  const hdf5::Object dataset =
      hdf5::write_dataset(group, kScales, stored_scale_type(type),
                          scale_shape(m.scheme, m.rows, m.columns), values.data());
  checksum.add(kScales, values);
  if (const std::string encoding = scale_encoding(type); !encoding.empty())
    write_text(dataset, kEncoding, encoding, checksum);
}

void write_zeros(const hdf5::Object& group, const QuantizedMatrix& m, Checksum& checksum) {
  if (m.scheme.symmetric) return;
  hdf5::write_dataset(group, kZeros, hdf5::Type::u8, scale_shape(m.scheme, m.rows, m.columns),
                      m.zeros.data());
  checksum.add(kZeros, std::as_bytes(std::span(m.zeros)));
}

}  // namespace

MatrixWriter::MatrixWriter(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  const std::filesystem::path place = find_regular_output(path);
  state_->path = place;
  // Made through POSIX first: the reason of a failure (permission, no directory) is then plain.
  PosixFile::create(partial_path(place));
  try {
    state_->file = hdf5::create_file(partial_path(place));
    hdf5::write_text(state_->file, kVersionName, kVersion);
    state_->matrices = hdf5::create_group(state_->file, kMatrices, true);
  } catch (...) {
    remove_partial(place);
    throw;
  }
}

MatrixWriter::~MatrixWriter() {
  if (!state_->closed) remove_partial(state_->path);
}

void MatrixWriter::set_attribute(const std::string& name, const std::string& value) {
  hdf5::write_text(state_->file, name, value);
}

void MatrixWriter::write(const NamedMatrix& named) {
  check_matrix(named);
  const QuantizedMatrix& m = named.matrix;
  AQ_CHECK(Json::parse(named.stats_json, nullptr, false).is_object(), named.name,
           ": the stats are no JSON object: ", named.stats_json);
  const std::vector<std::byte> scales = stored_scales(named);  // all checks before the first write
  const hdf5::Object group = hdf5::create_group(state_->matrices, named.name);
  Checksum checksum(named.name);
  write_attributes(group, named, checksum);
  write_codes(group, m, checksum);
  write_scales(group, m, scales, checksum);
  write_zeros(group, m, checksum);
  write_checksum(group, checksum);
  ++state_->matrix_count;
}

void MatrixWriter::write_hessian(const NamedHessian& hessian) {
  check_name(hessian.name);
  if (state_->hessians.id() < 0)
    state_->hessians = hdf5::create_group(state_->file, kHessians, true);
  const hdf5::Object group = hdf5::create_group(state_->hessians, hessian.name);
  hdf5::write_numbers(group, kWeightSum, hdf5::Type::f64, -1, &hessian.weight_sum);
  hdf5::write_numbers(group, kTokens, hdf5::Type::i64, -1, &hessian.tokens);
  hdf5::write_texts(group, kUsedBy, hessian.used_by);
  hdf5::write_text(group, kStarved, hessian.starved);
  hdf5::write_dataset(group, kUpper, hdf5::Type::f32, {static_cast<Index>(hessian.upper.size())},
                      hessian.upper.data());
  for (const auto& [name, matrix] :
       {std::pair(kCross, &hessian.cross), std::pair(kOutputFactor, &hessian.output_factor)})
    if (matrix->rows > 0)
      hdf5::write_dataset(group, name, hdf5::Type::f32, {matrix->rows, matrix->columns},
                          matrix->values.data());
  write_checksum(group, checksum_of(hessian));
  ++state_->hessian_count;
}

void MatrixWriter::close() {
  AQ_CHECK(!state_->closed, state_->path.string(), " is closed already");
  hdf5::write_numbers(state_->matrices, kCount, hdf5::Type::i64, -1, &state_->matrix_count);
  if (state_->hessians.id() >= 0)
    hdf5::write_numbers(state_->hessians, kCount, hdf5::Type::i64, -1, &state_->hessian_count);
  state_->hessians.close();
  state_->matrices.close();
  state_->file.close();
  publish_partial(state_->path);
  state_->closed = true;
}

}  // namespace aq
