#include "aq/core/dtype.h"
#include "aq/io/matrix_file.h"
#include "io/json_text.h"
#include "io/matrix_names.h"
#include "io/posix_file.h"

namespace aq {

using namespace matrix_file;

/// Groups are declared after the file: they are closed before it.
struct MatrixWriter::State {
  std::filesystem::path path;
  hdf5::Object file, matrices, hessians;
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

/// Scales as 16-bit patterns; empty for fp32.  @pre each is a value of the scale type
std::vector<std::uint16_t> scale_bits(const NamedMatrix& named) {
  const ScaleType type = named.matrix.scheme.scale_type;
  std::vector<std::uint16_t> bits;
  if (type == ScaleType::f32) return bits;
  bits.reserve(named.matrix.scales.size());
  for (const float scale : named.matrix.scales) {
    const bool half = type == ScaleType::f16;
    bits.push_back(half ? float_to_f16(scale) : float_to_bf16(scale));
    const float stored = half ? f16_to_float(bits.back()) : bf16_to_float(bits.back());
    AQ_CHECK(stored == scale, named.name, ": the scale ", scale, " is no ", scale_type_name(type));
  }
  return bits;
}

/// Writes the dataset `scales` from scale_bits or, for fp32, from the matrix.
void write_scales(const hdf5::Object& group, const QuantizedMatrix& m,
                  const std::vector<std::uint16_t>& bits) {
  const ScaleType type = m.scheme.scale_type;
  const std::vector<Index> shape = scale_shape(m.scheme, m.rows, m.columns);
  const void* values = m.scales.data();
  if (type != ScaleType::f32) values = bits.data();
  const hdf5::Object dataset =
      hdf5::write_dataset(group, kScales, stored_scale_type(type), shape, values);
  if (type == ScaleType::bf16) hdf5::write_text(dataset, kEncoding, "bf16");
}

}  // namespace

MatrixWriter::MatrixWriter(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  // Made through POSIX first: the reason of a failure (permission, no directory) is then plain.
  PosixFile::create(partial_path(path));
  try {
    state_->file = hdf5::create_file(partial_path(path));
    hdf5::write_text(state_->file, kVersionName, kVersion);
    state_->matrices = hdf5::create_group(state_->file, kMatrices, true);
  } catch (...) {
    remove_partial(path);
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
  const std::vector<std::uint16_t> bits = scale_bits(named);  // all checks before the first write
  const hdf5::Object group = hdf5::create_group(state_->matrices, named.name);
  hdf5::write_text(group, kScheme, scheme_to_json(m.scheme));
  const std::int64_t shape[2] = {m.rows, m.columns};
  hdf5::write_numbers(group, kShape, hdf5::Type::i64, 2, shape);
  hdf5::write_text(group, kStats, named.stats_json);
  hdf5::write_dataset(group, kCodes, hdf5::Type::u32,
                      {m.rows, words_per_row(m.scheme.bits, m.columns)}, m.codes.data());
  write_scales(group, m, bits);
  if (!m.scheme.symmetric)
    hdf5::write_dataset(group, kZeros, hdf5::Type::u8, scale_shape(m.scheme, m.rows, m.columns),
                        m.zeros.data());
}

void MatrixWriter::write_hessian(const std::string& name, const std::vector<float>& upper,
                                 double weight_sum, std::int64_t tokens,
                                 const std::vector<std::string>& used_by) {
  check_name(name);
  if (state_->hessians.id() < 0)
    state_->hessians = hdf5::create_group(state_->file, kHessians, true);
  const hdf5::Object group = hdf5::create_group(state_->hessians, name);
  hdf5::write_numbers(group, "weight_sum", hdf5::Type::f64, -1, &weight_sum);
  hdf5::write_numbers(group, "tokens", hdf5::Type::i64, -1, &tokens);
  hdf5::write_texts(group, "used_by", used_by);
  hdf5::write_dataset(group, kUpper, hdf5::Type::f32, {static_cast<Index>(upper.size())},
                      upper.data());
}

void MatrixWriter::close() {
  AQ_CHECK(!state_->closed, state_->path.string(), " is closed already");
  state_->hessians.close();
  state_->matrices.close();
  state_->file.close();
  publish_partial(state_->path);
  state_->closed = true;
}

}  // namespace aq
