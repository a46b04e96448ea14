#pragma once
/// Arrays whose large blocks are used again: what the kernel maps afresh it clears page by
/// page, which took a quarter of a run.

#include <cstddef>
#include <new>
#include <utility>
#include <vector>

#include "aq/core/index.h"

namespace aq {

/// Blocks from this size on are kept for later; smaller ones are the heap's.
inline constexpr Index kPooledBlockBytes = Index{1} << 17;

/// 64-byte aligned memory; what it holds is undefined. A block that is given back is kept while
/// the blocks in use and the kept ones together are no more than the limit or than were once in
/// use: so kept blocks never raise a peak above the limit. Any thread may call these. Throws
/// std::bad_alloc.
void* take_block(std::size_t bytes);
/// @param bytes  as they were asked for
void give_block(void* block, std::size_t bytes) noexcept;

/// From now on blocks are kept while all of them together are at most `most` bytes, or what is in
/// use from now on where that is more; others go back to the system.
void limit_kept_blocks(Index most);

/// Bytes of blocks, for tests and for those who look for memory.
struct BlockBytes {
  Index used = 0, kept = 0;
  Index most = 0;  ///< that both may be together
};
BlockBytes block_bytes();

/// Of take_block. Elements that are made without a value are not written.
template <class T>
struct BlockAllocator {
  using value_type = T;

  BlockAllocator() = default;
  template <class U>
  BlockAllocator(const BlockAllocator<U>&) {}  // NOLINT(google-explicit-constructor)

  T* allocate(std::size_t count) {
    if (count > static_cast<std::size_t>(-1) / sizeof(T)) throw std::bad_array_new_length();
    return static_cast<T*>(take_block(count * sizeof(T)));
  }
  void deallocate(T* block, std::size_t count) noexcept { give_block(block, count * sizeof(T)); }
  template <class U>
  void construct(U* element) {
    ::new (static_cast<void*>(element)) U;
  }
  template <class U, class... Values>
  void construct(U* element, Values&&... values) {
    ::new (static_cast<void*>(element)) U(std::forward<Values>(values)...);
  }
  bool operator==(const BlockAllocator&) const { return true; }
};

/// (n) and resize(n) leave new elements undefined; assign(n, 0) clears.
using FloatArray = std::vector<float, BlockAllocator<float>>;
using ByteArray = std::vector<std::byte, BlockAllocator<std::byte>>;

}  // namespace aq
