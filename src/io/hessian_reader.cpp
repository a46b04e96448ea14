#include <algorithm>
#include <cmath>

#include "aq/io/hessian_file.h"
#include "io/checksum.h"
#include "io/matrix_names.h"
#include "io/shape_text.h"

namespace aq {

using namespace matrix_file;

/// The group is declared after the file: it is closed before it.
struct HessianReader::State {
  std::filesystem::path path;
  hdf5::Object file, hessians;
  std::vector<std::string> names;
};

namespace {

constexpr const char* kOperation = "read the kept Hessian";
constexpr const char* kHint =
    "the file is damaged: keep the Hessians anew (quantize --keep-hessians)";

[[noreturn]] void fail(const std::string& object, const std::string& reason) {
  throw Error(ErrorKind::input, kOperation, object, reason, kHint);
}

NamedHessian read_attributes(const hdf5::Object& group, const std::string& name) {
  NamedHessian hessian;
  hessian.name = name;
  hdf5::read_number(group, kWeightSum, hdf5::Type::f64, &hessian.weight_sum);
  hdf5::read_number(group, kTokens, hdf5::Type::i64, &hessian.tokens);
  hessian.used_by = hdf5::read_texts(group, kUsedBy);
  hessian.starved = hdf5::read_text(group, kStarved).value_or("none");
  if (hessian.weight_sum < 0)
    fail(group.text(), str("the attribute 'weight_sum' is ", hessian.weight_sum));
  if (hessian.tokens < 0 || (hessian.tokens == 0 && hessian.weight_sum != 0))
    fail(group.text(), str("the attribute 'tokens' is ", hessian.tokens));
  if (std::find(hessian.used_by.begin(), hessian.used_by.end(), name) == hessian.used_by.end())
    fail(group.text(), "the attribute 'used_by' does not name it");
  return hessian;
}

/// The dataset, of float32, and its shape.
hdf5::Object open_floats(const hdf5::Object& group, const char* name, std::size_t dimensions,
                         std::vector<Index>& shape) {
  hdf5::Object dataset = hdf5::open_dataset(group, name);
  if (hdf5::stored_type(dataset) != hdf5::Type::f32)
    fail(dataset.text(), "its elements are not of type float32");
  shape = hdf5::shape(dataset);
  if (shape.size() != dimensions)
    fail(dataset.text(), str("its shape ", shape_text(shape), " is not that of a ",
                             dimensions == 1 ? "list" : "matrix"));
  return dataset;
}

/// A dataset that may be missing, as a matrix; else one without rows.
Matrix read_matrix(const hdf5::Object& group, const char* name) {
  if (!hdf5::exists(group, name)) return {};
  std::vector<Index> shape;
  const hdf5::Object dataset = open_floats(group, name, 2, shape);
  checked_multiply(shape[0], shape[1], dataset.text());
  Matrix matrix = Matrix::uninitialized(shape[0], shape[1]);
  hdf5::read_dataset(dataset, hdf5::Type::f32, matrix.values.data());
  return matrix;
}

/// Reads the sums and compares the checksum.
void read_sums(const hdf5::Object& group, NamedHessian& hessian) {
  std::vector<Index> shape;
  const hdf5::Object upper = open_floats(group, kUpper, 1, shape);
  hessian.upper.resize(shape[0]);
  hdf5::read_dataset(upper, hdf5::Type::f32, hessian.upper.data());
  hessian.cross = read_matrix(group, kCross);
  hessian.output_factor = read_matrix(group, kOutputFactor);
  check_checksum(group, checksum_of(hessian), kOperation, kHint);
}

/// The diagonal of a sum of squares is not negative. A sum may have overflowed: whoever factors it
/// looks, as the run did that kept it.
void check_values(const std::vector<float>& upper, Index columns, const std::string& object) {
  std::size_t at = 0;
  for (Index r = 0; r < columns; ++r)
    for (Index c = r; c < columns; ++c, ++at)
      if (r == c && upper[at] < 0)
        fail(object, str("the element [", r, ", ", c, "] is ", upper[at]));
}

}  // namespace

HessianReader::HessianReader(const std::filesystem::path& path)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->file = hdf5::open_own_file(path);
  const auto version = hdf5::read_text(state_->file, kVersionName);
  if (version != kVersion)
    throw Error(ErrorKind::input, "open the Hessian file", path.string(),
                version
                    ? str("its format version is '", *version, "', this program reads ", kVersion)
                    : str("the attribute '", kVersionName, "' is missing"),
                "is it a file of quantize --keep-hessians?");
  state_->hessians = hdf5::open_group(state_->file, kHessians);
  state_->names = counted_members(state_->hessians, kOperation);
}

HessianReader::~HessianReader() = default;
HessianReader::HessianReader(HessianReader&&) noexcept = default;
HessianReader& HessianReader::operator=(HessianReader&&) noexcept = default;

const std::filesystem::path& HessianReader::path() const {
  return state_->path;
}

const std::vector<std::string>& HessianReader::names() const {
  return state_->names;
}

NamedHessian HessianReader::describe(const std::string& name) const {
  const hdf5::Object group = hdf5::open_group(state_->hessians, name);
  NamedHessian hessian = read_attributes(group, name);
  if (hdf5::exists(group, kOutputFactor)) {
    std::vector<Index> shape;
    open_floats(group, kOutputFactor, 2, shape);
    hessian.output_factor.rows = shape[0];
    hessian.output_factor.columns = shape[1];
  }
  return hessian;
}

NamedHessian HessianReader::read(const std::string& name, Index columns) const {
  const hdf5::Object group = hdf5::open_group(state_->hessians, name);
  NamedHessian hessian = read_attributes(group, name);
  const Index floats = hessian.tokens == 0 ? 0 : columns * (columns + 1) / 2;
  read_sums(group, hessian);
  if (static_cast<Index>(hessian.upper.size()) != floats)
    fail(group.text(kUpper), str("its shape is [", hessian.upper.size(), "], but ", columns,
                                 " columns ask for [", floats, "]"));
  if (hessian.cross.rows > 0 && hessian.cross.columns != columns)
    fail(group.text(kCross), str("it has ", hessian.cross.columns, " columns, not ", columns));
  if (hessian.tokens > 0) check_values(hessian.upper, columns, group.text(kUpper));
  return hessian;
}

void HessianReader::verify() const {
  for (const std::string& name : names()) {
    const hdf5::Object group = hdf5::open_group(state_->hessians, name);
    NamedHessian hessian = read_attributes(group, name);
    read_sums(group, hessian);
  }
}

}  // namespace aq
