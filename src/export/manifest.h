#pragma once
/// aq-dist-manifest.json: what an export wrote, so that it can be verified without the run.

#include <string>
#include <vector>

#include "export/layout.h"

namespace aq {

inline constexpr std::string_view kExportManifest = "aq-dist-manifest.json";

/// A safetensors file of the export.
struct WrittenShard {
  std::string name;
  std::vector<std::pair<std::string, std::string>> checksums;  ///< SafetensorsWriter::close
};

/// The format, and where the run says that its checkpoint was.
struct ExportOrigin {
  std::string_view format;
  std::string directory, architecture, assume_unused;
};

/// The text of the manifest: the checkpoint, scheme and logged distance from the source
/// (`weight_error` of the run) of every matrix, a checksum of every tensor, of every other file
/// that lies below `directory`, and of the text itself. No time, host or rank: equal exports have
/// equal manifests.
std::string export_manifest(const ExportOrigin& origin, const ExportSource& source,
                            const std::vector<StoredMatrix>& matrices,
                            const std::vector<WrittenShard>& shards,
                            const std::filesystem::path& directory);

}  // namespace aq
