/// The input is manifest.json, and then status.json and failure.json, of a run.

#include "aq/io/run_directory.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace aq;
  static const fuzz::ScratchDirectory directory;
  static const fuzz::ScratchDirectory copy;
  const RunDirectory run{directory.path()};
  directory.write("manifest.json", fuzz::text_of(data, size));
  directory.write("status.json", fuzz::text_of(data, size));
  forget_failure(run);
  fuzz::expect_error_or_success([&] { read_status(run); });
  directory.write("failure.json", fuzz::text_of(data, size));
  fuzz::expect_error_or_success([&] { read_status(run); });
  fuzz::expect_error_or_success([&] { merge_shards(run); });
  fuzz::expect_error_or_success([&] {
    const auto manifest = read_manifest(run);
    write_manifest({copy.path()}, *manifest);
    const auto again = read_manifest({copy.path()});
    AQ_CHECK(first_difference(*manifest, *again).empty(), "the manifest changed");
  });
  return 0;
}
