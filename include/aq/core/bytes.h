#pragma once
/// What travels between ranks of one program, as bytes. Not a file format.

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "aq/core/index.h"

namespace aq {

class ByteWriter {
 public:
  template <class T>
  void value(const T& value) {
    values(std::span(&value, 1));
  }
  /// Values whose count the reader knows.
  template <class T>
  void values(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = std::as_bytes(values);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  /// Values with their count before them.
  template <class T>
  void array(const std::vector<T>& array) {
    value(std::ssize(array));
    values(std::span<const T>(array));
  }
  void text(std::string_view text) {
    value(std::ssize(text));
    values(std::span<const char>(text));
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads in the order of the writer; a message that is too short fails a check.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool at_end() const { return bytes_.empty(); }
  template <class T>
  T value() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    copy(&value, sizeof value);
    return value;
  }
  template <class T>
  std::vector<T> values(Index count) {
    return read<std::vector<T>>(count);
  }
  template <class T>
  std::vector<T> array() {
    return values<T>(value<Index>());
  }
  std::string text() { return read<std::string>(value<Index>()); }

 private:
  template <class Values>
  Values read(Index count) {
    constexpr std::size_t kSize = sizeof(typename Values::value_type);
    AQ_CHECK(count >= 0 && static_cast<std::size_t>(count) <= bytes_.size() / kSize, kTooShort);
    Values values;
    values.resize(count);
    copy(values.data(), values.size() * kSize);
    return values;
  }
  void copy(void* to, std::size_t size) {
    AQ_CHECK(size <= bytes_.size(), kTooShort);
    if (size > 0) std::memcpy(to, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
  }

  static constexpr const char* kTooShort = "a message of another rank is too short";
  std::span<const std::byte> bytes_;
};

}  // namespace aq
