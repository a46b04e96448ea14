/// Packing of codes: eight codes of b bits are b bytes, so the work goes by eights.

#include <bit>
#include <cstring>

#include "aq/formats/quantized_matrix.h"

namespace aq {
namespace {

static_assert(std::endian::native == std::endian::little,
              "words of packed codes are little-endian in files");

constexpr std::uint64_t kEvenBytes = 0x00FF00FF00FF00FFULL;
constexpr std::uint64_t kEvenPairs = 0x0000FFFF0000FFFFULL;
constexpr std::uint64_t kEvenFours = 0x00000000FFFFFFFFULL;

/// Moves eight fields of `bits` bits together, from one a byte to one after the other.
template <int bits>
std::uint64_t squeeze(std::uint64_t x) {
  x = (x & kEvenBytes) | ((x >> 8) & kEvenBytes) << bits;
  x = (x & kEvenPairs) | ((x >> 16) & kEvenPairs) << (2 * bits);
  return (x & kEvenFours) | (x >> 32) << (4 * bits);
}

/// The inverse of squeeze.
template <int bits>
std::uint64_t spread(std::uint64_t x) {
  constexpr std::uint64_t four = (1ULL << (4 * bits)) - 1;
  constexpr std::uint64_t two = ((1ULL << (2 * bits)) - 1) * 0x0000000100000001ULL;
  constexpr std::uint64_t one = ((1ULL << bits) - 1) * 0x0001000100010001ULL;
  x = (x & four) | ((x >> (4 * bits)) & four) << 32;
  x = (x & two) | ((x >> (2 * bits)) & two) << 16;
  return (x & one) | ((x >> bits) & one) << 8;
}

template <int bits>
void pack(const std::uint8_t* codes, std::size_t count, std::uint8_t* out) {
  const std::size_t eights = count / 8;
  const std::size_t tail = count % 8;
  for (std::size_t i = 0; i < eights; ++i) {
    std::uint64_t x = 0;
    std::memcpy(&x, codes + 8 * i, 8);
    x = squeeze<bits>(x);
    std::memcpy(out + bits * i, &x, bits);
  }
  if (tail == 0) return;
  std::uint64_t x = 0;
  std::memcpy(&x, codes + 8 * eights, tail);
  x = squeeze<bits>(x);
  std::memcpy(out + bits * eights, &x, (bits * tail + 7) / 8);
}

template <int bits>
void unpack(const std::uint8_t* bytes, std::size_t count, std::uint8_t* codes) {
  const std::size_t eights = count / 8;
  const std::size_t tail = count % 8;
  for (std::size_t i = 0; i < eights; ++i) {
    std::uint64_t x = 0;
    std::memcpy(&x, bytes + bits * i, bits);
    x = spread<bits>(x);
    std::memcpy(codes + 8 * i, &x, 8);
  }
  if (tail == 0) return;
  std::uint64_t x = 0;
  std::memcpy(&x, bytes + bits * eights, (bits * tail + 7) / 8);
  x = spread<bits>(x);
  std::memcpy(codes + 8 * eights, &x, tail);
}

/// Calls function.operator()<bits>() for a width known at run time.
template <class Function>
void with_width(int bits, Function&& function) {
  switch (bits) {
    case 2:
      return function.template operator()<2>();
    case 3:
      return function.template operator()<3>();
    case 4:
      return function.template operator()<4>();
    case 5:
      return function.template operator()<5>();
    case 6:
      return function.template operator()<6>();
    case 7:
      return function.template operator()<7>();
    case 8:
      return function.template operator()<8>();
    default:
      AQ_CHECK(false, "width ", bits);
  }
}

}  // namespace

Index words_per_row(int bits, Index columns) {
  return ceil_div(columns * bits, 32);
}

void pack_row(int bits, std::span<const std::uint8_t> codes, std::span<std::uint32_t> out) {
  AQ_CHECK(std::ssize(out) == words_per_row(bits, std::ssize(codes)), out.size(), " words");
  if (out.empty()) return;
  out.back() = 0;
  with_width(bits, [&]<int width>() {
    pack<width>(codes.data(), codes.size(), reinterpret_cast<std::uint8_t*>(out.data()));
  });
}

void unpack_row(int bits, std::span<const std::uint32_t> words, std::span<std::uint8_t> codes) {
  AQ_CHECK(std::ssize(words) == words_per_row(bits, std::ssize(codes)), words.size(), " words");
  with_width(bits, [&]<int width>() {
    unpack<width>(reinterpret_cast<const std::uint8_t*>(words.data()), codes.size(), codes.data());
  });
}

}  // namespace aq
