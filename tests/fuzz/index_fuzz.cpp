/// The input is model.safetensors.index.json, beside two small files.

#include "aq/io/checkpoint.h"
#include "aq/io/safetensors_writer.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  static const fuzz::ScratchDirectory directory;
  static const bool prepared = [] {
    directory.write("config.json", "{}");
    for (const char* name : {"a", "b"})
      write_safetensors(directory.path() / str(name, ".safetensors"),
                        {{name, DType::f32, {1}, std::vector<std::byte>(4)},
                         {"both", DType::u8, {}, std::vector<std::byte>(1)}});
    return true;
  }();
  static_cast<void>(prepared);
  directory.write("model.safetensors.index.json", fuzz::text_of(data, size));
  fuzz::expect_error_or_success([&] { Checkpoint::open(directory.path()).fingerprint(); });
  return 0;
}
