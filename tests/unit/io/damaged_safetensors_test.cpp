/// Damaged and hostile safetensors files (of weights and of tokens), indexes and directories.
#include <cstring>
#include <fstream>

#include "aq/io/checkpoint.h"
#include "aq/io/file.h"
#include "aq/io/safetensors_writer.h"
#include "aq/io/tokens.h"
#include "expect_error.h"
#include "support/temporary_directory.h"

namespace aq {
namespace {

using test::expect_input_error;
using test::TemporaryDirectory;

void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string length_bytes(std::uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

/// A file with this header and `data` bytes after it.
std::string file_of(const std::string& header, std::size_t data) {
  return length_bytes(header.size()) + header + std::string(data, '\0');
}

struct DamagedFile {
  const char* title;
  std::string bytes;
  std::vector<std::string> expected;  ///< parts of the message beside the file name
};

/// Entry of tensor "w".
std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return str(R"({"w":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets,
             "}}");
}

std::vector<DamagedFile> damaged_headers() {
  const std::string good = tensor("F32", "[2]", "[0,8]");
  return {
      {"empty file", "", {"only 0 bytes"}},
      {"seven bytes", "1234567", {"only 7 bytes"}},
      {"no header", length_bytes(0), {"does not begin with '{'"}},
      {"header longer than the file", length_bytes(1000) + "{}", {"1000", "does not fit"}},
      {"header above the limit", length_bytes(100'000'001) + "{}", {"above the limit"}},
      {"negative header length", length_bytes(~0ULL) + "{}", {"above the limit"}},
      {"Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid 1\n", {"git lfs pull"}},
      {"not JSON", file_of("{nonsense", 0), {"not valid JSON"}},
      {"cut JSON", file_of(good.substr(0, 20), 8), {"not valid JSON"}},
      {"text after the JSON", file_of(good + "x", 8), {"not valid JSON"}},
      {"no UTF-8", file_of("{\"\xff\":1}", 0), {"not valid JSON"}},
      {"array", file_of("[1]", 0), {"does not begin with '{'"}},
      {"deep nesting", file_of("{\"w\":" + std::string(300'000, '['), 0), {"64 levels"}},
      {"data missing", file_of(good, 7), {": w", "outside the file's 7 bytes"}},
      {"data beyond the tensors", file_of(good, 12), {"4 bytes after the last tensor"}},
  };
}

std::vector<DamagedFile> damaged_tensors() {
  const auto one = [](const char* dtype, const char* shape, const char* offsets) {
    return file_of(tensor(dtype, shape, offsets), 8);
  };
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  return {
      {"entry is a number", file_of(R"({"w":1})", 0), {": w", "is 1, not an object"}},
      {"unknown key", file_of(R"({"w":{"x":1}})", 0), {": w", "'x' is not known"}},
      {"no dtype", file_of(R"({"w":{"shape":[],"data_offsets":[0,0]}})", 0), {": w", "dtype"}},
      {"dtype is a number",
       file_of(R"({"w":{"dtype":1,"shape":[],"data_offsets":[0,0]}})", 0),
       {": w", "dtype"}},
      {"no shape", file_of(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4), {": w", "shape"}},
      {"no offsets", file_of(R"({"w":{"dtype":"F32","shape":[1]}})", 4), {": w", "data_offsets"}},
      {"unknown dtype", one("F31", "[2]", "[0,8]"), {": w", "unknown dtype 'F31'"}},
      {"negative size", one("F32", "[-2]", "[0,8]"), {": w", "shape holds -2"}},
      {"fractional size", one("F32", "[2.0]", "[0,8]"), {": w", "shape holds 2.0"}},
      {"text as size", one("F32", "[\"2\"]", "[0,8]"), {": w", "no size"}},
      {"nested size", one("F32", "[[[1]]]", "[0,8]"), {": w", "no size"}},
      {"deeply nested size", one("F32", deep.c_str(), "[0,8]"), {"64 levels"}},
      {"size of 2^63", one("F32", "[9223372036854775808]", "[0,8]"), {": w", "no size"}},
      {"size of 1e30",
       one("F32", "[1000000000000000000000000000000]", "[0,8]"),
       {": w", "no size"}},
      {"shape that overflows",
       one("F32", "[4294967296,4294967296]", "[0,8]"),
       {": w", "no valid size"}},
      {"bits that overflow",
       one("F64", "[2305843009213693952]", "[0,8]"),
       {": w", "no valid size"}},
      {"one offset", one("F32", "[2]", "[0]"), {": w", "two numbers"}},
      {"offsets reversed", one("F32", "[2]", "[8,0]"), {": w", "end before they begin"}},
      {"negative offset", one("F32", "[2]", "[-8,0]"), {": w", "data_offsets holds -8"}},
      {"offset beyond the file", one("F32", "[2]", "[8,16]"), {": w", "outside"}},
      {"shape needs less", one("F32", "[1]", "[0,8]"), {": w", "F32 [1] takes 4 bytes", "hold 8"}},
      {"shape needs more", one("F32", "[3]", "[0,8]"), {": w", "takes 12 bytes"}},
      {"half a byte", one("F4", "[15]", "[0,8]"), {": w", "whole bytes"}},
      {"hole before", one("F16", "[2]", "[4,8]"), {": w", "4 bytes before its data"}},
      {"duplicate tensor", file_of(R"({"w":{},"w":{}})", 0), {"'w' appears twice"}},
      {"duplicate key",
       file_of(R"({"w":{"dtype":"F32","dtype":"F16","shape":[],"data_offsets":[0,4]}})", 4),
       {"'w.dtype' appears twice"}},
      {"overlap",
       file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
               R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
               12),
       {": b", "overlap those of 'a'"}},
      {"metadata is a list", file_of(R"({"__metadata__":[1]})", 0), {"__metadata__"}},
      {"metadata holds a number",
       file_of(R"({"__metadata__":{"a":1}})", 0),
       {"'__metadata__.a' is 1, not a text"}},
  };
}

void expect_all_fail(const std::vector<DamagedFile>& table) {
  for (const DamagedFile& damaged : table) {
    SCOPED_TRACE(damaged.title);
    const TemporaryDirectory directory;
    write_bytes(directory / "config.json", "{}");
    const auto path = directory / "model.safetensors";
    write_bytes(path, damaged.bytes);
    std::vector<std::string> expected = damaged.expected;
    expected.push_back(path.string());
    expect_input_error([&] { Checkpoint::open(directory.path()); }, expected);
    const bool is_known = damaged.bytes.size() > 8 && damaged.bytes[8] == '{';
    if (!is_known) expected = {path.string(), "neither a safetensors nor an HDF5 file"};
    expect_input_error([&] { TokenFile::open(path); }, expected);
  }
}

TEST(DamagedSafetensors, Headers) {
  expect_all_fail(damaged_headers());
}

TEST(DamagedSafetensors, Tensors) {
  expect_all_fail(damaged_tensors());
}

TEST(DamagedSafetensors, EveryShorterFileFails) {
  const TemporaryDirectory directory;
  write_bytes(directory / "config.json", "{}");
  const auto path = directory / "model.safetensors";
  write_safetensors(path, {{"w", DType::f16, {2, 3}, std::vector<std::byte>(12)}});
  const std::string whole = read_text_file(path);
  EXPECT_NO_THROW(Checkpoint::open(directory.path()));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    write_bytes(path, whole.substr(0, length));
    expect_input_error([&] { Checkpoint::open(directory.path()); }, {path.string()});
    expect_input_error([&] { TokenFile::open(path); }, {path.string()});
  }
}

struct DamagedIndex {
  const char* title;
  std::string index;
  std::vector<std::string> expected;
};

TEST(DamagedSafetensors, Indexes) {
  const std::vector<DamagedIndex> table = {
      {"not JSON", "nonsense", {"index.json", "not valid JSON"}},
      {"no map", R"({"metadata":{}})", {"index.json", "weight_map"}},
      {"map is a list", R"({"weight_map":["a.safetensors"]})", {"index.json", "weight_map"}},
      {"empty map", R"({"weight_map":{}})", {"index.json", "weight_map"}},
      {"file is a number", R"({"weight_map":{"w":1}})", {"'w'", "not a text"}},
      {"other directory", R"({"weight_map":{"w":"../a.safetensors"}})", {"'w'", "same directory"}},
      {"absolute path", R"({"weight_map":{"w":"/a.safetensors"}})", {"'w'", "same directory"}},
      {"parent", R"({"weight_map":{"w":".."}})", {"'w'", "same directory"}},
      {"empty name", R"({"weight_map":{"w":""}})", {"'w'", "same directory"}},
      {"missing file",
       R"({"weight_map":{"w":"b.safetensors"}})",
       {"b.safetensors", "'w'", "missing"}},
      {"missing tensor", R"({"weight_map":{"v":"a.safetensors"}})", {"a.safetensors", "'v'"}},
      {"same tensor twice",
       R"({"weight_map":{"w":"a.safetensors","w":"b"}})",
       {"'weight_map.w' appears twice"}},
  };
  for (const DamagedIndex& damaged : table) {
    SCOPED_TRACE(damaged.title);
    const TemporaryDirectory directory;
    write_bytes(directory / "config.json", "{}");
    write_safetensors(directory / "a.safetensors",
                      {{"w", DType::f32, {1}, std::vector<std::byte>(4)}});
    write_bytes(directory / "model.safetensors.index.json", damaged.index);
    expect_input_error([&] { Checkpoint::open(directory.path()); }, damaged.expected);
  }
}

TEST(DamagedSafetensors, Directories) {
  const TemporaryDirectory directory;
  const auto open = [](const std::filesystem::path& path) {
    return [path] { Checkpoint::open(path); };
  };
  expect_input_error(open("allenai/OLMoE-1B-7B-0924"),
                     {"allenai/OLMoE-1B-7B-0924", "huggingface-cli download"});
  expect_input_error(open(directory / "none"),
                     {(directory / "none").string(), "no such directory"});
  expect_input_error(open(directory.path()), {directory.path().string(), "config.json"});
  write_bytes(directory / "config.json", "{}");
  expect_input_error(open(directory / "config.json"), {"not a directory"});
  expect_input_error(open(directory.path()), {"model.safetensors.index.json"});
  std::filesystem::create_directory(directory / "model.safetensors");
  expect_input_error(open(directory.path()), {"model.safetensors", "Is a directory"});
  write_bytes(directory / "config.json", "[1]");
  expect_input_error(open(directory.path()), {"config.json", "not a JSON object"});
  write_bytes(directory / "config.json", R"({"a":{"b":1,"b":2}})");
  expect_input_error(open(directory.path()), {"config.json", "'a.b' appears twice"});
}

}  // namespace
}  // namespace aq
