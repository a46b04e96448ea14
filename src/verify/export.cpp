/// An export against its manifest and the checkpoint.

#include <algorithm>
#include <array>
#include <set>

#include "aq/core/hash.h"
#include "aq/io/compare_ranks.h"
#include "aq/io/file.h"
#include "verify/config.h"
#include "verify/parts.h"
#include "verify/pieces.h"
#include "verify/source.h"

namespace aq {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kConfig = "config.json", kIndex = "model.safetensors.index.json",
                           kManifest = "aq-dist-manifest.json", kRecord = "aq-dist.json",
                           kGptqConfig = "quantize_config.json";

/// The files of a directory that are not hidden, by name.
std::set<std::string> files_below(const fs::path& directory) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    const fs::path path = entry.path().lexically_relative(directory);
    const bool hidden =
        std::ranges::any_of(path, [](const fs::path& part) { return part.string()[0] == '.'; });
    if (entry.is_regular_file() && !hidden) names.insert(path.string());
  }
  return names;
}

/// What a checkpoint directory holds beside its weights and their descriptions, by name.
std::set<std::string> companions_of(const fs::path& directory) {
  constexpr std::array<std::string_view, 10> kWeights{".safetensors", ".safetensors.index.json",
                                                      ".bin",         ".bin.index.json",
                                                      ".pt",          ".pth",
                                                      ".gguf",        ".onnx",
                                                      ".h5",          ".msgpack"};
  std::set<std::string> names = files_below(directory);
  std::erase_if(names, [&](const std::string& name) {
    const bool described =
        name == kConfig || name == kGptqConfig || name == kRecord || name == kManifest;
    return described ||
           std::ranges::any_of(kWeights, [&](std::string_view end) { return name.ends_with(end); });
  });
  return names;
}

class ExportCheck {
 public:
  ExportCheck(const VerifyOptions& options, Communicator& comm, VerifyReport& report)
      : directory_(options.directory),
        collector_(comm),
        report_(report),
        manifest_(read_export_manifest(directory_)),
        source_(open_source(options.source, manifest_.source, directory_, "verify")),
        files_(directory_) {
    compare_ranks({{"fingerprint of the checkpoint", source_.checkpoint.fingerprint()},
                   {"manifest of the export",
                    hash_text(xxh64(text_of(directory_ / kManifest).value_or("")))}},
                  comm);
  }

  void check() {
    report_.what = manifest_.trusted ? manifest_.format : "export";
    if (manifest_.trusted)
      pieces_ = expected_pieces(source_, manifest_.matrices, manifest_.format);
    else
      find(file_exists(directory_ / kManifest) ? "unreadable" : "missing", kManifest, "",
           manifest_.problem + "; only what needs no manifest was checked");
    for (const ExpectedPiece& piece : pieces_)
      for (const TensorEntry& entry : piece.tensors) expected_[entry.name] = entry.bytes();
    check_files();
    check_places();
    PieceCheck check_piece(manifest_, source_, files_, collector_);
    for (const ExpectedPiece& piece : pieces_)
      collector_.item(check_piece.file_of(piece.tensors.front().name), piece.tensors.front().name,
                      [&] { check_piece(piece); });
    collector_.gather(report_);
    if (manifest_.trusted && report_.findings.empty() &&
        manifest_.checkpoint != source_.checkpoint.fingerprint()) {
      find("source", kCheckpoint, "",
           "config.json, or names, shapes or places of tensors, are not those of the export's "
           "source");
      collector_.gather(report_);
    }
  }

 private:
  void find(std::string_view kind, std::string_view file, std::string_view object,
            std::string_view text) {
    collector_.item(file, object, [&] { collector_.find(kind, file, object, text); });
  }

  /// Whether the manifest knows the file and its bytes are others.
  bool is_changed(const std::string& name) const {
    const auto found = manifest_.files.find(name);
    return found != manifest_.files.end() && file_checksum(directory_ / name) != found->second;
  }

  // ---- texts and other files

  void check_files() {
    const fs::path& source = source_.checkpoint.directory();
    std::set<std::string> names = companions_of(source);
    const std::set<std::string> carried = names;
    for (const auto& [name, sum] : manifest_.files) names.insert(name);
    names.insert(std::string(kConfig));
    if (files_.count() > 1) names.insert(std::string(kIndex));
    if (manifest_.trusted)
      for (const std::string& name : files_below(directory_))
        if (!name.ends_with(".safetensors") && name != kManifest) names.insert(name);
    for (const std::string& name : names)
      collector_.item(name, "", [&] {
        const bool unknown = manifest_.trusted && !manifest_.files.contains(name);
        if (!file_exists(directory_ / name)) {
          if (unknown && carried.contains(name)) return;  // the source got it later
          return collector_.find("missing", name, "", "it is not there");
        }
        if (unknown) return collector_.find("extra", name, "", "the export did not write it");
        check_file(name, carried.contains(name));
      });
  }

  void check_file(const std::string& name, bool carried) {
    std::vector<TextProblem> problems;
    const std::string text = text_of(directory_ / name).value_or("");
    if (name == kIndex) problems = index_problems(text, files_, expected_);
    if (name == kConfig && manifest_.trusted) problems = problems_of_config(text);
    if (name == kGptqConfig && manifest_.trusted) problems = problems_of_gptq_config(text);
    const std::string kind = name == kIndex ? "index" : "config";
    for (const TextProblem& problem : problems)
      collector_.find(kind, name, problem.object, problem.text);
    if (!problems.empty()) return;
    const bool known = manifest_.files.contains(name), changed = is_changed(name);
    const bool differs =
        carried && !same_files(directory_ / name, source_.checkpoint.directory() / name);
    if (changed)
      collector_.find(carried           ? "untouched"
                      : name == kRecord ? "checksum"
                                        : kind,
                      name, "", "it is not what the export wrote (checksum)");
    else if (differs)
      collector_.find("untouched", name, "",
                      known ? "it is not the source's file, which was changed since the export"
                            : "it is not the source's file");
  }

  std::vector<TextProblem> problems_of_config(const std::string& text) const {
    const bool own_head =
        source_.model.tied_head && manifest_.matrices.contains(source_.model.head.name);
    return config_problems({text, source_.checkpoint.config_json(), source_.text_key,
                            manifest_.format, manifest_.matrices, modules_left(), own_head});
  }

  /// It says what config.json says, unless that was changed itself.
  std::vector<TextProblem> problems_of_gptq_config(const std::string& text) const {
    if (is_changed(std::string(kConfig))) return {};
    const Json config = Json::parse(text_of(directory_ / kConfig).value_or(""), nullptr, false);
    const Json same = Json::parse(text, nullptr, false);
    if (!config.is_object() || config.value("quantization_config", Json()) == same) return {};
    return {{"", "it is not the quantization_config of config.json"}};
  }

  /// Modules with a matrix that are not quantized, embeddings excepted.
  std::vector<std::string> modules_left() const {
    std::set<std::string> left;
    for (const LinearSpec* linear : all_linears(source_.model)) left.insert(linear->name);
    for (const auto& [name, places] : files_.places()) {
      constexpr std::string_view kWeight = ".weight";
      if (name.ends_with(kWeight) && places.front().tensor.shape.size() == 2)
        left.insert(name.substr(0, name.size() - kWeight.size()));
    }
    for (const auto& [name, matrix] : manifest_.matrices) left.erase(name);
    const std::string embedding = source_.model.embedding;
    left.erase(embedding.substr(0, embedding.rfind('.')));
    return {left.begin(), left.end()};
  }

  // ---- where tensors are

  void check_places() {
    for (const auto& [file, reason] : files_.damaged()) find("unreadable", file, "", reason);
    for (const auto& [file, tensors] : manifest_.shards)
      if (!files_.is_readable(file) && !files_.damaged().contains(file))
        find("missing", file, "", str("it is not there, and with it ", tensors, " tensors"));
    for (const auto& [name, places] : files_.places()) {
      const std::string& file = places.front().file;
      if (places.size() > 1) find("twice", file, name, str("it is in ", places[1].file, " too"));
      if (manifest_.trusted && !expected_.contains(name))
        find("extra", file, name,
             source_.checkpoint.has(name) ? "the source's tensor should have been replaced"
                                          : "nothing that was exported has such a tensor");
    }
  }

  fs::path directory_;
  Collector collector_;
  VerifyReport& report_;
  ExportManifest manifest_;
  ModelFiles source_;
  WeightFiles files_;
  std::vector<ExpectedPiece> pieces_;
  std::map<std::string, Index> expected_;  // bytes of each tensor
};

}  // namespace

void verify_export(const VerifyOptions& options, Communicator& comm, VerifyReport& report) {
  ExportCheck(options, comm, report).check();
}

}  // namespace aq
