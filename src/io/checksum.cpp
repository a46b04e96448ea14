#include "io/checksum.h"

#include <bit>
#include <cstring>

#include "aq/core/error.h"
#include "aq/io/file.h"
#include "io/matrix_names.h"

namespace aq {
namespace {

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87ULL;
constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4FULL;
constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9ULL;
constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63ULL;
constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5ULL;

static_assert(std::endian::native == std::endian::little);

template <class Word>
Word word_at(const std::byte* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

std::uint64_t xxh_round(std::uint64_t sum, std::uint64_t word) {
  return std::rotl(sum + word * kPrime2, 31) * kPrime1;
}

/// The four sums over whole stripes of 32 bytes, made one.
std::uint64_t stripe_sum(const std::byte* at, const std::byte* end, std::uint64_t seed) {
  std::uint64_t a = seed + kPrime1 + kPrime2, b = seed + kPrime2, c = seed, d = seed - kPrime1;
  for (; end - at >= 32; at += 32) {
    a = xxh_round(a, word_at<std::uint64_t>(at));
    b = xxh_round(b, word_at<std::uint64_t>(at + 8));
    c = xxh_round(c, word_at<std::uint64_t>(at + 16));
    d = xxh_round(d, word_at<std::uint64_t>(at + 24));
  }
  std::uint64_t sum = std::rotl(a, 1) + std::rotl(b, 7) + std::rotl(c, 12) + std::rotl(d, 18);
  for (const std::uint64_t part : {a, b, c, d})
    sum = (sum ^ xxh_round(0, part)) * kPrime1 + kPrime4;
  return sum;
}

}  // namespace

std::uint64_t xxh64(std::span<const std::byte> bytes, std::uint64_t seed) {
  const std::byte* at = bytes.data();
  const std::byte* const end = at + bytes.size();
  std::uint64_t sum = bytes.size() < 32 ? seed + kPrime5 : stripe_sum(at, end, seed);
  at += bytes.size() / 32 * 32;
  sum += bytes.size();
  for (; end - at >= 8; at += 8)
    sum = std::rotl(sum ^ xxh_round(0, word_at<std::uint64_t>(at)), 27) * kPrime1 + kPrime4;
  if (end - at >= 4) {
    sum = std::rotl(sum ^ word_at<std::uint32_t>(at) * kPrime1, 23) * kPrime2 + kPrime3;
    at += 4;
  }
  for (; at != end; ++at)
    sum = std::rotl(sum ^ static_cast<std::uint64_t>(*at) * kPrime5, 11) * kPrime1;
  sum = (sum ^ sum >> 33) * kPrime2;
  sum = (sum ^ sum >> 29) * kPrime3;
  return sum ^ sum >> 32;
}

std::string Checksum::text() const {
  return hash_text(value_);
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
