/// Matrix files that are not what they should be: each is built wrong on purpose.
#include <fstream>
#include <functional>
#include <optional>
#include <span>

#include "aq/io/file.h"
#include "aq/io/matrix_file.h"
#include "expect_error.h"
#include "io/checksum.h"
#include "io/hdf5.h"
#include "support/temporary_directory.h"

#ifdef __SANITIZE_ADDRESS__
/// HDF5 loses memory of its own when it gives up on a damaged file: not counted as ours.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5\n";
}
#endif

namespace aq {
namespace {

using hdf5::Type;
using test::expect_damage;
using test::expect_input_error;
using test::TemporaryDirectory;

/// A dataset as it will be written; empty shape: it is left out.
struct RawDataset {
  Type type = Type::u8;
  std::vector<Index> shape;
  std::vector<std::uint64_t> values = std::vector<std::uint64_t>(64);

  std::span<const std::byte> bytes() const {
    Index size = type == Type::u8 ? 1 : type == Type::u16 ? 2 : type == Type::i64 ? 8 : 4;
    for (const Index extent : shape) size *= extent;
    return std::as_bytes(std::span(values)).first(size);
  }
};

/// The parts of a good int4 asymmetric matrix [2, 20], groups of 16, named "w".
struct RawMatrix {
  std::string version = "1", matrices = "matrices";
  std::string scheme =
      R"({"format":"int4","symmetric":false,"group_size":16,"scale_dtype":"bf16"})";
  std::vector<std::int64_t> shape = {2, 20};
  std::string stats = "{}";
  RawDataset codes{Type::u32, {2, 3}};
  RawDataset scales{Type::u16, {2, 2}, std::vector<std::uint64_t>(64, 0x3f803f803f803f80)};
  RawDataset zeros{Type::u8, {2, 2}};
  std::string encoding = "bf16";
  std::optional<std::string> checksum = {};  ///< nothing: the right one
  std::optional<std::int64_t> count = 1;
  bool matrix_is_dataset = false;

  std::string right_checksum() const {
    Checksum sum("w");
    sum.add("scheme", scheme);
    sum.add("shape", std::as_bytes(std::span(shape)));
    sum.add("stats", stats);
    sum.add("codes", codes.bytes());
    sum.add("scales", scales.bytes());
    sum.add("encoding", encoding);
    if (!zeros.shape.empty()) sum.add("zeros", zeros.bytes());
    return sum.text();
  }
};

void write_dataset(const hdf5::Object& group, const char* name, const RawDataset& raw,
                   const std::string& encoding = {}) {
  if (raw.shape.empty()) return;
  const hdf5::Object dataset =
      hdf5::write_dataset(group, name, raw.type, raw.shape, raw.values.data());
  if (!encoding.empty()) hdf5::write_text(dataset, "encoding", encoding);
}

void write_raw(const std::filesystem::path& path, const RawMatrix& raw) {
  hdf5::Object file = hdf5::create_file(path);
  if (!raw.version.empty()) hdf5::write_text(file, "format_version", raw.version);
  {
    const hdf5::Object matrices = hdf5::create_group(file, raw.matrices);
    if (raw.count) hdf5::write_numbers(matrices, "count", Type::i64, -1, &*raw.count);
    if (raw.matrix_is_dataset) {
      write_dataset(matrices, "w", raw.codes);
    } else {
      const hdf5::Object group = hdf5::create_group(matrices, "w");
      if (!raw.scheme.empty()) hdf5::write_text(group, "scheme", raw.scheme);
      if (!raw.shape.empty())
        hdf5::write_numbers(group, "shape", Type::i64, static_cast<Index>(raw.shape.size()),
                            raw.shape.data());
      if (!raw.stats.empty()) hdf5::write_text(group, "stats", raw.stats);
      write_dataset(group, "codes", raw.codes);
      write_dataset(group, "scales", raw.scales, raw.encoding);
      write_dataset(group, "zeros", raw.zeros);
      const std::string checksum = raw.checksum.value_or(raw.right_checksum());
      if (!checksum.empty()) hdf5::write_text(group, "checksum", checksum);
    }
  }
  file.close();
}

struct Damage {
  const char* title;
  std::function<void(RawMatrix&)> change;
  std::vector<std::string> expected;  ///< beside the file name
};

std::vector<Damage> damages_of_attributes() {
  return {
      {"no version", [](RawMatrix& m) { m.version = ""; }, {"format_version", "missing"}},
      {"other version", [](RawMatrix& m) { m.version = "2"; }, {"format version is '2'"}},
      {"no matrices", [](RawMatrix& m) { m.matrices = "other"; }, {"/matrices", "missing"}},
      {"not a group", [](RawMatrix& m) { m.matrix_is_dataset = true; }, {"/matrices/w"}},
      {"no scheme", [](RawMatrix& m) { m.scheme = ""; }, {"/matrices/w", "'scheme' is missing"}},
      {"bad scheme", [](RawMatrix& m) { m.scheme = "{"; }, {"/matrices/w", "scheme", "JSON"}},
      {"other scheme",
       [](RawMatrix& m) { m.scheme = "{\"a\":1}"; },
       {"w, attribute scheme", "'a'"}},
      {"no shape", [](RawMatrix& m) { m.shape = {}; }, {"w, attribute shape", "missing"}},
      {"three sizes",
       [](RawMatrix& m) {
         m.shape = {2, 20, 1};
       },
       {"[2, 20, 1]", "no matrix shape"}},
      {"negative",
       [](RawMatrix& m) {
         m.shape = {-2, 20};
       },
       {"[-2, 20]", "no matrix shape"}},
      {"no rows",
       [](RawMatrix& m) {
         m.shape = {0, 20};
       },
       {"[0, 20]", "no matrix shape"}},
      {"huge",
       [](RawMatrix& m) {
         m.shape = {2, Index{1} << 62};
       },
       {"no matrix shape"}},
      {"no stats", [](RawMatrix& m) { m.stats = ""; }, {"/matrices/w", "'stats' is missing"}},
      {"bad stats", [](RawMatrix& m) { m.stats = "{]"; }, {"w, attribute stats", "JSON"}},
      {"no count", [](RawMatrix& m) { m.count = std::nullopt; }, {"/matrices, attribute count"}},
      {"a matrix missing", [](RawMatrix& m) { m.count = 2; }, {"/matrices", "1 members, but 2"}},
      {"no checksum", [](RawMatrix& m) { m.checksum = ""; }, {"'checksum'", "older build"}},
      {"wrong checksum",
       [](RawMatrix& m) { m.checksum = "0123456789abcdef"; },
       {"/matrices/w", "'0123456789abcdef' was written", "quantize again"}},
      {"stats is a list", [](RawMatrix& m) { m.stats = "[]"; }, {"attribute stats", "JSON object"}},
  };
}

std::vector<Damage> damages_of_datasets() {
  return {
      {"no codes", [](RawMatrix& m) { m.codes.shape = {}; }, {"/matrices/w/codes", "missing"}},
      {"codes of 64 bits", [](RawMatrix& m) { m.codes.type = Type::i64; }, {"w/codes", "uint32"}},
      {"codes in a line", [](RawMatrix& m) { m.codes.shape = {6}; }, {"w/codes", "[6]", "[2, 3]"}},
      {"a word missing",
       [](RawMatrix& m) {
         m.codes.shape = {2, 2};
       },
       {"w/codes", "[2, 2]"}},
      {"a row too many",
       [](RawMatrix& m) {
         m.codes.shape = {3, 3};
       },
       {"w/codes", "[3, 3]"}},
      {"padding",
       [](RawMatrix& m) { m.codes.values[1] = 0x10000; },
       {"w/codes", "padding of row 0"}},
      {"no scales", [](RawMatrix& m) { m.scales.shape = {}; }, {"w/scales", "missing"}},
      {"float scales", [](RawMatrix& m) { m.scales.type = Type::f32; }, {"w/scales", "bf16"}},
      {"scales of another group",
       [](RawMatrix& m) {
         m.scales.shape = {2, 1};
       },
       {"w/scales", "[2, 1]"}},
      {"no encoding", [](RawMatrix& m) { m.encoding = ""; }, {"w/scales", "encoding"}},
      {"other encoding", [](RawMatrix& m) { m.encoding = "e4m3"; }, {"w/scales", "encoding"}},
      {"infinite",
       [](RawMatrix& m) { m.scales.values[0] = 0x3f803f807f803f80; },
       {"[0, 1] is inf"}},
      {"negative scale",
       [](RawMatrix& m) { m.scales.values[0] = 0xbf803f803f803f80; },
       {"[1, 1] is -1"}},
      {"scale 0", [](RawMatrix& m) { m.scales.values[0] = 0x3f80; }, {"w/scales", "[0, 1] is 0"}},
      {"no zeros", [](RawMatrix& m) { m.zeros.shape = {}; }, {"w/zeros", "missing"}},
      {"wide zeros", [](RawMatrix& m) { m.zeros.type = Type::u16; }, {"w/zeros", "uint8"}},
      {"a zero too large",
       [](RawMatrix& m) { m.zeros.values[0] = 16; },
       {"w/zeros", "16", "4 bits"}},
      {"zeros of a symmetric scheme",
       [](RawMatrix& m) { m.scheme.replace(m.scheme.find("false"), 5, "true"); },
       {"w/zeros", "symmetric"}},
  };
}

void expect_all_fail(const std::vector<Damage>& table) {
  const TemporaryDirectory directory;
  const auto path = directory / "m.h5";
  write_raw(path, {});
  EXPECT_NO_THROW(MatrixReader(path).read("w"));
  for (const Damage& damage : table) {
    SCOPED_TRACE(damage.title);
    RawMatrix raw;
    damage.change(raw);
    write_raw(path, raw);
    std::vector<std::string> expected = damage.expected;
    expected.push_back(path.string());
    expect_damage([&] { MatrixReader(path).read("w"); }, expected);
  }
}

TEST(DamagedMatrixFile, Attributes) {
  expect_all_fail(damages_of_attributes());
}

TEST(DamagedMatrixFile, Datasets) {
  expect_all_fail(damages_of_datasets());
}

/// What the library's own checks of its metadata do not notice, the checksum does.
TEST(DamagedMatrixFile, NoFlippedByteChangesWhatIsRead) {
  const TemporaryDirectory directory;
  const auto path = directory / "m.h5";
  write_raw(path, {});
  const NamedMatrix good = MatrixReader(path).read("w");
  const std::string whole = read_text_file(path);
  std::size_t noticed = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    try {
      const NamedMatrix read = MatrixReader(path).read("w");
      EXPECT_TRUE(read.matrix == good.matrix && read.stats_json == good.stats_json) << at;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input) << error.what();
      EXPECT_EQ(dynamic_cast<const ReadError*>(&error), nullptr) << at << ": " << error.what();
      ++noticed;
    }
  }
  EXPECT_GT(noticed, 500u);
}

TEST(DamagedMatrixFile, UnknownNames) {
  const TemporaryDirectory directory;
  const auto path = directory / "m.h5";
  write_raw(path, {});
  expect_input_error([&] { MatrixReader(path).read("v"); }, {path.string(), "/matrices/v"});
  expect_input_error([&] { MatrixReader(path).describe("w/codes"); }, {path.string(), "no such"});
}

TEST(DamagedMatrixFile, NotHdf5) {
  const TemporaryDirectory directory;
  const auto path = directory / "m.h5";
  expect_input_error([&] { MatrixReader reader(path); }, {path.string(), "No such file"});
  write_text_file(path, "");
  expect_input_error([&] { MatrixReader reader(path); }, {path.string()});
  write_text_file(path, std::string(5000, 'x'));
  expect_input_error([&] { MatrixReader reader(path); }, {path.string(), "signature"});
  expect_input_error([&] { MatrixReader reader(directory.path()); }, {directory.path().string()});
}

TEST(DamagedMatrixFile, CutFilesFail) {
  const TemporaryDirectory directory;
  const auto path = directory / "m.h5";
  write_raw(path, {});
  const std::string whole = read_text_file(path);
  for (std::size_t length = 0; length < whole.size(); length += 301) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << whole.substr(0, length);
    expect_damage([&] { MatrixReader(path).read("w"); }, {path.string()});
  }
}

}  // namespace
}  // namespace aq
