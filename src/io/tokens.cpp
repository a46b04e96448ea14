#include "aq/io/tokens.h"

#include <algorithm>

#include "aq/core/hash.h"
#include "io/hdf5.h"

namespace aq {
namespace {

constexpr const char* kTokens = "tokens";
constexpr const char* kLengths = "lengths";

[[noreturn]] void fail(const hdf5::Object& object, const std::string& reason,
                       const char* hint = "") {
  throw Error(ErrorKind::input, "read the tokens", object.text(), reason, hint);
}

/// Rows [begin, begin + count) cut to `width`, and how many tokens of each count.
struct Rows {
  std::vector<std::int64_t> tokens;  ///< `[count, width]`
  std::vector<Index> lengths;        ///< each in [1, width]
  Index width = 0;
};

std::vector<Index> read_lengths(const TokenFile& file, const hdf5::Object& root, Index begin,
                                Index count) {
  std::vector<Index> lengths(static_cast<std::size_t>(count), file.length);
  if (!file.has_lengths || count == 0) return lengths;
  const hdf5::Object dataset = hdf5::open_dataset(root, kLengths);
  hdf5::read_block(dataset, hdf5::Type::i64, {begin}, {count}, lengths.data());
  for (Index row = 0; row < count; ++row) {
    const Index length = lengths[static_cast<std::size_t>(row)];
    if (length < 1 || length > file.length)
      fail(dataset,
           str("row ", begin + row, " has length ", length, ", outside [1, ", file.length, "]"));
  }
  return lengths;
}

Rows read_rows(const TokenFile& file, Index begin, Index count, Index max_length) {
  AQ_CHECK(begin >= 0 && count >= 0 && begin <= file.sequences - count, "rows ", begin, " + ",
           count, " of ", file.sequences);
  AQ_CHECK(max_length >= 1, "length ", max_length);
  const hdf5::Object root = hdf5::open_file(file.path);
  const hdf5::Object dataset = hdf5::open_dataset(root, kTokens);
  if (hdf5::shape(dataset) != std::vector<Index>{file.sequences, file.length})
    fail(dataset, "it was changed while in use");
  Rows rows;
  rows.width = std::min(file.length, max_length);
  rows.lengths = read_lengths(file, root, begin, count);
  for (Index& length : rows.lengths) length = std::min(length, rows.width);
  rows.tokens.resize(static_cast<std::size_t>(checked_multiply(count, rows.width, dataset.text())));
  if (count > 0)
    hdf5::read_block(dataset, hdf5::Type::i64, {begin, 0}, {count, rows.width}, rows.tokens.data());
  return rows;
}

void check_lengths(const TokenFile& file, const hdf5::Object& root) {
  const hdf5::Object lengths = hdf5::open_dataset(root, kLengths);
  if (!hdf5::is_integer(lengths)) fail(lengths, "its elements are not integers");
  if (hdf5::shape(lengths) != std::vector<Index>{file.sequences})
    fail(lengths, str("it does not hold one length for each of the ", file.sequences, " rows"));
}

}  // namespace

TokenFile TokenFile::open(const std::filesystem::path& path) {
  const hdf5::Object root = hdf5::open_file(path);
  if (!hdf5::exists(root, kTokens))
    throw Error(ErrorKind::input, "read the tokens", path.string(), "it has no dataset 'tokens'",
                "tools/prepare_calibration.py writes token files");
  const hdf5::Object dataset = hdf5::open_dataset(root, kTokens);
  const std::vector<Index> shape = hdf5::shape(dataset);
  if (!hdf5::is_integer(dataset)) fail(dataset, "its elements are not integers");
  if (shape.size() != 2)
    fail(dataset, str("it has ", shape.size(), " dimensions instead of [sequences, length]"));
  if (shape[0] == 0 || shape[1] == 0) fail(dataset, "it is empty");
  TokenFile file{path, shape[0], shape[1], hdf5::exists(root, kLengths)};
  if (file.has_lengths) check_lengths(file, root);
  return file;
}

bool TokenFile::is_one(const std::filesystem::path& path) {
  return hdf5::exists(hdf5::open_file(path), kTokens);
}

Sequences TokenFile::read(Index begin, Index count, Index max_length, Index vocabulary) const {
  const Rows rows = read_rows(*this, begin, count, max_length);
  Sequences result;
  result.lengths = rows.lengths;
  for (Index row = 0; row < count; ++row)
    for (Index i = 0; i < rows.lengths[static_cast<std::size_t>(row)]; ++i) {
      const std::int64_t token = rows.tokens[static_cast<std::size_t>(row * rows.width + i)];
      if (token < 0 || token >= vocabulary)
        throw Error(ErrorKind::input, "read the tokens", str(path.string(), ": /", kTokens),
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
    const Index used = rows.lengths[static_cast<std::size_t>(row)];
    const auto* first = reinterpret_cast<const char*>(rows.tokens.data() + row * rows.width);
    hash = fnv1a(str(used, ":"), hash);
    hash = fnv1a({first, static_cast<std::size_t>(used) * sizeof(std::int64_t)}, hash);
  }
  return hash_text(hash);
}

}  // namespace aq
