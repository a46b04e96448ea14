/// The input is a file of kept Hessians.

#include "aq/io/hessian_file.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  static const fuzz::ScratchDirectory directory;
  const auto path = directory.write("hessians.h5", fuzz::text_of(data, size));
  fuzz::expect_error_or_success([&] {
    const HessianReader reader(path);
    for (const std::string& name : reader.names()) {
      fuzz::expect_error_or_success([&] { reader.describe(name); });
      fuzz::expect_error_or_success([&] { reader.read(name, 3); });
    }
  });
  return 0;
}
