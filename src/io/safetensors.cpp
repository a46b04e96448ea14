#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "aq/core/json.h"
#include "io/shape_text.h"

namespace aq {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

constexpr const char* kOperation = "read the safetensors header";
constexpr Index kMaximalHeader = 100'000'000;  // bytes, as the reference library

[[noreturn]] void fail(const std::string& object, const std::string& reason,
                       std::string_view hint = {}) {
  throw Error(ErrorKind::input, kOperation, object, reason, hint);
}

/// A size from the header: an integer in [0, 2^63).
Index size_value(const Json& value, const std::string& object, std::string_view key) {
  if (!value.is_number_integer() || value < 0 ||
      (value.is_number_unsigned() && value.get<std::uint64_t>() >> 63 != 0))
    fail(object, str(key, " holds ", value.is_structured() ? value.type_name() : value.dump(),
                     ", which is no size"));
  return value.get<Index>();
}

std::vector<Index> size_list(const Json& tensor, const std::string& object, const char* key) {
  const auto found = tensor.find(key);
  if (found == tensor.end() || !found->is_array()) fail(object, str("it has no list '", key, "'"));
  std::vector<Index> sizes;
  for (const Json& value : *found) sizes.push_back(size_value(value, object, key));
  return sizes;
}

/// Bytes that a tensor of this dtype and shape takes.
Index expected_bytes(const StoredTensor& tensor, const std::string& object) {
  const std::optional<Index> bits = safetensors_element_bits(tensor.dtype);
  if (!bits) fail(object, str("unknown dtype '", tensor.dtype.substr(0, 40), "'"));
  Index elements = 1;
  for (const Index size : tensor.shape) elements = checked_multiply(elements, size, object);
  const Index total = checked_multiply(elements, *bits, object);
  if (total % 8 != 0) fail(object, "its elements do not fill whole bytes");
  return total / 8;
}

StoredTensor parse_tensor(const std::string& name, const Json& entry, const std::string& file,
                          Index data_begin, Index data_bytes) {
  const std::string object = str(file, ": ", name);
  static constexpr std::array<std::string_view, 3> keys{"dtype", "shape", "data_offsets"};
  const JsonValue value{entry, {ErrorKind::input, kOperation, object}};
  value.check_keys(keys);
  StoredTensor tensor;
  tensor.name = name;
  tensor.dtype = value.at("dtype").text();
  tensor.shape = size_list(entry, object, "shape");
  const std::vector<Index> offsets = size_list(entry, object, "data_offsets");
  if (offsets.size() != 2) fail(object, "data_offsets does not hold two numbers");
  if (offsets[0] > offsets[1])
    fail(object, str("data_offsets end before they begin: ", shape_text(offsets)));
  if (offsets[1] > data_bytes)
    fail(object,
         str("data_offsets ", shape_text(offsets), " lie outside the file's ", data_bytes,
             " bytes of data"),
         "is the file complete?");
  tensor.bytes = offsets[1] - offsets[0];
  tensor.offset = data_begin + offsets[0];
  const Index expected = expected_bytes(tensor, object);
  if (tensor.bytes != expected)
    fail(object, str(tensor.dtype, " ", shape_text(tensor.shape), " takes ", expected,
                     " bytes, but data_offsets hold ", tensor.bytes));
  return tensor;
}

void check_metadata(const Json& metadata, const std::string& file) {
  const JsonPlace place{ErrorKind::input, kOperation, file, {}, "__metadata__"};
  if (!metadata.is_object()) JsonValue{metadata, place}.fail_as("an object");
  for (const auto& [key, value] : metadata.items()) JsonValue{value, place.at(key)}.text();
}

/// The data must be covered from its first to its last byte, each byte once.
void check_cover(const std::vector<StoredTensor>& tensors, const std::string& file,
                 Index data_begin, Index file_bytes) {
  Index end = data_begin;
  std::string previous;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.offset < end)
      fail(str(file, ": ", tensor.name), str("its data overlap those of '", previous, "'"));
    if (tensor.offset > end)
      fail(str(file, ": ", tensor.name),
           str(tensor.offset - end, " bytes before its data belong to no tensor"));
    end = tensor.offset + tensor.bytes;
    previous = tensor.name;
  }
  if (end != file_bytes)
    fail(file, str(file_bytes - end, " bytes after the last tensor belong to no tensor"));
}

/// Reads the length and the text of the header.
std::string read_header_text(const PosixFile& file, Index file_bytes) {
  const std::string path = file.path().string();
  if (file_bytes < 8) fail(path, str("it has only ", file_bytes, " bytes"), "is it complete?");
  std::array<char, 8> first{};
  file.read_at(0, std::as_writable_bytes(std::span(first)));
  if (std::string_view(first.data(), 8) == "version ")
    fail(path, "it looks like a Git LFS pointer, not like the data", "run: git lfs pull");
  std::uint64_t length = 0;
  std::memcpy(&length, first.data(), 8);
  if (length > static_cast<std::uint64_t>(kMaximalHeader))
    fail(path, str("a header of ", length, " bytes is above the limit of ", kMaximalHeader),
         "is it a safetensors file?");
  if (static_cast<Index>(length) > file_bytes - 8)
    fail(path,
         str("a header of ", length, " bytes does not fit into a file of ", file_bytes, " bytes"),
         "is it complete?");
  std::string text(length, '\0');
  file.read_at(8, std::as_writable_bytes(std::span(text)));
  if (text.empty() || text.front() != '{') fail(path, "the header does not begin with '{'");
  return text;
}

}  // namespace

std::optional<Index> safetensors_element_bits(std::string_view dtype) {
  static constexpr std::array<std::pair<std::string_view, Index>, 20> table{{
      {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8},    {"U8", 8},
      {"I8", 8},   {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"U16", 16},
      {"I16", 16}, {"F16", 16},    {"BF16", 16},   {"U32", 32},    {"I32", 32},
      {"F32", 32}, {"U64", 64},    {"I64", 64},    {"F64", 64},    {"C64", 64},
  }};
  const auto* row = std::find_if(table.begin(), table.end(),
                                 [&](const auto& entry) { return entry.first == dtype; });
  if (row == table.end()) return std::nullopt;
  return row->second;
}

std::vector<StoredTensor> read_safetensors_header(const PosixFile& file) {
  const std::string path = file.path().string();
  const Index file_bytes = file.size();
  const std::string text = read_header_text(file, file_bytes);
  const Json header = parse_json(text, {ErrorKind::input, kOperation, path});
  const Index data_begin = 8 + static_cast<Index>(text.size());
  std::vector<StoredTensor> tensors;
  for (const auto& entry : header.items()) {
    if (entry.key() == "__metadata__")
      check_metadata(entry.value(), path);
    else
      tensors.push_back(
          parse_tensor(entry.key(), entry.value(), path, data_begin, file_bytes - data_begin));
  }
  const auto place = [](const StoredTensor& t) { return std::pair(t.offset, t.offset + t.bytes); };
  std::stable_sort(tensors.begin(), tensors.end(),
                   [&](const auto& a, const auto& b) { return place(a) < place(b); });
  check_cover(tensors, path, data_begin, file_bytes);
  return tensors;
}

}  // namespace aq
