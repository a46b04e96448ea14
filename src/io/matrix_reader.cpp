#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "aq/core/dtype.h"
#include "aq/core/json.h"
#include "aq/io/matrix_file.h"
#include "io/checksum.h"
#include "io/matrix_names.h"
#include "io/shape_text.h"

namespace aq {

using namespace matrix_file;

/// Groups are declared after the file: they are closed before it.
struct MatrixReader::State {
  hdf5::Object file, matrices;
  std::vector<std::string> names;
  std::set<std::string> known;

  hdf5::Object open(const std::string& name) const;
};

namespace {

constexpr const char* kOperation = "read the matrix";
constexpr const char* kDamaged =
    "the file is damaged: quantize again, which redoes damaged layers; of a model.h5, merge again";

[[noreturn]] void fail(const std::string& object, const std::string& reason) {
  throw Error(ErrorKind::input, kOperation, object, reason);
}

/// Text attribute that must be there.
std::string required_text(const hdf5::Object& object, const std::string& name) {
  std::optional<std::string> text = hdf5::read_text(object, name);
  if (!text) fail(object.text(), str("the attribute '", name, "' is missing"));
  return std::move(*text);
}

struct Description {
  Scheme scheme;
  Index rows = 0;
  Index columns = 0;
};

Description read_description(const hdf5::Object& group) {
  const std::string scheme = required_text(group, kScheme);
  const std::vector<Index> shape = hdf5::read_integers(group, kShape);
  constexpr Index kLimit = Index{1} << 40;  // keeps every product below within 63 bits
  if (shape.size() != 2 || shape[0] < 1 || shape[1] < 1 || shape[0] > kLimit || shape[1] > kLimit)
    fail(group.text(), str("the attribute 'shape' ", shape_text(shape), " is no matrix shape"));
  return {scheme_from_json(scheme, str(group.text(), ", attribute ", kScheme)), shape[0], shape[1]};
}

/// Activations have no scale for a whole matrix: it could not be known before the last token.
std::optional<Scheme> read_activation(const hdf5::Object& group) {
  const std::optional<std::string> text = hdf5::read_text(group, kActivation);
  if (!text) return std::nullopt;
  const std::string object = str(group.text(), ", attribute ", kActivation);
  const Scheme scheme = scheme_from_json(*text, object);
  if (scheme.group_size == kPerTensor) fail(object, "activations cannot have one scale per tensor");
  return scheme;
}

/// Opens a dataset that must have this type and shape.
hdf5::Object open_exact(const hdf5::Object& group, const char* name, hdf5::Type type,
                        const char* type_name, const std::vector<Index>& shape) {
  hdf5::Object dataset = hdf5::open_dataset(group, name);
  if (hdf5::stored_type(dataset) != type)
    fail(dataset.text(), str("its elements are not of type ", type_name));
  const std::vector<Index> found = hdf5::shape(dataset);
  if (found != shape)
    fail(dataset.text(), str("its shape is ", shape_text(found), ", but scheme and shape ask for ",
                             shape_text(shape)));
  return dataset;
}

/// All elements, which are added to the checksum under `name`.
template <class Value>
std::vector<Value> read_all(const hdf5::Object& dataset, const char* name, hdf5::Type type,
                            const std::vector<Index>& shape, Checksum& checksum) {
  Index count = 1;
  for (const Index extent : shape) count = checked_multiply(count, extent, dataset.text());
  std::vector<Value> values(count);
  hdf5::read_dataset(dataset, type, values.data());
  checksum.add(name, std::as_bytes(std::span(values)));
  return values;
}

/// Adds the attributes as they are stored.
void add_attributes(const hdf5::Object& group, const Description& d, Checksum& checksum) {
  const auto add_text = [&](const char* name) {
    if (const auto text = hdf5::read_text(group, name)) checksum.add(name, *text);
  };
  const std::array<std::int64_t, 2> shape{d.rows, d.columns};
  add_text(kActivation);
  add_text(kScheme);
  checksum.add(kShape, std::as_bytes(std::span(shape)));
  add_text(kStats);
}

/// The bits after the last code of a row are zero, so that equal matrices have equal bytes.
void check_padding(const QuantizedMatrix& m, const std::string& object) {
  const Index words = words_per_row(m.scheme.bits, m.columns);
  const Index used = m.scheme.bits * m.columns - (words - 1) * 32;  // bits of the last word
  if (used == 32) return;
  for (Index row = 0; row < m.rows; ++row)
    if (m.codes[(row + 1) * words - 1] >> used != 0)
      fail(object, str("the padding of row ", row, " is not zero"));
}

/// Some codes of e4m3 and e5m2 stand for no finite number: they are never written.
void check_finite_codes(const QuantizedMatrix& m, const std::string& object) {
  if (m.scheme.element != Element::e4m3 && m.scheme.element != Element::e5m2) return;
  std::vector<std::uint8_t> codes(m.columns);
  const auto words = static_cast<std::size_t>(words_per_row(m.scheme.bits, m.columns));
  for (Index row = 0; row < m.rows; ++row) {
    unpack_row(m.scheme.bits,
               std::span(m.codes).subspan(static_cast<std::size_t>(row) * words, words), codes);
    for (const std::uint8_t code : codes)
      if (!std::isfinite(element_value(m.scheme.element, code)))
        fail(object, str("row ", row, " holds the code ", static_cast<int>(code),
                         ", which is no finite ", element_name(m.scheme.element)));
  }
}

std::vector<std::uint32_t> read_codes(const hdf5::Object& group, const Description& d,
                                      Checksum& checksum) {
  const std::vector<Index> shape = {d.rows, words_per_row(d.scheme.bits, d.columns)};
  const hdf5::Object dataset = open_exact(group, kCodes, hdf5::Type::u32, "uint32", shape);
  return read_all<std::uint32_t>(dataset, kCodes, hdf5::Type::u32, shape, checksum);
}

std::string scale_type_text(ScaleType type) {
  if (type == ScaleType::f32) return "float32";
  if (type == ScaleType::f16) return "float16";
  return str(type == ScaleType::bf16 ? "uint16" : "uint8", " (the bits of ", scale_type_name(type),
             ")");
}

/// 1 when the scheme has none.
float read_global_scale(const hdf5::Object& group, const Scheme& scheme, Checksum& checksum) {
  if (!scheme.is_nvfp4()) return 1;
  const std::vector<Index> scalar;
  const hdf5::Object dataset = open_exact(group, kGlobalScale, hdf5::Type::f32, "float32", scalar);
  return read_all<float>(dataset, kGlobalScale, hdf5::Type::f32, scalar, checksum).front();
}

/// Values of the stored bits, or of the floats themselves.
std::vector<float> read_scale_values(const hdf5::Object& dataset, ScaleType type,
                                     const std::vector<Index>& shape, Checksum& checksum) {
  const hdf5::Type stored = stored_scale_type(type);
  if (type == ScaleType::f32) return read_all<float>(dataset, kScales, stored, shape, checksum);
  std::vector<float> scales;
  if (stored == hdf5::Type::u8) {
    for (const std::uint8_t bits :
         read_all<std::uint8_t>(dataset, kScales, stored, shape, checksum))
      scales.push_back(type == ScaleType::e8m0 ? e8m0_to_float(bits)
                                               : element_value(Element::e4m3, bits));
    return scales;
  }
  for (const std::uint16_t bits :
       read_all<std::uint16_t>(dataset, kScales, stored, shape, checksum))
    scales.push_back(type == ScaleType::f16 ? f16_to_float(bits) : bf16_to_float(bits));
  return scales;
}

std::vector<float> read_scales(const hdf5::Object& group, const Description& d,
                               Checksum& checksum) {
  const std::vector<Index> shape = scale_shape(d.scheme, d.rows, d.columns);
  const ScaleType type = d.scheme.scale_type;
  const hdf5::Object dataset =
      open_exact(group, kScales, stored_scale_type(type), scale_type_text(type).c_str(), shape);
  std::vector<float> scales = read_scale_values(dataset, type, shape, checksum);
  const std::string encoding = scale_encoding(type);
  if (encoding.empty()) return scales;
  if (hdf5::read_text(dataset, kEncoding) != encoding)
    fail(dataset.text(), str("the attribute 'encoding' is not '", encoding, "'"));
  checksum.add(kEncoding, encoding);
  return scales;
}

std::vector<std::uint8_t> read_zeros(const hdf5::Object& group, const Description& d,
                                     Checksum& checksum) {
  if (d.scheme.symmetric) {
    if (hdf5::exists(group, kZeros)) fail(group.text(kZeros), "a symmetric scheme has no zeros");
    return {};
  }
  const std::vector<Index> shape = scale_shape(d.scheme, d.rows, d.columns);
  const hdf5::Object dataset = open_exact(group, kZeros, hdf5::Type::u8, "uint8", shape);
  return read_all<std::uint8_t>(dataset, kZeros, hdf5::Type::u8, shape, checksum);
}

/// A power of two: codes times scales are then exact.
void check_global_scale(const QuantizedMatrix& m, const std::string& object) {
  const float scale = m.global_scale;
  if (m.scheme.is_nvfp4() &&
      (!(scale >= 0x1p-100F && scale <= 0x1p126F) || power_part(scale) != scale))
    fail(object, str("the global scale ", scale, " is no power of two"));
}

/// The scales as they are stored, before they are divided by the global one.
void check_scales(const QuantizedMatrix& m, const std::string& object) {
  const bool may_be_negative = m.scheme.symmetric && !m.scheme.is_float();
  const Index groups = scale_shape(m.scheme, m.rows, m.columns)[1];
  for (std::size_t i = 0; i < m.scales.size(); ++i)
    if (!std::isfinite(m.scales[i]) || m.scales[i] == 0 || (m.scales[i] < 0 && !may_be_negative))
      fail(object, str("the scale at [", static_cast<Index>(i) / groups, ", ",
                       static_cast<Index>(i) % groups, "] is ", m.scales[i]));
}

void check_zeros(const QuantizedMatrix& m, const std::string& object) {
  for (const std::uint8_t zero : m.zeros)
    if (zero >> m.scheme.bits != 0)
      fail(object,
           str("the zero ", static_cast<int>(zero), " does not fit into ", m.scheme.bits, " bits"));
}

/// What no writer of this program writes, whatever the checksum.
void check_values(const QuantizedMatrix& m, const hdf5::Object& group) {
  check_padding(m, group.text(kCodes));
  check_finite_codes(m, group.text(kCodes));
  check_global_scale(m, group.text(kGlobalScale));
  check_scales(m, group.text(kScales));
  check_zeros(m, group.text(kZeros));
}

}  // namespace

hdf5::Object MatrixReader::State::open(const std::string& name) const {
  if (!known.contains(name)) fail(matrices.text(name), "the file holds no such matrix");
  return hdf5::open_group(matrices, name);
}

MatrixReader::MatrixReader(const std::filesystem::path& path) : MatrixReader(path, true) {}

MatrixReader MatrixReader::open_unchecked(const std::filesystem::path& path) {
  return {path, false};
}

MatrixReader::MatrixReader(const std::filesystem::path& path, bool counted)
    : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.file = hdf5::open_own_file(path);
  const std::optional<std::string> version = hdf5::read_text(state.file, kVersionName);
  if (!version)
    throw Error(ErrorKind::input, "open the matrix file", path.string(),
                str("the attribute '", kVersionName, "' is missing"),
                "is it a shard or a model.h5 of aq-dist?");
  if (*version != kVersion)
    throw Error(ErrorKind::input, "open the matrix file", path.string(),
                str("its format version is '", *version, "', this program reads ", kVersion));
  state.matrices = hdf5::open_group(state.file, kMatrices);
  state.names =
      counted ? counted_members(state.matrices, kOperation) : hdf5::members(state.matrices);
  state.known = {state.names.begin(), state.names.end()};
}

MatrixReader::~MatrixReader() = default;
MatrixReader::MatrixReader(MatrixReader&&) noexcept = default;
MatrixReader& MatrixReader::operator=(MatrixReader&&) noexcept = default;

const std::vector<std::string>& MatrixReader::names() const {
  return state_->names;
}

bool MatrixReader::has(const std::string& name) const {
  return state_->known.contains(name);
}

namespace {

/// The matrix, and the checksum of its content. The scales are not yet divided.
std::pair<NamedMatrix, Checksum> read_stored(const hdf5::Object& group, const std::string& name) {
  const Description d = read_description(group);
  NamedMatrix named;
  named.name = name;
  named.stats_json = required_text(group, kStats);
  const std::string place = str(group.text(), ", attribute ", kStats);
  parse_json(named.stats_json, {ErrorKind::input, kOperation, place});
  QuantizedMatrix& m = named.matrix;
  named.activation = read_activation(group);
  m.scheme = d.scheme;
  m.rows = d.rows;
  m.columns = d.columns;
  Checksum checksum(name);
  add_attributes(group, d, checksum);
  m.codes = read_codes(group, d, checksum);
  m.global_scale = read_global_scale(group, d.scheme, checksum);
  m.scales = read_scales(group, d, checksum);
  m.zeros = read_zeros(group, d, checksum);
  return {std::move(named), checksum};
}

}  // namespace

NamedMatrix MatrixReader::read(const std::string& name) const {
  const hdf5::Object group = state_->open(name);
  auto [named, checksum] = read_stored(group, name);
  check_checksum(group, checksum, kOperation, kDamaged);
  check_values(named.matrix, group);
  for (float& scale : named.matrix.scales) scale /= named.matrix.global_scale;
  return std::move(named);
}

UncheckedMatrix MatrixReader::read_unchecked(const std::string& name) const {
  const hdf5::Object group = state_->open(name);
  auto [named, checksum] = read_stored(group, name);
  return {std::move(named), hdf5::read_text(group, kChecksum) == checksum.text()};
}

void MatrixReader::verify() const {
  for (const std::string& name : names()) read(name);
}

std::pair<Scheme, std::pair<Index, Index>> MatrixReader::describe(const std::string& name) const {
  const Description d = read_description(state_->open(name));
  return {d.scheme, {d.rows, d.columns}};
}

std::optional<Scheme> MatrixReader::activation(const std::string& name) const {
  return read_activation(state_->open(name));
}

std::string MatrixReader::stats(const std::string& name) const {
  return required_text(state_->open(name), kStats);
}

std::string MatrixReader::attribute(const std::string& name) const {
  return hdf5::read_text(state_->file, name).value_or("");
}

std::string hdf5_version() {
  return hdf5::version();
}

}  // namespace aq
