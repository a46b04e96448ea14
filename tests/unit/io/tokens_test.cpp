#include "aq/io/tokens.h"

#include <algorithm>
#include <functional>
#include <set>
#include <span>

#include "aq/io/file.h"
#include "expect_error.h"
#include "io/hdf5.h"
#include "io/shape_text.h"
#include "support/checkpoint_maker.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using hdf5::Type;
using test::expect_input_error;
using test::TemporaryDirectory;

const std::vector<std::string> kForms{"t.h5", "t.safetensors"};

std::string type_name(Type type) {
  switch (type) {
    case Type::i32:
      return "I32";
    case Type::i64:
      return "I64";
    case Type::u16:
      return "U16";
    case Type::f32:
      return "F32";
    default:
      return "U32";
  }
}

/// A tensor of a safetensors file.
struct TestTensor {
  std::string name;
  Type type;
  std::vector<Index> shape;
  std::span<const std::byte> bytes;
};

void write_tensors(const std::filesystem::path& path, const std::vector<TestTensor>& tensors) {
  std::string header, data;
  for (const TestTensor& tensor : tensors) {
    const std::size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
    header += str(",\"", tensor.name, R"(":{"dtype":")", type_name(tensor.type), R"(","shape":)",
                  shape_text(tensor.shape), R"(,"data_offsets":[)", begin, ",", data.size(), "]}");
  }
  header = str(R"({"__metadata__":{"seed":"0"})", header, "}");
  const std::uint64_t length = header.size();
  write_text_file(path, std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
}

/// Writes `tokens` [rows, columns] and, unless empty, `lengths`, in the format of the name.
template <class Value>
void write_file(const std::filesystem::path& path, Type type, const std::vector<Index>& shape,
                const std::vector<Value>& tokens, const std::vector<std::int64_t>& lengths = {}) {
  const std::vector<Index> rows{static_cast<Index>(lengths.size())};
  if (path.extension() == ".safetensors") {
    const auto bytes = std::as_bytes(std::span(tokens));
    std::vector<TestTensor> tensors{{"tokens", type, shape, bytes}};
    if (std::count(shape.begin(), shape.end(), 0) > 0) tensors[0].bytes = {};
    if (!lengths.empty())
      tensors.push_back({"lengths", Type::i64, rows, std::as_bytes(std::span(lengths))});
    return write_tensors(path, tensors);
  }
  hdf5::Object file = hdf5::create_file(path);
  hdf5::write_dataset(file, "tokens", type, shape, tokens.data());
  if (!lengths.empty()) hdf5::write_dataset(file, "lengths", Type::i64, rows, lengths.data());
  file.close();
}

TEST(Tokens, ReadsRowsOfEveryIntegerType) {
  const TemporaryDirectory directory;
  const auto check = [&](const std::filesystem::path& path) {
    const TokenFile file = TokenFile::open(path);
    EXPECT_EQ(file.sequences, 2);
    EXPECT_EQ(file.length, 3);
    EXPECT_FALSE(file.has_lengths);
    const Sequences all = file.read(0, 2, 100, 7);
    EXPECT_EQ(all.tokens, (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(all.lengths, (std::vector<Index>{3, 3}));
    EXPECT_EQ(all.count(), 2);
    EXPECT_EQ(all.token_count(), 6);
    const Sequences cut = file.read(1, 1, 2, 7);
    EXPECT_EQ(cut.tokens, (std::vector<std::int32_t>{4, 5}));
    EXPECT_EQ(cut.lengths, std::vector<Index>{2});
    EXPECT_EQ(file.read(2, 0, 2, 7).count(), 0);
    return file.fingerprint(2, 100);
  };
  std::set<std::string> fingerprints;
  for (const std::string& form : kForms) {
    const auto path = directory / form;
    write_file<std::int32_t>(path, Type::i32, {2, 3}, {1, 2, 3, 4, 5, 6});
    fingerprints.insert(check(path));
    write_file<std::int64_t>(path, Type::i64, {2, 3}, {1, 2, 3, 4, 5, 6});
    fingerprints.insert(check(path));
  }
  const auto path = directory / "t.h5";
  write_file<std::uint16_t>(path, Type::u16, {2, 3}, {1, 2, 3, 4, 5, 6});
  fingerprints.insert(check(path));
  write_file<std::uint32_t>(path, Type::u32, {2, 3}, {1, 2, 3, 4, 5, 6});
  fingerprints.insert(check(path));
  EXPECT_EQ(fingerprints.size(), 1U);
  std::filesystem::rename(directory / "t.safetensors", path);  // the content decides
  EXPECT_EQ(check(path), *fingerprints.begin());
}

TEST(Tokens, LengthsRemovePadding) {
  const TemporaryDirectory directory;
  for (const std::string& form : kForms) {
    const auto path = directory / form;
    write_file<std::int32_t>(path, Type::i32, {3, 3}, {1, -1, -1, 2, 3, -1, 4, 5, 6}, {1, 2, 3});
    const TokenFile file = TokenFile::open(path);
    EXPECT_TRUE(file.has_lengths);
    const Sequences all = file.read(0, 3, 100, 7);
    EXPECT_EQ(all.tokens, (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(all.lengths, (std::vector<Index>{1, 2, 3}));
    EXPECT_EQ(file.read(0, 3, 2, 7).lengths, (std::vector<Index>{1, 2, 2}));
    EXPECT_EQ(file.read(1, 2, 2, 7).tokens, (std::vector<std::int32_t>{2, 3, 4, 5}));
  }
}

TEST(Tokens, FingerprintSeesWhatIsUsed) {
  const TemporaryDirectory directory;
  const auto path = directory / "t.h5";
  const auto fingerprint = [&](std::vector<std::int32_t> tokens, Index count, Index length,
                               const std::vector<std::int64_t>& lengths = {}) {
    write_file(path, Type::i32, {2, 3}, tokens, lengths);
    return TokenFile::open(path).fingerprint(count, length);
  };
  const std::string first = fingerprint({1, 2, 3, 4, 5, 6}, 2, 3);
  EXPECT_EQ(first, fingerprint({1, 2, 3, 4, 5, 6}, 2, 100));
  EXPECT_EQ(first, fingerprint({1, 2, 3, 4, 5, 6}, 2, 3, {3, 3}));
  EXPECT_NE(first, fingerprint({1, 2, 3, 4, 5, 6}, 2, 3, {3, 2}));
  EXPECT_NE(first, fingerprint({1, 2, 3, 4, 5, 7}, 2, 3));
  EXPECT_NE(first, fingerprint({1, 2, 3, 4, 5, 6}, 1, 3));
  EXPECT_NE(first, fingerprint({1, 2, 3, 4, 5, 6}, 2, 2));
  EXPECT_EQ(fingerprint({1, 2, 3, 4, 5, 6}, 2, 2), fingerprint({1, 2, 9, 4, 5, 9}, 2, 2));
}

TEST(Tokens, Damaged) {
  struct Damage {
    const char* title;
    std::function<void(const std::filesystem::path&)> write;
    std::vector<std::string> expected;
  };
  const std::vector<float> reals(6, 1.0f);
  const std::vector<std::int32_t> six = {1, 2, 3, 4, 5, 6};
  const std::vector<Damage> table = {
      {"neither", [](auto& path) { write_text_file(path, "tokens"); }, {"neither a safetensors"}},
      {"no tensor", [](auto& path) { write_tensors(path, {}); }, {"no dataset 'tokens'"}},
      {"no dataset", [](auto& path) { hdf5::create_file(path).close(); }, {"no dataset 'tokens'"}},
      {"a group",
       [](auto& path) {
         auto file = hdf5::create_file(path);
         hdf5::create_group(file, "tokens");
       },
       {"/tokens"}},
      {"unsigned in safetensors",
       [&](auto& path) {
         write_tensors(path, {{"tokens", Type::u32, {2, 3}, std::as_bytes(std::span(six))}});
       },
       {": tokens", "not integers of 32 or 64 bits"}},
      {"reals",
       [&](auto& path) {
         write_file(path, Type::f32, {2, 3}, reals);
       },
       {"tokens", "not integers"}},
      {"one dimension",
       [&](auto& path) { write_file(path, Type::i32, {6}, six); },
       {"tokens", "1 dim"}},
      {"three",
       [&](auto& path) {
         write_file(path, Type::i32, {1, 2, 3}, six);
       },
       {"tokens", "3 dim"}},
      {"no row",
       [&](auto& path) {
         write_file(path, Type::i32, {0, 3}, six);
       },
       {"tokens", "empty"}},
      {"no column",
       [&](auto& path) {
         write_file(path, Type::i32, {3, 0}, six);
       },
       {"tokens", "empty"}},
      {"lengths too short",
       [&](auto& path) {
         write_file(path, Type::i32, {2, 3}, six, {1});
       },
       {"lengths", "2 rows"}},
      {"length 0",
       [&](auto& path) {
         write_file(path, Type::i32, {2, 3}, six, {3, 0});
       },
       {"lengths", "row 1 has length 0"}},
      {"length 4",
       [&](auto& path) {
         write_file(path, Type::i32, {2, 3}, six, {3, 4});
       },
       {"lengths", "row 1 has length 4"}},
      {"outside",
       [&](auto& path) {
         write_file(path, Type::i32, {2, 3}, std::vector<std::int32_t>{1, 2, 3, 4, 7, 6});
       },
       {"tokens", "row 1, position 1 holds 7", "[0, 7)"}},
      {"negative",
       [&](auto& path) {
         write_file(path, Type::i32, {2, 3}, std::vector<std::int32_t>{1, -2, 3, 4, 7, 6});
       },
       {"tokens", "row 0, position 1 holds -2"}},
      {"large",
       [&](auto& path) {
         write_file(path, Type::i64, {1, 1}, std::vector<std::int64_t>{Index{1} << 40});
       },
       {"tokens", "1099511627776"}},
  };
  const TemporaryDirectory directory;
  for (const std::string& form : kForms)
    for (const Damage& damage : table) {
      SCOPED_TRACE(str(form, ": ", damage.title));
      const auto path = directory / form;
      damage.write(path);
      std::vector<std::string> expected = damage.expected;
      expected.push_back(path.string());
      expect_input_error(
          [&] {
            const TokenFile file = TokenFile::open(path);
            file.read(0, file.sequences, 100, 7);
          },
          expected);
    }
  expect_input_error([&] { TokenFile::open(directory / "none.h5"); }, {"none.h5", "No such file"});
}

TEST(Tokens, MadeForTests) {
  const TemporaryDirectory directory;
  test::write_tokens(directory / "t.h5", 5, 16, 64, 3);
  const Sequences sequences = TokenFile::open(directory / "t.h5").read(0, 5, 16, 64);
  EXPECT_EQ(sequences.token_count(), 80);
}

}  // namespace
}  // namespace aq
