#pragma once
/// Bytes that know where they lie.

#include <cstddef>
#include <span>
#include <type_traits>

namespace aq {

/// A processor and its memory.
struct Device {
  enum class Kind { cpu, cuda };
  Kind kind = Kind::cpu;
  int number = 0;  ///< among those of its kind
  bool operator==(const Device&) const = default;
};

/// Bytes at a place; whoever made it owns them.
template <class Byte>
struct BasicBuffer {
  std::span<Byte> bytes;
  Device device = {};
  bool empty() const { return bytes.empty(); }
};
using Buffer = BasicBuffer<std::byte>;
using ConstBuffer = BasicBuffer<const std::byte>;

/// The bytes of values in the memory of the CPU.
template <class T>
auto host_buffer(std::span<T> values) {
  if constexpr (std::is_const_v<T>)
    return ConstBuffer{std::as_bytes(values)};
  else
    return Buffer{std::as_writable_bytes(values)};
}

}  // namespace aq
