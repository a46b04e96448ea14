/// The input is a token file.

#include <algorithm>

#include "aq/io/token_probe.h"
#include "aq/io/tokens.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  static const fuzz::ScratchDirectory directory;
  const auto path = directory.write("tokens.h5", fuzz::text_of(data, size));
  fuzz::expect_error_or_success([&] {
    probe_token_file(path);  // a crash of the library is a refusal
    TokenFile::is_one(path);
    const TokenFile file = TokenFile::open(path);
    const Index rows = std::min<Index>(file.sequences, 100), length = 100;
    fuzz::expect_error_or_success([&] { file.read(0, rows, length, 1000); });
    file.fingerprint(rows, length);
  });
  return 0;
}
