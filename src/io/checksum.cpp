#include "io/checksum.h"

#include <algorithm>

#include "aq/core/block_array.h"
#include "aq/core/error.h"
#include "io/matrix_names.h"

namespace aq {
namespace {

constexpr Index kPiece = Index{4} << 20;  // of StoredChecksum

}  // namespace

std::string Checksum::text() const {
  return hash_text(value_);
}

void StoredChecksum::add(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const Index more = std::min(kPiece - std::ssize(begun_), std::ssize(bytes));
    const auto taken = bytes.first(more);
    bytes = bytes.subspan(more);
    if (more == kPiece) {
      value_ = xxh64(taken, value_);
      continue;
    }
    begun_.insert(begun_.end(), taken.begin(), taken.end());
    if (std::ssize(begun_) < kPiece) continue;
    value_ = xxh64(begun_, value_);
    begun_.clear();
  }
}

std::string StoredChecksum::text() const {
  return hash_text(begun_.empty() ? value_ : xxh64(begun_, value_));
}

std::string stored_checksum(const PosixFile& file, Index offset, Index bytes) {
  ByteArray buffer(std::min(kPiece, bytes));
  StoredChecksum sum;
  for (Index done = 0; done < bytes; done += kPiece) {
    const auto piece = std::span(buffer).first(std::min(kPiece, bytes - done));
    file.read_at(offset + done, piece);
    sum.add(piece);
  }
  return sum.text();
}

Checksum checksum_of(const NamedHessian& hessian) {
  using namespace matrix_file;
  std::string used_by;
  for (const std::string& name : hessian.used_by) used_by += (used_by.empty() ? "" : "\n") + name;
  Checksum checksum(hessian.name);
  checksum.add(kStarved, hessian.starved);
  checksum.add(kTokens, std::as_bytes(std::span(&hessian.tokens, 1)));
  checksum.add(kUsedBy, used_by);
  checksum.add(kWeightSum, std::as_bytes(std::span(&hessian.weight_sum, 1)));
  if (hessian.cross.rows > 0) checksum.add(kCross, std::as_bytes(std::span(hessian.cross.values)));
  if (hessian.output_factor.rows > 0)
    checksum.add(kOutputFactor, std::as_bytes(std::span(hessian.output_factor.values)));
  checksum.add(kUpper, std::as_bytes(std::span(hessian.upper)));
  return checksum;
}

std::vector<std::string> counted_members(const hdf5::Object& group, const char* operation) {
  std::vector<std::string> names = hdf5::members(group);
  std::int64_t count = 0;
  hdf5::read_number(group, matrix_file::kCount, hdf5::Type::i64, &count);
  if (count != static_cast<std::int64_t>(names.size()))
    throw Error(ErrorKind::input, operation, group.text(),
                str("it holds ", names.size(), " members, but ", count, " were written"),
                "the file is damaged or was changed: quantize or merge again");
  return names;
}

void write_checksum(const hdf5::Object& group, const Checksum& checksum) {
  hdf5::write_text(group, matrix_file::kChecksum, checksum.text());
}

void check_checksum(const hdf5::Object& group, const Checksum& checksum, const char* operation,
                    const char* hint) {
  const std::optional<std::string> stored = hdf5::read_text(group, matrix_file::kChecksum);
  if (!stored)
    throw Error(ErrorKind::input, operation, group.text(), "the attribute 'checksum' is missing",
                "the file was written by an older build: quantize again");
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  if (*stored != checksum.text())
    throw Error(ErrorKind::input, operation, group.text(),
                str("its data have the checksum ", checksum.text(), ", but '",
                    stored->substr(0, 16), "' was written"),
                hint);
#else
  static_cast<void>(checksum);
  static_cast<void>(hint);
#endif
}

}  // namespace aq
