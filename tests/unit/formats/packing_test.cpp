#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aq/formats/quantized_matrix.h"

namespace aq {
namespace {

using testing::ElementsAre;
using Codes = std::vector<std::uint8_t>;
using Words = std::vector<std::uint32_t>;

Codes make_codes(int count, int factor, int modulus) {
  Codes codes;
  for (int i = 0; i < count; ++i) codes.push_back(static_cast<std::uint8_t>(factor * i % modulus));
  return codes;
}

Words packed(int bits, const Codes& codes) {
  Words words(static_cast<std::size_t>(words_per_row(bits, std::ssize(codes))), 0xDEADBEEF);
  pack_row(bits, codes, words);
  return words;
}

Codes unpacked(int bits, const Words& words, std::size_t count) {
  Codes codes(count, 0xEE);
  unpack_row(bits, words, codes);
  return codes;
}

/// One bit at a time.
Words slowly_packed(int bits, const Codes& codes) {
  Words words(static_cast<std::size_t>((std::ssize(codes) * bits + 31) / 32));
  for (std::size_t i = 0; i < codes.size(); ++i) {
    for (std::size_t b = 0; b < static_cast<std::size_t>(bits); ++b) {
      const std::size_t at = i * static_cast<std::size_t>(bits) + b;
      if ((codes[i] >> b & 1) != 0) words[at / 32] |= 1U << (at % 32);
    }
  }
  return words;
}

// Golden vectors: compressed-tensors' pack-quantized, dense packing.
TEST(Packing, GoldenVectors) {
  EXPECT_THAT(packed(4, make_codes(16, 1, 16)), ElementsAre(0x76543210, 0xFEDCBA98));
  EXPECT_THAT(packed(2, make_codes(16, 1, 4)), ElementsAre(0xE4E4E4E4));
  EXPECT_THAT(packed(8, Codes{0, 37, 74, 111}), ElementsAre(0x6F4A2500));
  EXPECT_THAT(packed(3, make_codes(32, 1, 8)), ElementsAre(0x88FAC688, 0xC688FAC6, 0xFAC688FA));
  EXPECT_THAT(packed(6, make_codes(32, 37, 64)),
              ElementsAre(0x54BCA940, 0x23680DEE, 0xAC687C5F, 0x64FDAD50, 0x27784EE2, 0xED6C4C9C));
  EXPECT_THAT(packed(5, make_codes(32, 1, 32)),
              ElementsAre(0x8A418820, 0xC5A92839, 0xCA307B9A, 0x38BDAB49, 0xFFBBCDEB));
}

TEST(Packing, EveryWidthAndTailAgreesWithOneBitAtATime) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (int count = 0; count <= 100; ++count) {
      const Codes codes = make_codes(count, 73, 1 << bits);
      const Words words = packed(bits, codes);
      ASSERT_EQ(words, slowly_packed(bits, codes)) << bits << " bits, " << count;
      ASSERT_EQ(unpacked(bits, words, codes.size()), codes) << bits << " bits, " << count;
    }
  }
}

TEST(Packing, EveryCodeAtEveryPositionComesBack) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (int code = 0; code < 1 << bits; ++code) {
      for (std::size_t at = 0; at < 11; ++at) {
        for (const int others : {0, (1 << bits) - 1}) {
          Codes codes(11, static_cast<std::uint8_t>(others));
          codes[at] = static_cast<std::uint8_t>(code);
          ASSERT_EQ(unpacked(bits, packed(bits, codes), codes.size()), codes);
        }
      }
    }
  }
}

TEST(Packing, PairsOfSmallWidthsExhaustively) {
  for (int bits = 2; bits <= 3; ++bits) {
    for (int value = 0; value < 1 << (4 * bits); ++value) {
      Codes codes;
      for (int i = 0; i < 4; ++i) {
        codes.push_back(static_cast<std::uint8_t>(value >> (i * bits) & ((1 << bits) - 1)));
      }
      ASSERT_EQ(packed(bits, codes), Words{static_cast<std::uint32_t>(value)});
      ASSERT_EQ(unpacked(bits, packed(bits, codes), 4), codes);
    }
  }
}

}  // namespace
}  // namespace aq
