#include "aq/io/tokens.h"

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "aq/core/hash.h"
#include "io/hdf5.h"
#include "io/safetensors.h"

namespace aq {
namespace {

constexpr const char* kTokens = "tokens";
constexpr const char* kLengths = "lengths";
constexpr const char* kWriter = "tools/prepare_calibration.py writes token files";
constexpr const char* kNoIntegers = "its elements are not integers";
constexpr const char* kNoSigned = "its elements are not integers of 32 or 64 bits with a sign";
constexpr const char* kChanged = "it was changed while in use";

[[noreturn]] void fail(const std::string& object, const std::string& reason,
                       const char* hint = "") {
  throw Error(ErrorKind::input, "read the tokens", object, reason, hint);
}

/// An array of integers in a token file of either format.
struct Field {
  std::string object;  ///< names file and field in messages
  std::vector<Index> shape;
  const char* fault = nullptr;  ///< what is wrong with its type, if anything
  /// Reads `count` rows from `begin` on, the first `width` elements of each.
  std::function<void(Index begin, Index count, Index width, std::int64_t* out)> read;
};
/// The fields of an open file by name; nothing where there is none of that name.
using Fields = std::function<std::optional<Field>(const char* name)>;

Fields hdf5_fields(const std::filesystem::path& path) {
  const auto root = std::make_shared<hdf5::Object>(hdf5::open_file(path));
  return [root](const char* name) -> std::optional<Field> {
    if (!hdf5::exists(*root, name)) return std::nullopt;
    const auto data = std::make_shared<hdf5::Object>(hdf5::open_dataset(*root, name));
    const std::vector<Index> shape = hdf5::shape(*data);
    const auto read = [data, flat = shape.size() == 1](Index begin, Index count, Index width,
                                                       std::int64_t* out) {
      if (flat)
        hdf5::read_block(*data, hdf5::Type::i64, {begin}, {count}, out);
      else
        hdf5::read_block(*data, hdf5::Type::i64, {begin, 0}, {count, width}, out);
    };
    return Field{data->text(), shape, hdf5::is_integer(*data) ? nullptr : kNoIntegers, read};
  };
}

/// Reads rows as Field::read does.
template <class Value>
void read_rows_of(const PosixFile& file, const StoredTensor& tensor, Index begin, Index count,
                  Index width, std::int64_t* out) {
  const Index row = tensor.shape.size() == 1 ? 1 : tensor.shape[1];
  std::vector<Value> values(width);
  for (Index r = begin; r < begin + count; ++r) {
    file.read_at(tensor.offset + r * row * static_cast<Index>(sizeof(Value)),
                 std::as_writable_bytes(std::span(values)));
    out = std::copy(values.begin(), values.end(), out);
  }
}

Fields safetensors_fields(const std::filesystem::path& path) {
  const auto file = std::make_shared<PosixFile>(PosixFile::open(path));
  const auto tensors = std::make_shared<std::vector<StoredTensor>>(read_safetensors_header(*file));
  return [file, tensors](const char* name) -> std::optional<Field> {
    const auto found = std::find_if(tensors->begin(), tensors->end(),
                                    [&](const StoredTensor& t) { return t.name == name; });
    if (found == tensors->end()) return std::nullopt;
    const bool wide = found->dtype == "I64";
    const auto read = [file, tensor = *found, wide](Index begin, Index count, Index width,
                                                    std::int64_t* out) {
      wide ? read_rows_of<std::int64_t>(*file, tensor, begin, count, width, out)
           : read_rows_of<std::int32_t>(*file, tensor, begin, count, width, out);
    };
    return Field{str(file->path().string(), ": ", name), found->shape,
                 wide || found->dtype == "I32" ? nullptr : kNoSigned, read};
  };
}

enum class Format { safetensors, hdf5 };

/// By the first bytes: HDF5 has a signature, and a safetensors file '{' behind eight bytes.
Format format_of(const std::filesystem::path& path) {
  std::array<char, 9> begin{};
  PosixFile::open(path).read_next(std::as_writable_bytes(std::span(begin)));
  const std::string_view text(begin.data(), begin.size());
  if (text.starts_with("\x89HDF\r\n\x1a\n")) return Format::hdf5;
  if (text.back() == '{') return Format::safetensors;
  fail(path.string(), "it is neither a safetensors nor an HDF5 file", kWriter);
}

Fields open_fields(const std::filesystem::path& path) {
  return format_of(path) == Format::hdf5 ? hdf5_fields(path) : safetensors_fields(path);
}

Field need(const Fields& fields, const std::filesystem::path& path, const char* name) {
  std::optional<Field> field = fields(name);
  if (!field) fail(path.string(), str("it has no dataset '", name, "'"), kWriter);
  if (field->fault != nullptr) fail(field->object, field->fault);
  return std::move(*field);
}

/// Rows [begin, begin + count) cut to `width`, and how many tokens of each count.
struct Rows {
  std::string object;                ///< names file and field in messages
  std::vector<std::int64_t> tokens;  ///< `[count, width]`
  std::vector<Index> lengths;        ///< each in [1, width]
  Index width = 0;
};

std::vector<Index> read_lengths(const TokenFile& file, const Fields& fields, Index begin,
                                Index count) {
  std::vector<Index> lengths(count, file.length);
  if (!file.has_lengths || count == 0) return lengths;
  const Field field = need(fields, file.path, kLengths);
  if (field.shape != std::vector<Index>{file.sequences}) fail(field.object, kChanged);
  field.read(begin, count, 1, lengths.data());
  for (Index row = 0; row < count; ++row) {
    const Index length = lengths[row];
    if (length < 1 || length > file.length)
      fail(field.object,
           str("row ", begin + row, " has length ", length, ", outside [1, ", file.length, "]"));
  }
  return lengths;
}

Rows read_rows(const TokenFile& file, Index begin, Index count, Index max_length) {
  AQ_CHECK(begin >= 0 && count >= 0 && begin <= file.sequences - count, "rows ", begin, " + ",
           count, " of ", file.sequences);
  AQ_CHECK(max_length >= 1, "length ", max_length);
  const Fields fields = open_fields(file.path);
  const Field field = need(fields, file.path, kTokens);
  if (field.shape != std::vector<Index>{file.sequences, file.length}) fail(field.object, kChanged);
  Rows rows;
  rows.object = field.object;
  rows.width = std::min(file.length, max_length);
  rows.lengths = read_lengths(file, fields, begin, count);
  for (Index& length : rows.lengths) length = std::min(length, rows.width);
  rows.tokens.resize(checked_multiply(count, rows.width, rows.object));
  if (count > 0) field.read(begin, count, rows.width, rows.tokens.data());
  return rows;
}

}  // namespace

TokenFile TokenFile::open(const std::filesystem::path& path) {
  const Fields fields = open_fields(path);
  const Field tokens = need(fields, path, kTokens);
  const std::vector<Index>& shape = tokens.shape;
  if (shape.size() != 2)
    fail(tokens.object, str("it has ", shape.size(), " dimensions instead of [sequences, length]"));
  if (shape[0] == 0 || shape[1] == 0) fail(tokens.object, "it is empty");
  TokenFile file{path, shape[0], shape[1], fields(kLengths).has_value()};
  if (!file.has_lengths) return file;
  const Field lengths = need(fields, path, kLengths);
  if (lengths.shape != std::vector<Index>{file.sequences})
    fail(lengths.object,
         str("it does not hold one length for each of the ", file.sequences, " rows"));
  return file;
}

bool TokenFile::is_one(const std::filesystem::path& path) {
  return format_of(path) == Format::safetensors || hdf5::exists(hdf5::open_file(path), kTokens);
}

Sequences TokenFile::read(Index begin, Index count, Index max_length, Index vocabulary) const {
  const Rows rows = read_rows(*this, begin, count, max_length);
  Sequences result;
  result.lengths = rows.lengths;
  for (Index row = 0; row < count; ++row)
    for (Index i = 0; i < rows.lengths[row]; ++i) {
      const std::int64_t token = rows.tokens[row * rows.width + i];
      if (token < 0 || token >= vocabulary)
        fail(rows.object,
             str("row ", begin + row, ", position ", i, " holds ", token,
                 ", outside the vocabulary [0, ", vocabulary, ")"),
             "was it made with the tokenizer of another model?");
      result.tokens.push_back(static_cast<std::int32_t>(token));
    }
  return result;
}

std::string TokenFile::fingerprint(Index count, Index max_length) const {
  const Rows rows = read_rows(*this, 0, count, max_length);
  std::uint64_t hash = fnv1a("tokens");
  for (Index row = 0; row < count; ++row) {
    const Index used = rows.lengths[row];
    const auto* first = reinterpret_cast<const char*>(rows.tokens.data() + row * rows.width);
    hash = fnv1a(str(used, ":"), hash);
    hash = fnv1a({first, static_cast<std::size_t>(used) * sizeof(std::int64_t)}, hash);
  }
  return hash_text(hash);
}

}  // namespace aq
