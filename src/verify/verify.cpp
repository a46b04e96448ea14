#include "aq/verify/verify.h"

#include "aq/core/timer.h"
#include "aq/io/file.h"
#include "verify/parts.h"

namespace aq {

namespace fs = std::filesystem;

namespace {

bool has_weights(const fs::path& directory) {
  for (const fs::directory_entry& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") return true;
  return false;
}

}  // namespace

std::string to_string(const Finding& finding) {
  const std::string object = finding.object.empty() ? "" : str("'", finding.object, "': ");
  return str(finding.file, finding.file.empty() ? "" : ": ", object, finding.text);
}

VerifyReport verify(const VerifyOptions& options, Communicator& comm) {
  const Stopwatch watch;
  VerifyReport report;
  const fs::path& directory = options.directory;
  std::error_code error;
  if (!fs::is_directory(directory, error))
    throw Error(ErrorKind::input, "verify", directory.string(),
                error && error != std::errc::no_such_file_or_directory
                    ? error.message()
                    : "there is no such directory");
  // An export may carry a manifest.json of its source.
  const bool is_export =
      file_exists(directory / "aq-dist.json") || file_exists(directory / "aq-dist-manifest.json");
  if (!is_export &&
      (file_exists(directory / "manifest.json") || file_exists(directory / "model.h5")))
    verify_run(options, comm, report);
  else if (is_export || has_weights(directory))
    verify_export(options, comm, report);
  else
    throw Error(ErrorKind::input, "verify", directory.string(),
                "it is neither the directory of a run nor an export",
                "name what `quantize --save` or `export --out` was given");
  report.seconds = watch.seconds();
  return report;
}

}  // namespace aq
