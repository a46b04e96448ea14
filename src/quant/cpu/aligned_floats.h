#pragma once
/// Memory of vectors that a thread keeps from one piece of work to the next.

#include <memory>
#include <new>

#include "aq/core/index.h"

namespace aq {

/// 64-byte aligned floats; what they hold is undefined.
class AlignedFloats {
 public:
  /// At least `size` floats, valid until the next call.
  float* take(Index size) {
    if (size > size_) {
      memory_.reset();
      memory_.reset(static_cast<float*>(
          ::operator new[](static_cast<std::size_t>(size) * sizeof(float), kAlignment)));
      size_ = size;
    }
    return memory_.get();
  }
  /// Gives the memory back when it is larger than `size` floats.
  void release_above(Index size) {
    if (size_ <= size) return;
    memory_.reset();
    size_ = 0;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* memory) const { ::operator delete[](memory, kAlignment); }
  };
  std::unique_ptr<float[], Free> memory_;
  Index size_ = 0;
};

}  // namespace aq
