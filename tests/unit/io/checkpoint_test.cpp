#include "aq/io/checkpoint.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "aq/io/file.h"
#include "aq/io/safetensors_writer.h"
#include "expect_error.h"
#include "support/checkpoint_maker.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using test::expect_input_error;
using test::TemporaryDirectory;

template <class Value>
std::vector<std::byte> bytes_of(const std::vector<Value>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(Value));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

/// One file with the same values in three types, and others.
void write_example(const std::filesystem::path& directory) {
  make_directory(directory);
  write_text_file(directory / "config.json", R"({"model_type":"x"})");
  const auto infinity = std::numeric_limits<float>::infinity();
  write_safetensors(
      directory / "model.safetensors",
      {{"half",
        DType::f16,
        {2, 3},
        bytes_of<std::uint16_t>({0x3c00, 0xc000, 0x3555, 1, 0x7bff, 0})},
       {"brain",
        DType::bf16,
        {2, 3},
        bytes_of<std::uint16_t>({0x3f80, 0xc000, 0x3eab, 1, 0x7f7f, 0})},
       {"single", DType::f32, {2, 3}, bytes_of<float>({1, -2, 0.1f, 1e-40f, 3e38f, 0})},
       {"bad", DType::f32, {2, 3}, bytes_of<float>({1, 2, 3, 4, infinity, NAN})},
       {"badhalf", DType::f16, {3}, bytes_of<std::uint16_t>({0, 0x7e00, 0})},
       {"scalar", DType::f32, {}, bytes_of<float>({7})},
       {"empty", DType::bf16, {0, 3}, {}}});
}

TEST(Checkpoint, ReadsTheThreeTypes) {
  const TemporaryDirectory directory;
  write_example(directory.path());
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  EXPECT_EQ(checkpoint.tensors().size(), 7u);
  EXPECT_EQ(checkpoint.config_json(), R"({"model_type":"x"})");
  // By hand: 0x3555 = 2^-2 * (1 + 0x155/1024); 1 = 2^-24; 0x7bff = 65504.
  EXPECT_EQ(checkpoint.read("half", {2, 3}),
            (std::vector<float>{1, -2, 0.25f * (1 + 341.0f / 1024), 0x1p-24f, 65504, 0}));
  // 0x3eab = 2^-2 * (1 + 0x2b/128); 1 = 2^-133; 0x7f7f = 2^127 * (1 + 127/128).
  EXPECT_EQ(
      checkpoint.read("brain", {2, 3}),
      (std::vector<float>{1, -2, 0.25f * (1 + 43.0f / 128), 0x1p-133f, 0x1p127f * 1.9921875f, 0}));
  EXPECT_EQ(checkpoint.read("single", {2, 3}), (std::vector<float>{1, -2, 0.1f, 1e-40f, 3e38f, 0}));
  EXPECT_EQ(checkpoint.read("scalar", {}), std::vector<float>{7});
  EXPECT_TRUE(checkpoint.read("empty", {0, 3}).empty());
}

TEST(Checkpoint, ReadsRows) {
  const TemporaryDirectory directory;
  write_example(directory.path());
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  for (const char* name : {"half", "brain", "single"}) {
    const Matrix whole = checkpoint.read_matrix(name, 2, 3);
    const std::vector<float> read = checkpoint.read(name, {2, 3});
    EXPECT_EQ(whole.values, FloatArray(read.begin(), read.end()));
    for (Index row = 0; row < 2; ++row) {
      const Matrix one = checkpoint.read_rows(name, 2, 3, row, 1);
      EXPECT_EQ(one.rows, 1);
      EXPECT_EQ(one.columns, 3);
      for (Index c = 0; c < 3; ++c) EXPECT_EQ(one(0, c), whole(row, c));
    }
    EXPECT_TRUE(checkpoint.read_rows(name, 2, 3, 2, 0).values.empty());
    EXPECT_THROW(checkpoint.read_rows(name, 2, 3, 1, 2), Error);
  }
  // Only the bytes of the row: the bad values of the second row are not seen.
  EXPECT_EQ(checkpoint.read_rows("bad", 2, 3, 0, 1).values, (FloatArray{1, 2, 3}));
}

TEST(Checkpoint, LargeTensorsAreConvertedInPieces) {
  const TemporaryDirectory directory;
  write_text_file(directory / "config.json", "{}");
  std::vector<std::uint16_t> bits(1'200'000);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i % 0x7c00);
  write_safetensors(directory / "model.safetensors",
                    {{"w", DType::f16, {1200, 1000}, bytes_of(bits)}});
  const Matrix w = Checkpoint::open(directory.path()).read_matrix("w", 1200, 1000);
  for (std::size_t i = 0; i < bits.size(); ++i) ASSERT_EQ(w.values[i], f16_to_float(bits[i]));
}

TEST(Checkpoint, RefusesNaNAndInfinity) {
  const TemporaryDirectory directory;
  write_example(directory.path());
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  expect_input_error([&] { checkpoint.read_matrix("bad", 2, 3); },
                     {"model.safetensors: bad", "[1, 1] is infinite"});
  expect_input_error([&] { checkpoint.read_rows("bad", 2, 3, 1, 1); }, {"[1, 1] is infinite"});
  expect_input_error([&] { checkpoint.read("badhalf", {3}); }, {": badhalf", "[1] is NaN"});
}

TEST(Checkpoint, NamesWhatDoesNotFit) {
  const TemporaryDirectory directory;
  write_example(directory.path());
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  expect_input_error([&] { checkpoint.info("none"); }, {directory.path().string(), ": none"});
  expect_input_error([&] { checkpoint.read_matrix("half", 3, 2); },
                     {"model.safetensors: half", "[2, 3]", "[3, 2]"});
  std::filesystem::resize_file(directory / "model.safetensors", 20);
  expect_input_error([&] { checkpoint.read_matrix("half", 2, 3); },
                     {"model.safetensors", "too early"});
}

TEST(Checkpoint, OtherTypesAreNamedWhenRead) {
  const TemporaryDirectory directory;
  write_text_file(directory / "config.json", "{}");
  const std::string header = R"({"f8":{"dtype":"F8_E5M2","shape":[2,4],"data_offsets":[0,8]},)"
                             R"("i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},)"
                             R"("four":{"dtype":"F4","shape":[4],"data_offsets":[16,18]},)"
                             R"("w":{"dtype":"BF16","shape":[1],"data_offsets":[18,20]}})";
  const std::uint64_t length = header.size();
  std::ofstream(directory / "model.safetensors", std::ios::binary)
          .write(reinterpret_cast<const char*>(&length), 8)
      << header << std::string(20, '\0');
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  EXPECT_EQ(checkpoint.tensors().size(), 1u);
  ASSERT_EQ(checkpoint.other_tensors().size(), 3u);
  EXPECT_EQ(checkpoint.other_tensors().at("f8").shape, (std::vector<Index>{2, 4}));
  EXPECT_TRUE(checkpoint.has("f8"));
  EXPECT_EQ(checkpoint.read("w", {1}), std::vector<float>{0});
  expect_input_error([&] { checkpoint.read_matrix("f8", 2, 4); },
                     {"model.safetensors: f8", "F8_E5M2 is not supported yet"});
  expect_input_error([&] { checkpoint.info("i"); }, {": i", "I64 is not supported yet"});
}

TEST(Checkpoint, ShardedEqualsSingle) {
  const TemporaryDirectory directory;
  for (const char* architecture : {"olmoe", "mixtral", "llama"}) {
    const auto single = directory / str(architecture, "-single");
    const auto sharded = directory / str(architecture, "-sharded");
    test::make_tiny_checkpoint(single, architecture, 5);
    test::make_tiny_checkpoint(sharded, architecture, 5, {.sharded = true});
    const Checkpoint a = Checkpoint::open(single);
    const Checkpoint b = Checkpoint::open(sharded);
    EXPECT_EQ(a.files().size(), 1u);
    EXPECT_EQ(b.files().size(), 3u);
    ASSERT_EQ(a.tensors().size(), b.tensors().size());
    for (const auto& [name, tensor] : a.tensors())
      EXPECT_EQ(a.read(name, tensor.shape), b.read(name, tensor.shape)) << name;
  }
}

TEST(Checkpoint, TensorsThatTheIndexLacksAreLeftOut) {
  const TemporaryDirectory directory;
  write_text_file(directory / "config.json", "{}");
  const auto one = bytes_of<float>({1});
  write_safetensors(directory / "a.safetensors",
                    {{"x", DType::f32, {1}, one}, {"y", DType::f32, {1}, one}});
  write_text_file(directory / "model.safetensors.index.json",
                  R"({"metadata":{"total_size":4},"weight_map":{"x":"a.safetensors"}})");
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  EXPECT_TRUE(checkpoint.has("x"));
  EXPECT_FALSE(checkpoint.has("y"));
}

TEST(Checkpoint, FollowsLinks) {  // the cache of huggingface_hub is made of them
  const TemporaryDirectory directory;
  test::make_tiny_checkpoint(directory / "blobs", "llama", 1);
  make_directory(directory / "snapshot");
  for (const char* name : {"config.json", "model.safetensors"})
    std::filesystem::create_symlink(str("../blobs/", name), directory / str("snapshot/", name));
  EXPECT_EQ(Checkpoint::open(directory / "snapshot").fingerprint(),
            Checkpoint::open(directory / "blobs").fingerprint());
}

TEST(Checkpoint, FingerprintSeesConfigNamesAndData) {
  const TemporaryDirectory directory;
  const auto fingerprint = [&](std::uint64_t seed, const test::TinyModel& model) {
    test::make_tiny_checkpoint(directory / "m", "olmoe", seed, model);
    return Checkpoint::open(directory / "m").fingerprint();
  };
  const std::string first = fingerprint(1, {});
  EXPECT_EQ(first.size(), 16u);
  EXPECT_EQ(first, fingerprint(1, {}));
  EXPECT_NE(first, fingerprint(2, {}));
  EXPECT_NE(first, fingerprint(1, {.width = 40}));
  EXPECT_NE(first, fingerprint(1, {.dtype = DType::f16}));
  EXPECT_NE(first, fingerprint(1, {.experts_per_token = 4}));
}

}  // namespace
}  // namespace aq
