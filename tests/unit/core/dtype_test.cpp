#include "aq/core/dtype.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace aq {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A 16-bit floating-point format from its definition: sign, exponent, fraction.
struct Format {
  int fraction_bits;
  int bias;

  int code_of_infinity() const { return ((1 << (15 - fraction_bits)) - 1) << fraction_bits; }
  bool is_nan(int code) const { return (code & 0x7fff) > code_of_infinity(); }
  /// Value of a non-negative code; the code of infinity gives the next power of two.
  double magnitude(int code) const {
    const int exponent = code >> fraction_bits;
    const int fraction = code & ((1 << fraction_bits) - 1);
    if (exponent == 0) return std::ldexp(fraction, 1 - bias - fraction_bits);
    return std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
  }
};
constexpr Format kF16{.fraction_bits = 10, .bias = 15};
constexpr Format kBf16{.fraction_bits = 7, .bias = 127};

template <class Decode>
void expect_exact_values(const Format& format, const Decode& decode) {
  for (int code = 0; code < 0x8000; ++code)
    for (const int sign : {0, 0x8000}) {
      const float value = decode(static_cast<std::uint16_t>(code | sign));
      ASSERT_EQ(std::signbit(value), sign != 0) << code;
      if (format.is_nan(code)) {
        ASSERT_TRUE(std::isnan(value)) << code;
      } else if (code == format.code_of_infinity()) {
        ASSERT_TRUE(std::isinf(value)) << code;
      } else {
        ASSERT_EQ(std::fabs(static_cast<double>(value)), format.magnitude(code)) << code;
      }
    }
}

template <class Decode, class Encode>
void expect_round_trip(const Format& format, const Decode& decode, const Encode& encode) {
  for (int code = 0; code < 0x10000; ++code) {
    const int back = encode(decode(static_cast<std::uint16_t>(code)));
    if (format.is_nan(code)) {
      ASSERT_TRUE(format.is_nan(back)) << code;
      ASSERT_EQ(back & 0x8000, code & 0x8000) << "sign of the NaN " << code;
    } else {
      ASSERT_EQ(back, code);
    }
  }
}

/// Between all neighbours: the midpoint goes to the even code, everything else to the nearer one.
/// The last pair is the largest finite value and the power of two above it, coded as infinity.
template <class Encode>
void expect_nearest_even(const Format& format, const Encode& encode) {
  for (int low = 0; low < format.code_of_infinity(); ++low) {
    const double exact = (format.magnitude(low) + format.magnitude(low + 1)) / 2;
    const auto middle = static_cast<float>(exact);
    ASSERT_EQ(static_cast<double>(middle), exact) << "the midpoint is no float";
    const int even = low % 2 == 0 ? low : low + 1;
    for (const int sign : {0, 0x8000}) {
      const float one = sign != 0 ? -1.0f : 1.0f;
      ASSERT_EQ(encode(one * middle), even | sign) << low;
      ASSERT_EQ(encode(one * std::nextafter(middle, 0.0f)), low | sign) << low;
      ASSERT_EQ(encode(one * std::nextafter(middle, kInfinity)), (low + 1) | sign) << low;
    }
  }
}

TEST(F16, EveryPatternHasItsExactValue) {
  expect_exact_values(kF16, f16_to_float);
}
TEST(F16, EveryPatternComesBack) {
  expect_round_trip(kF16, f16_to_float, float_to_f16);
}
TEST(F16, RoundsToNearestEvenBetweenAllNeighbours) {
  expect_nearest_even(kF16, float_to_f16);
}
TEST(Bf16, EveryPatternHasItsExactValue) {
  expect_exact_values(kBf16, bf16_to_float);
}
TEST(Bf16, EveryPatternComesBack) {
  expect_round_trip(kBf16, bf16_to_float, float_to_bf16);
}
TEST(Bf16, RoundsToNearestEvenBetweenAllNeighbours) {
  expect_nearest_even(kBf16, float_to_bf16);
}

TEST(F16, HandWorkedEdges) {
  EXPECT_EQ(float_to_f16(1.0f), 0x3c00);
  EXPECT_EQ(float_to_f16(-2.0f), 0xc000);
  EXPECT_EQ(float_to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(1e30f), 0x7c00);
  EXPECT_EQ(float_to_f16(-kInfinity), 0xfc00);
  EXPECT_EQ(float_to_f16(0x1p-14f), 0x0400) << "least normal value";
  EXPECT_EQ(float_to_f16(0x1.ff8p-15f), 0x03ff) << "largest subnormal value";
  EXPECT_EQ(float_to_f16(0x1p-24f), 0x0001);
  EXPECT_EQ(float_to_f16(0x1p-25f), 0x0000);
  EXPECT_EQ(float_to_f16(-0x1p-149f), 0x8000);
  EXPECT_EQ(float_to_f16(-0.0f), 0x8000);
}

TEST(Bf16, HandWorkedEdges) {
  EXPECT_EQ(float_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(float_to_bf16(-kInfinity), 0xff80);
  EXPECT_EQ(float_to_bf16(0x1p-149f), 0x0000);
  EXPECT_EQ(float_to_bf16(-0.0f), 0x8000);
}

/// A NaN whose payload stands only in bits that the format drops must not become infinity.
TEST(NaN, StaysNaNWhateverItsPayload) {
  for (const std::uint32_t bits :
       {0x7f800001u, 0x7f801000u, 0x7fffffffu, 0xff800001u, 0xffc00000u, 0x7fa00000u}) {
    const auto value = std::bit_cast<float>(bits);
    EXPECT_TRUE(kF16.is_nan(float_to_f16(value))) << bits;
    EXPECT_TRUE(kBf16.is_nan(float_to_bf16(value))) << bits;
    EXPECT_EQ(float_to_f16(value) >> 15, static_cast<int>(bits >> 31));
    EXPECT_EQ(float_to_bf16(value) >> 15, static_cast<int>(bits >> 31));
  }
}

TEST(DType, NamesAndSizes) {
  EXPECT_EQ(dtype_name(DType::f32), "F32");
  EXPECT_EQ(dtype_name(DType::f16), "F16");
  EXPECT_EQ(dtype_name(DType::bf16), "BF16");
  EXPECT_EQ(dtype_size(DType::f32), 4);
  EXPECT_EQ(dtype_size(DType::f16), 2);
  EXPECT_EQ(dtype_size(DType::bf16), 2);
  EXPECT_EQ(dtype_size(DType::f8_e4m3), 1);
  EXPECT_EQ(dtype_size(DType::u8), 1);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::u8})
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  for (const char* name : {"", "f32", "F64", "BF16 ", "F8_E5M2", "I32", "?"})
    EXPECT_FALSE(dtype_from_name(name)) << name;
}

/// The definition, by powers of two: sign, 4 bits of exponent with bias 7, 3 bits of fraction.
TEST(F8E4M3, EveryCode) {
  for (int bits = 0; bits < 256; ++bits) {
    const float value = f8_e4m3_to_float(static_cast<std::uint8_t>(bits));
    const int exponent = bits / 8 % 16, fraction = bits % 8;
    if (bits % 128 == 127) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    const double scale = std::pow(2.0, exponent == 0 ? -6 : exponent - 7);
    const double magnitude = scale * (fraction / 8.0 + (exponent == 0 ? 0 : 1));
    EXPECT_EQ(value, bits < 128 ? magnitude : -magnitude) << bits;
    EXPECT_EQ(std::signbit(value), bits >= 128) << bits;
  }
  EXPECT_EQ(f8_e4m3_to_float(0x7e), 448);
  const std::array<unsigned char, 2> bytes{0x7e, 3};
  std::array<float, 2> out{};
  to_float(DType::f8_e4m3, bytes.data(), 2, out.data());
  EXPECT_EQ(out, (std::array<float, 2>{448, 0.005859375f}));
  to_float(DType::u8, bytes.data(), 2, out.data());
  EXPECT_EQ(out, (std::array<float, 2>{126, 3}));
}

TEST(ToFloat, ReadsEveryTypeAtAnyAlignment) {
  const std::vector<float> expected{1.0f, -2.0f, 0.5f};
  const std::vector<std::uint16_t> f16{0x3c00, 0xc000, 0x3800};
  const std::vector<std::uint16_t> bf16{0x3f80, 0xc000, 0x3f00};
  const auto check = [&](DType dtype, const void* source) {
    const std::size_t bytes = 3 * static_cast<std::size_t>(dtype_size(dtype));
    for (std::size_t shift = 0; shift < 4; ++shift) {
      std::vector<unsigned char> memory(bytes + shift);
      std::memcpy(memory.data() + shift, source, bytes);
      std::vector<float> out(4, 7.0f);
      to_float(dtype, memory.data() + shift, 3, out.data());
      for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(out[i], expected[i]) << dtype_name(dtype);
      EXPECT_EQ(out[3], 7.0f) << "wrote past the end";
    }
  };
  check(DType::f32, expected.data());
  check(DType::f16, f16.data());
  check(DType::bf16, bf16.data());
}

}  // namespace
}  // namespace aq
