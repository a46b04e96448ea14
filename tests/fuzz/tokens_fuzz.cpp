/// The input is a safetensors file of tokens. HDF5 files of tokens are trusted.

#include <algorithm>

#include "aq/io/tokens.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  static const fuzz::ScratchDirectory directory;
  const std::string_view text = fuzz::text_of(data, size);
  if (text.starts_with("\x89HDF")) return 0;
  const auto path = directory.write("tokens.safetensors", text);
  fuzz::expect_error_or_success([&] {
    TokenFile::is_one(path);
    const TokenFile file = TokenFile::open(path);
    const Index rows = std::min<Index>(file.sequences, 100), length = 100;
    fuzz::expect_error_or_success([&] { file.read(0, rows, length, 1000); });
    file.fingerprint(rows, length);
  });
  return 0;
}
