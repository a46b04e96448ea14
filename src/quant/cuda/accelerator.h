#pragma once
/// A device that runs the kernels of this folder: a GPU, or the emulated one.

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "quant/cuda/coupled_kernels.h"
#include "quant/cuda/factor_kernels.h"
#include "quant/cuda/matrix_kernels.h"
#include "quant/cuda/product.h"
#include "quant/cuda/refine_kernels.h"
#include "quant/cuda/solve_kernels.h"

namespace aq::cuda {

/// All kernels.
using Kernel =
    std::variant<FillLower, FillHessian, FactorDiagonal, FactorPanel, FillUpper,
                 FitGroups<IntegerLevels>, FitGroups<FloatLevels>, SolveBlock<IntegerLevels>,
                 SolveBlock<FloatLevels>, RefineBlock<IntegerLevels>, RefineBlock<FloatLevels>,
                 RefitWide, RefineCoupled<IntegerLevels>, RefineCoupled<FloatLevels>,
                 RefitCoupledWide, OrderColumns, RestoreOrder, FormError, SampleRows<IntegerLevels>,
                 SampleRows<FloatLevels>, AddSquares, FinishRows, MultiplyPairs, SplitTransposed>;

/// Memory and work of one device. Everything happens in the order of the calls. Throws
/// std::bad_alloc, and Error{internal} where the device fails.
class Accelerator {
 public:
  virtual ~Accelerator() = default;
  virtual std::string name() const = 0;
  virtual Index tasks_at_once() const = 0;  ///< see Solver
  virtual void* take(std::size_t bytes) = 0;
  virtual void give(void* memory, std::size_t bytes) noexcept = 0;
  /// Memory that the CPU reaches too, with a copy of what lies in `from`; complete when it returns.
  virtual void* take_shared(const void* from, std::size_t bytes) = 0;
  virtual void give_shared(void* memory, std::size_t bytes) noexcept = 0;
  virtual void clear(void* memory, std::size_t bytes) = 0;
  /// `rows` times `width` bytes to rows that are `pitch` bytes apart. The source may be changed
  /// afterwards.
  virtual void upload(void* to, std::size_t pitch, const void* from, std::size_t from_pitch,
                      std::size_t width, Index rows) = 0;
  /// Waits for all work.
  virtual void download(void* to, const void* from, std::size_t bytes) = 0;
  virtual void launch(const Kernel& kernel, Grid2 grid) = 0;

  void multiply(const Product& product) {
    launch(MultiplyPairs{product}, {MultiplyPairs::tiles(product), product.batch});
  }
};

/// Host memory; bodies of kernels run block by block on the threads of aq::parallel_for.
Accelerator& emulated_accelerator();

/// An array in the memory of a device; elements are undefined at first.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(Accelerator& device, Index size) : device_(&device), size_(size) {
    if (size > 0) data_ = static_cast<T*>(device.take(bytes()));
  }
  DeviceArray(Accelerator& device, std::span<const T> values)
      : DeviceArray(device, std::ssize(values)) {
    if (size_ > 0) device.upload(data_, bytes(), values.data(), bytes(), bytes(), 1);
  }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(shared_, other.shared_);
    return *this;
  }
  ~DeviceArray() { release(); }

  T* data() const { return data_; }
  Index size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }
  void clear() { device_->clear(data_, bytes()); }
  /// Moves it to memory that the CPU reaches too.
  void share() {
    if (shared_) return;
    T* moved = static_cast<T*>(device_->take_shared(data_, bytes()));
    release();
    data_ = moved;
    shared_ = true;
  }
  std::vector<T> download() const {
    std::vector<T> values(static_cast<std::size_t>(size_));
    device_->download(values.data(), data_, bytes());
    return values;
  }

 private:
  void release() {
    if (data_ == nullptr) return;
    if (shared_)
      device_->give_shared(data_, bytes());
    else
      device_->give(data_, bytes());
  }

  Accelerator* device_ = nullptr;
  T* data_ = nullptr;
  Index size_ = 0;
  bool shared_ = false;
};

/// Pairs: all high parts, then all low ones.
class DevicePairs {
 public:
  DevicePairs() = default;
  DevicePairs(Accelerator& device, Index size) : parts_(device, 2 * size) {}
  PairArray view() const {
    return parts_.empty() ? PairArray{}
                          : PairArray{parts_.data(), parts_.data() + parts_.size() / 2};
  }
  DeviceArray<std::uint16_t>& parts() { return parts_; }
  const DeviceArray<std::uint16_t>& parts() const { return parts_; }

 private:
  DeviceArray<std::uint16_t> parts_;
};

/// A table of where the arrays of each task of a batch begin, `step` elements apart; empty where
/// there is no array.
inline DeviceArray<PairArray> table_of(Accelerator& device, PairArray first, Index step,
                                       Index batch) {
  std::vector<PairArray> table;
  for (Index i = 0; i < batch && first.high != nullptr; ++i)
    table.push_back({first.high + i * step, first.low == nullptr ? nullptr : first.low + i * step});
  return {device, std::span<const PairArray>(table)};
}
inline DeviceArray<float*> table_of(Accelerator& device, float* first, Index step, Index batch) {
  std::vector<float*> table;
  for (Index i = 0; i < batch && first != nullptr; ++i) table.push_back(first + i * step);
  return {device, std::span<float* const>(table)};
}

}  // namespace aq::cuda
