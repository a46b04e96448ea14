#include "aq/core/block_array.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <mutex>

namespace aq {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPooled = static_cast<std::size_t>(kPooledBlockBytes);
constexpr std::align_val_t kAlignment{64};

std::size_t whole_pages(std::size_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

void* mapped(void* block) {
  if (block == MAP_FAILED) throw std::bad_alloc();
  return block;
}

/// Blocks are pages of their own, so that they can be cut and made longer.
class Pool {
 public:
  void* take(std::size_t bytes) {
    const std::size_t size = whole_pages(bytes);
    const std::lock_guard lock(mutex_);
    used_ += size;
    most_ = std::max(most_, used_);
    try {
      return take_kept(size);
    } catch (...) {
      used_ -= size;
      throw;
    }
  }

  void give(void* block, std::size_t bytes) noexcept {
    const std::size_t size = whole_pages(bytes);
    const std::lock_guard lock(mutex_);
    used_ -= size;
    keep(block, size);
    release_above(most_ - used_);
  }

  void limit(std::size_t most) {
    const std::lock_guard lock(mutex_);
    most_ = std::max(most, used_);
    release_above(most_ - used_);
  }

  BlockBytes bytes() {
    const std::lock_guard lock(mutex_);
    return {static_cast<Index>(used_), static_cast<Index>(kept_bytes_), static_cast<Index>(most_)};
  }

 private:
  struct Kept {
    void* block;
    std::size_t size;
  };
  using Place = std::list<Kept>::iterator;

  /// The shortest kept block that is long enough, cut to size; else the longest one, made longer;
  /// else a new one.
  void* take_kept(std::size_t size) {
    const auto longer = by_size_.lower_bound(size);
    if (longer != by_size_.end()) {
      const auto [block, whole] = forget(longer->second);
      if (whole > size) keep(static_cast<char*>(block) + size, whole - size);
      return block;
    }
    const std::size_t room = most_ - used_;
    if (by_size_.empty() || by_size_.rbegin()->first < size / 2) {
      release_above(room);
      return mapped(
          mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    }
    const auto [block, whole] = forget(by_size_.rbegin()->second);
    release_above(room);
    void* longer_block = mremap(block, whole, size, MREMAP_MAYMOVE);
    if (longer_block == MAP_FAILED) munmap(block, whole);
    return mapped(longer_block);
  }

  /// Without memory for the record, or for a short piece, it goes back to the system.
  void keep(void* block, std::size_t size) noexcept {
    if (size < kPooled) {
      munmap(block, size);
      return;
    }
    try {
      kept_.push_back({block, size});
      by_size_.emplace(size, std::prev(kept_.end()));
      kept_bytes_ += size;
    } catch (const std::bad_alloc&) {
      if (!kept_.empty() && kept_.back().block == block) kept_.pop_back();
      munmap(block, size);
    }
  }

  Kept forget(Place place) {
    const Kept kept = *place;
    const auto [begin, end] = by_size_.equal_range(kept.size);
    by_size_.erase(
        std::find_if(begin, end, [&](const auto& each) { return each.second == place; }));
    kept_.erase(place);
    kept_bytes_ -= kept.size;
    return kept;
  }

  /// Gives the blocks that were kept longest back to the system.
  void release_above(std::size_t most) {
    while (kept_bytes_ > most) {
      const auto [block, size] = forget(kept_.begin());
      munmap(block, size);
    }
  }

  std::mutex mutex_;
  std::size_t used_ = 0, kept_bytes_ = 0;
  std::size_t most_ = 0;  ///< of both: what was in use at once, or the limit
  std::list<Kept> kept_;  ///< the one that was given back first is first
  std::multimap<std::size_t, Place> by_size_;
};

/// Never destroyed: arrays may outlive any static object.
Pool& pool() {
  static Pool& one = *new Pool;
  return one;
}

bool is_pooled([[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  return false;  // it watches over the heap alone
#else
  return bytes >= kPooled;
#endif
}

}  // namespace

void* take_block(std::size_t bytes) {
  void* block = is_pooled(bytes) ? pool().take(bytes) : ::operator new(bytes, kAlignment);
#ifdef _GLIBCXX_ASSERTIONS
  std::memset(block, 0xFF, bytes);  // NaN: whoever counts on zeros notices
#endif
  return block;
}

void give_block(void* block, std::size_t bytes) noexcept {
  if (is_pooled(bytes)) return pool().give(block, bytes);
  ::operator delete(block, kAlignment);
}

void limit_kept_blocks(Index most) {
  pool().limit(static_cast<std::size_t>(std::max<Index>(most, 0)));
}

BlockBytes block_bytes() {
  return pool().bytes();
}

}  // namespace aq
