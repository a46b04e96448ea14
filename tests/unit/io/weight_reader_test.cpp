/// Weights out of every form that a checkpoint may store them in.

#include "aq/io/weight_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "aq/core/error.h"
#include "aq/io/safetensors_writer.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using test::TemporaryDirectory;

/// A checkpoint of raw tensors.
class Stored {
 public:
  void add(const std::string& name, DType dtype, std::vector<Index> shape,
           std::vector<std::uint8_t> bytes) {
    std::vector<std::byte> raw;
    for (const std::uint8_t byte : bytes) raw.push_back(static_cast<std::byte>(byte));
    tensors_.push_back({name, dtype, std::move(shape), std::move(raw)});
  }
  void add(const std::string& name, std::vector<Index> shape, const std::vector<float>& values) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(values.data());
    add(name, DType::f32, std::move(shape), {bytes, bytes + 4 * values.size()});
  }
  Checkpoint open() const {
    std::ofstream(directory_ / "config.json") << "{}";
    write_safetensors(directory_ / "model.safetensors", tensors_);
    return Checkpoint::open(directory_.path());
  }

 private:
  TemporaryDirectory directory_;
  std::vector<TensorToWrite> tensors_;
};

std::vector<float> numbers(Index count) {
  std::vector<float> values;
  for (Index i = 0; i < count; ++i) values.push_back(static_cast<float>(i));
  return values;
}

LinearSpec linear(const std::string& name, Role role, Index rows, Index columns,
                  Index expert = -1) {
  return {.name = name,
          .rows = rows,
          .columns = columns,
          .role = role,
          .layer = 0,
          .expert = expert,
          .bias = true};
}

/// A model of one layer with `experts` experts whose fused tensors are "gate_up" and "down".
Model fused_model(Index experts, bool interleaved, bool transposed) {
  Model model;
  model.layers.resize(1);
  model.layers[0].moe.emplace();
  model.layers[0].moe->routing.experts = experts;
  model.fused = FusedExperts{"gate_up", "down", interleaved, transposed};
  return model;
}

/// Rows of every range of a weight are those of the whole.
void expect_ranges(const Checkpoint& checkpoint, const Model& model, const LinearSpec& linear,
                   const Matrix& whole) {
  for (Index begin = 0; begin <= whole.rows; ++begin)
    for (Index count = 0; count <= whole.rows - begin; ++count) {
      const Matrix rows = read_weight_rows(checkpoint, model, linear, begin, count);
      ASSERT_EQ(rows.rows, count);
      for (Index r = 0; r < count; ++r)
        for (Index c = 0; c < whole.columns; ++c)
          ASSERT_EQ(rows(r, c), whole(begin + r, c)) << begin << " + " << count;
    }
}

TEST(WeightReader, Fp8WithBlockScales) {
  constexpr Index kRows = 5, kColumns = 7;  // blocks of 2 x 3, the last ones partial
  Stored stored;
  std::vector<std::uint8_t> codes;
  for (Index i = 0; i < kRows * kColumns; ++i) codes.push_back(static_cast<std::uint8_t>(7 * i));
  const std::vector<float> scales{0.5f, 2, 3, 1, 0.25f, 8, 7, 5, 0.125f};
  stored.add("w.weight", DType::f8_e4m3, {kRows, kColumns}, codes);
  stored.add("w.weight_scale_inv", {3, 3}, scales);
  Model model;
  model.encoding = SourceEncoding::fp8_blocks;
  model.block_rows = 2;
  model.block_columns = 3;
  Matrix expected(kRows, kColumns);
  for (Index r = 0; r < kRows; ++r)
    for (Index c = 0; c < kColumns; ++c)
      expected(r, c) = f8_e4m3_to_float(codes[r * kColumns + c]) * scales[r / 2 * 3 + c / 3];
  expect_ranges(stored.open(), model, linear("w", Role::q, kRows, kColumns), expected);
}

/// [experts, outputs, inputs]: all of gate, then all of up.
TEST(WeightReader, FusedHalves) {
  Stored stored;
  stored.add("gate_up", {2, 6, 4}, numbers(48));
  stored.add("gate_up_bias", {2, 6}, numbers(12));
  const Checkpoint checkpoint = stored.open();
  const Model model = fused_model(2, false, false);
  const LinearSpec up = linear("e", Role::up, 3, 4, 1);
  Matrix expected(3, 4);
  for (Index r = 0; r < 3; ++r)
    for (Index c = 0; c < 4; ++c) expected(r, c) = static_cast<float>(24 + (3 + r) * 4 + c);
  expect_ranges(checkpoint, model, up, expected);
  EXPECT_EQ(read_bias(checkpoint, model, up), (std::vector<float>{9, 10, 11}));
  EXPECT_EQ(read_weight_rows(checkpoint, model, linear("e", Role::gate, 3, 4, 0), 0, 1)(0, 3), 3);
}

/// [experts, inputs, outputs]: gate and up alternate (gpt-oss in bf16).
TEST(WeightReader, FusedInterleavedAndTransposed) {
  Stored stored;
  stored.add("gate_up", {2, 4, 6}, numbers(48));
  stored.add("gate_up_bias", {2, 6}, numbers(12));
  stored.add("down", {2, 3, 4}, numbers(24));
  const Checkpoint checkpoint = stored.open();
  const Model model = fused_model(2, true, true);
  const LinearSpec up = linear("e", Role::up, 3, 4, 1);
  Matrix expected(3, 4);
  for (Index r = 0; r < 3; ++r)
    for (Index c = 0; c < 4; ++c) expected(r, c) = static_cast<float>(24 + c * 6 + 2 * r + 1);
  expect_ranges(checkpoint, model, up, expected);
  EXPECT_EQ(read_bias(checkpoint, model, up), (std::vector<float>{7, 9, 11}));
  EXPECT_EQ(read_bias(checkpoint, model, linear("e", Role::gate, 3, 4, 0)),
            (std::vector<float>{0, 2, 4}));
  Matrix down(4, 3);
  for (Index r = 0; r < 4; ++r)
    for (Index c = 0; c < 3; ++c) down(r, c) = static_cast<float>(c * 4 + r);
  expect_ranges(checkpoint, model, linear("e", Role::down, 4, 3, 0), down);
}

/// Two groups of 32 a row; the low nibble comes first.
TEST(WeightReader, Mxfp4) {
  constexpr Index kRows = 4, kGroups = 2;
  std::vector<std::uint8_t> blocks, scales;
  for (Index i = 0; i < kRows * kGroups * 16; ++i)
    blocks.push_back(static_cast<std::uint8_t>(31 * i));
  for (Index i = 0; i < kRows * kGroups; ++i) scales.push_back(static_cast<std::uint8_t>(120 + i));
  scales[3] = 0;  // 2^-127
  Stored stored;
  stored.add("gate_up_blocks", DType::u8, {1, kRows, kGroups, 16}, blocks);
  stored.add("gate_up_scales", DType::u8, {1, kRows, kGroups}, scales);
  Model model = fused_model(1, true, true);
  model.encoding = SourceEncoding::mxfp4;
  const std::vector<double> magnitudes{0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const auto value = [&](Index row, Index column) {
    const std::uint8_t byte = blocks[row * 32 + column / 2];
    const int code = column % 2 == 0 ? byte % 16 : byte / 16;
    const double scale = std::pow(2.0, scales[row * 2 + column / 32] - 127.0);
    return static_cast<float>((code < 8 ? scale : -scale) * magnitudes[code % 8]);
  };
  for (const Role role : {Role::gate, Role::up}) {
    Matrix expected(2, 64);
    for (Index r = 0; r < 2; ++r)
      for (Index c = 0; c < 64; ++c) expected(r, c) = value(2 * r + (role == Role::up), c);
    expect_ranges(stored.open(), model, linear("e", role, 2, 64, 0), expected);
  }
}

TEST(WeightReader, NanScalesAndOtherTypesAreNamed) {
  const auto message = [](const Stored& stored, const Model& model, const LinearSpec& linear) {
    try {
      read_weight_rows(stored.open(), model, linear, 0, linear.rows);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  Model model = fused_model(1, true, true);
  model.encoding = SourceEncoding::mxfp4;
  Stored stored;
  stored.add("gate_up_blocks", DType::u8, {1, 2, 1, 16}, std::vector<std::uint8_t>(32));
  stored.add("gate_up_scales", DType::u8, {1, 2, 1}, {127, 255});
  const LinearSpec up = linear("e", Role::up, 1, 32, 0);
  EXPECT_THAT(message(stored, model, up), testing::HasSubstr("gate_up_scales"));
  Stored floats;
  floats.add("gate_up_blocks", {1, 2, 1, 16}, numbers(32));
  floats.add("gate_up_scales", DType::u8, {1, 2, 1}, {127, 127});
  EXPECT_THAT(message(floats, model, up), testing::HasSubstr("U8 is needed"));
  Stored codes;
  codes.add("down", DType::f8_e4m3, {1, 2, 2}, {1, 2, 3, 4});
  EXPECT_THAT(message(codes, fused_model(1, false, false), linear("e", Role::down, 2, 2, 0)),
              testing::HasSubstr("one tensor for each expert"));
  Stored fp8;
  fp8.add("w.weight", DType::f8_e4m3, {1, 1}, {1});
  EXPECT_THAT(message(fp8, model, linear("w", Role::q, 1, 1)),
              testing::HasSubstr("weight_scale_inv"));
  fp8.add("w.weight_scale_inv", {1, 1}, {std::nanf("")});
  EXPECT_THAT(message(fp8, model, linear("w", Role::q, 1, 1)), testing::HasSubstr("NaN"));
}

/// Blocks of 128 x 128 of compressed-tensors; the last ones, and all of a narrow matrix, are
/// partial.
TEST(WeightReader, PackedBlocks) {
  for (const Index rows : {Index{2}, Index{130}}) {
    constexpr Index kColumns = 192;
    const Index blocks = ceil_div(rows, 128);
    Stored stored;
    stored.add("w.weight", DType::f8_e4m3, {rows, kColumns},
               std::vector<std::uint8_t>(rows * kColumns, 0x38));  // 1
    std::vector<float> scales{2, 3, 5, 7};
    scales.resize(2 * blocks);
    stored.add("w.weight_scale", {blocks, 2}, scales);
    const Checkpoint checkpoint = stored.open();
    Model model;
    model.packed["w"] = {.form = PackedForm::scaled,
                         .tensors = {{"weight", {rows, kColumns}}, {"weight_scale", {blocks, 2}}}};
    const LinearSpec w = linear("w", Role::gate, rows, kColumns);
    const Matrix whole = read_weight_rows(checkpoint, model, w, 0, rows);
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < kColumns; ++c)
        ASSERT_EQ(whole(r, c), scales[r / 128 * 2 + c / 128]) << r << " " << c;
    const Matrix last = read_weight_rows(checkpoint, model, w, rows - 1, 1);
    EXPECT_EQ(last(0, 191), scales.back());
  }
}

/// What the writer says of bytes as they come is what is read of the file, across pieces of 4 MiB.
TEST(SafetensorsWriter, ChecksumsAreThoseOfTheFile) {
  constexpr Index kPiece = Index{4} << 20;
  for (const Index bytes : {Index{0}, Index{1}, kPiece, kPiece + 1, 2 * kPiece, 3 * kPiece - 5})
    for (const Index step : {Index{1'000'003}, kPiece, 2 * kPiece + 7}) {
      const TemporaryDirectory directory;
      std::ofstream(directory / "config.json") << "{}";
      std::vector<std::byte> data(bytes);
      for (Index i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * i >> 3);
      const std::vector<TensorEntry> entries{{"a", "U8", {bytes}}, {"wide", "F32", {1}}};
      SafetensorsWriter writer(directory / "model.safetensors", entries);
      writer.write("wide", std::vector<std::byte>(4));
      for (Index done = 0; done < bytes; done += step)
        writer.write("a", std::span(data).subspan(done, std::min(step, bytes - done)));
      const auto checksums = writer.close();
      const Checkpoint checkpoint = Checkpoint::open(directory.path());
      ASSERT_EQ(checksums.size(), 2U);
      EXPECT_EQ(checksums[0], std::pair(std::string("wide"), checkpoint.checksum("wide")));
      EXPECT_EQ(checksums[1], std::pair(std::string("a"), checkpoint.checksum("a")))
          << bytes << " in steps of " << step;
    }
}

}  // namespace
}  // namespace aq
