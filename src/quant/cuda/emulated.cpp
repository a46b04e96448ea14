/// The emulated device.

#include <cstring>

#include "aq/core/block_array.h"
#include "aq/core/parallel.h"
#include "quant/cuda/accelerator.h"

namespace aq::cuda {
namespace {

class EmulatedAccelerator final : public Accelerator {
 public:
  std::string name() const override { return "emulated GPU"; }
  Index tasks_at_once() const override { return thread_count(); }
  void* take(std::size_t bytes) override { return take_block(bytes); }
  void give(void* memory, std::size_t bytes) noexcept override { give_block(memory, bytes); }
  void* take_shared(const void* from, std::size_t bytes) override {
    return std::memcpy(take_block(bytes), from, bytes);
  }
  void give_shared(void* memory, std::size_t bytes) noexcept override { give_block(memory, bytes); }
  void clear(void* memory, std::size_t bytes) override { std::memset(memory, 0, bytes); }
  void upload(void* to, std::size_t pitch, const void* from, std::size_t from_pitch,
              std::size_t width, Index rows) override {
    for (Index r = 0; r < rows; ++r)
      std::memcpy(static_cast<std::byte*>(to) + static_cast<std::size_t>(r) * pitch,
                  static_cast<const std::byte*>(from) + static_cast<std::size_t>(r) * from_pitch,
                  width);
  }
  void download(void* to, const void* from, std::size_t bytes) override {
    std::memcpy(to, from, bytes);
  }

  void launch(const Kernel& kernel, Grid2 grid) override {
    std::visit([grid](const auto& body) { run(body, grid); }, kernel);
  }

 private:
  template <class Body>
  static void run(const Body& body, Grid2 grid) {
    using Shared = typename Body::Shared;
    parallel_for(grid.x * grid.y, [&](Index i) {
      thread_local std::unique_ptr<Shared> shared = std::make_unique<Shared>();
      body.run(HostBlock(i % grid.x, i / grid.x, Body::kThreads, shared.get()));
    });
  }
};

}  // namespace

Accelerator& emulated_accelerator() {
  static EmulatedAccelerator device;
  return device;
}

}  // namespace aq::cuda
