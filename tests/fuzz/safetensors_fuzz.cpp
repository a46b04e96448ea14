/// The input is model.safetensors.

#include "aq/io/checkpoint.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  static const fuzz::ScratchDirectory directory;
  directory.write("config.json", "{}");
  directory.write("model.safetensors", fuzz::text_of(data, size));
  fuzz::expect_error_or_success([&] {
    const Checkpoint checkpoint = Checkpoint::open(directory.path());
    checkpoint.fingerprint();
    for (const auto& tensor : checkpoint.tensors())
      fuzz::expect_error_or_success([&] { checkpoint.read(tensor.first, tensor.second.shape); });
    for (const auto& tensor : checkpoint.other_tensors())
      fuzz::expect_error_or_success([&] { checkpoint.read(tensor.first, tensor.second.shape); });
  });
  return 0;
}
