#include "aq/export/export.h"

#include <algorithm>
#include <numeric>

#include "aq/comm/common_error.h"
#include "aq/core/bytes.h"
#include "aq/core/log.h"
#include "aq/core/text.h"
#include "aq/core/timer.h"
#include "aq/io/compare_ranks.h"
#include "aq/io/file.h"
#include "aq/io/quantized_run.h"
#include "aq/io/run_directory.h"
#include "export/directory.h"
#include "export/layout.h"
#include "export/manifest.h"

namespace aq {
namespace {

constexpr const char* kOperation = "export";

Manifest manifest_of(const std::filesystem::path& run) {
  if (auto manifest = read_manifest({run})) return std::move(*manifest);
  throw Error(ErrorKind::input, kOperation, run.string(), "it is not the directory of a run",
              "name what quantize --save was given");
}

void check_source(const ExportOptions& options, const ModelFiles& files,
                  const MatrixReader& matrices) {
  const std::string then = matrices.attribute("model"), now = files.checkpoint.fingerprint();
  if (then != now)
    throw Error(ErrorKind::input, kOperation, files.checkpoint.directory().string(),
                str("the run in ", options.run.string(), " was made from another checkpoint (",
                    then, ", this is ", now, ")"));
}

/// Throws for what the format cannot hold, naming the first matrices.
void check_matrices(const Model& model, const std::vector<StoredMatrix>& matrices,
                    const ServedFormat& format) {
  constexpr std::size_t kShown = 3;
  if (!suits(format, model))
    throw CommonError(ErrorKind::usage, kOperation, format.name,
                      str("it is for gpt-oss with experts in one tensor, but this model is ",
                          model.architecture, model.fused ? "" : " with a tensor for each expert"),
                      "--format compressed-tensors holds most matrices, bf16 all of them");
  const std::vector<std::string> reasons = misfits(format, model, matrices);
  if (reasons.empty()) return;
  std::string text = str(reasons.size(), " matrices do not fit: ");
  for (std::size_t i = 0; i < std::min(reasons.size(), kShown); ++i)
    text += (i == 0 ? "" : "; ") + reasons[i];
  throw CommonError(ErrorKind::usage, kOperation, format.name, text, format.remedy);
}

/// First piece of each shard, and the end of the last.
std::vector<Index> cut_shards(const std::vector<ExportPiece>& pieces, Index shard_bytes) {
  std::vector<Index> begins{0};
  Index bytes = 0;
  for (Index i = 0; i < std::ssize(pieces); ++i) {
    const Index more = pieces[i].bytes();
    if (bytes > 0 && bytes + more > shard_bytes) {
      begins.push_back(i);
      bytes = 0;
    }
    bytes += more;
  }
  begins.push_back(std::ssize(pieces));
  return begins;
}

std::string shard_name(Index shard, Index count) {
  if (count == 1) return "model.safetensors";
  const auto digits = [](Index number) {
    const std::string text = str(number);
    return std::string(text.size() < 5 ? 5 - text.size() : 0, '0') + text;
  };
  return str("model-", digits(shard + 1), "-of-", digits(count), ".safetensors");
}

/// Names and checksums of its tensors.
std::vector<std::pair<std::string, std::string>> write_shard(const std::filesystem::path& path,
                                                             std::span<const ExportPiece> pieces) {
  std::vector<TensorEntry> entries;
  for (const ExportPiece& piece : pieces)
    entries.insert(entries.end(), piece.entries.begin(), piece.entries.end());
  SafetensorsWriter writer(path, entries);
  for (const ExportPiece& piece : pieces) piece.write(writer);
  return writer.close();
}

/// config.json with what was quantized in place of what the source says of itself.
OrderedJson configuration(const ExportSource& source, const ServedFormat& format,
                          const std::vector<StoredMatrix>& matrices) {
  const ModelFiles& files = source.files;
  const std::string path = files.checkpoint.config_path().string();
  auto config = parse_json<OrderedJson>(
      files.checkpoint.config_json(), {.operation = kOperation, .file = path}, JsonDialect::python);
  std::vector<OrderedJson*> parts{&config};
  if (!files.text_key.empty())  // "thinker_config.text_config"
    parts.push_back(
        &config.at(OrderedJson::json_pointer("/" + replace_all(files.text_key, ".", "/"))));
  for (OrderedJson* part : parts) {
    part->erase("quantization_config");
    if (files.model.tied_head && source.matrices.has(files.model.head.name))
      (*part)["tie_word_embeddings"] = false;
  }
  if (!format.plain && !matrices.empty())
    config["quantization_config"] = format.configuration(matrices, modules_left(source));
  return config;
}

/// Numbers that only Python's JSON knows were read as texts (JsonDialect::python).
std::string config_text(const OrderedJson& config) {
  std::string text = config.dump(2) + "\n";
  for (const std::string_view number : {"NaN", "Infinity", "-Infinity"})
    for (std::size_t at = 0; (at = text.find(str('"', number, '"'), at)) != std::string::npos;)
      text.replace(at, number.size() + 2, number);
  return text;
}

/// An export in work on one rank.
class Export {
 public:
  Export(const ExportOptions& options, Communicator& comm)
      : options_(options),
        comm_(comm),
        format_(served_format(options.format)),
        manifest_(manifest_of(options.run)),
        files_(open_source({options.model, options.architecture, options.assume_unused},
                           recorded_source(manifest_), options.run, kOperation)),
        matrices_(open_quantized(options.run, files_, kOperation)),
        directory_(options.out) {
    compare_ranks({{"run", options.run.string()},
                   {"fingerprint of the checkpoint", files_.checkpoint.fingerprint()},
                   {"record of the export", record()}},
                  comm);
    check_source(options, files_, matrices_);
    stored_ = stored_matrices(source_);
    check_matrices(files_.model, stored_, format_);
    config_ = configuration(source_, format_, stored_);
    pieces_ = export_pieces(source_, stored_, format_);
    shards_ = cut_shards(pieces_, options.shard_bytes);
  }

  ExportSummary run() {
    const Stopwatch watch;
    ExportSummary summary = counted();
    if (comm_.is_first()) {
      summary.was_there = directory_.is_complete(record());
      if (!summary.was_there) {
        directory_.begin();
        check_free_space(directory_.partial(), summary.bytes);
      }
    }
    std::int64_t was_there = summary.was_there ? 1 : 0;
    comm_.broadcast(std::as_writable_bytes(std::span(&was_there, 1)), 0);
    summary.was_there = was_there != 0;
    if (summary.was_there) return summary;
    const std::vector<WrittenShard> written = write_shards(summary.shards);
    if (comm_.is_first()) {
      write_texts(summary);
      for (const std::string& name :
           copy_companions(files_.checkpoint.directory(), directory_.partial()))
        summary.remarks.push_back(str(name, " of the source was not carried over"));
      directory_.write_record(record());
      write_text_file(directory_.partial() / kExportManifest,
                      export_manifest({format_.name, field_of(manifest_.configuration, "model"),
                                       field_of(manifest_.configuration, "architecture"),
                                       field_of(manifest_.configuration, "assume_unused")},
                                      source_, stored_, written, directory_.partial()));
      directory_.finish();
    }
    comm_.barrier();
    summary.seconds = watch.seconds();
    return summary;
  }

 private:
  /// What was exported from what, for people and for is_complete().
  std::string record() const {
    OrderedJson fingerprint;
    for (const auto& [key, value] : manifest_.fingerprint) fingerprint[key] = value;
    return OrderedJson{{"program", str("aq-dist ", AQ_VERSION)},
                       {"format", format_.name},
                       {"shard_bytes", options_.shard_bytes},
                       {"run", std::move(fingerprint)}}
               .dump(2) +
           "\n";
  }

  /// Each rank writes its shards; every one gets the checksums of all. Collective.
  std::vector<WrittenShard> write_shards(Index count) const {
    ByteWriter mine;
    for (Index shard = comm_.rank(); shard < count; shard += comm_.size()) {
      const std::string file = shard_name(shard, count);
      log_debug(str("export: ", file));
      const auto checksums = write_shard(directory_.partial() / file, pieces_of(shard));
      mine.value(std::ssize(checksums));
      for (const auto& [name, checksum] : checksums) {
        mine.text(name);
        mine.text(checksum);
      }
    }
    const std::vector<std::vector<std::byte>> bytes = comm_.all_gather(mine.take());
    std::vector<ByteReader> ranks(bytes.begin(), bytes.end());
    std::vector<WrittenShard> shards;
    for (Index shard = 0; shard < count; ++shard) {
      ByteReader& rank = ranks[shard % comm_.size()];
      shards.push_back({shard_name(shard, count), {}});
      for (Index left = rank.value<Index>(); left > 0; --left) {
        std::string name = rank.text();
        shards.back().checksums.emplace_back(std::move(name), rank.text());
      }
    }
    return shards;
  }

  std::span<const ExportPiece> pieces_of(Index shard) const {
    return std::span(pieces_).subspan(shards_[shard], shards_[shard + 1] - shards_[shard]);
  }

  ExportSummary counted() const {
    ExportSummary summary;
    summary.matrices = std::ssize(stored_);
    summary.shards = std::ssize(shards_) - 1;
    for (const ExportPiece& piece : pieces_) {
      summary.tensors += std::ssize(piece.entries);
      summary.bytes += piece.bytes();
    }
    const bool inputs = std::ranges::any_of(stored_, [](const StoredMatrix& matrix) {
      return matrix.activation && matrix.activation->is_nvfp4();
    });
    if (inputs && !format_.plain)
      summary.remarks.push_back(
          "nvfp4 activations need a global scale from calibration: the inputs are not rounded");
    if (manifest_.files != files_.checkpoint.file_states())
      summary.remarks.push_back(
          "files of the checkpoint were copied or written to since the run read them");
    if (files_.model.fused && !format_.plain && !format_.fused)
      summary.remarks.push_back(
          "the experts, which the source has in one tensor, are a tensor for each linear of each "
          "expert; where a server wants one tensor (gpt-oss), --format gpt-oss or bf16 keeps it");
    return summary;
  }

  /// The index and the configurations.
  void write_texts(const ExportSummary& summary) const {
    const std::filesystem::path& to = directory_.partial();
    write_text_file(to / "config.json", config_text(config_));
    if (!format_.configuration_file.empty() && config_.contains("quantization_config"))
      write_text_file(to / format_.configuration_file,
                      config_.at("quantization_config").dump(2) + "\n");
    if (summary.shards == 1) return;
    Json map;  // sorted by name
    for (Index shard = 0; shard < summary.shards; ++shard)
      for (const ExportPiece& piece : pieces_of(shard))
        for (const TensorEntry& entry : piece.entries)
          map[entry.name] = shard_name(shard, summary.shards);
    const Json index{{"metadata", {{"total_size", summary.bytes}}}, {"weight_map", std::move(map)}};
    write_text_file(to / "model.safetensors.index.json", index.dump(2) + "\n");
  }

  const ExportOptions& options_;
  Communicator& comm_;
  const ServedFormat& format_;
  Manifest manifest_;
  ModelFiles files_;
  MatrixReader matrices_;
  ExportSource source_{files_, matrices_};
  ExportDirectory directory_;
  std::vector<StoredMatrix> stored_;
  OrderedJson config_;
  std::vector<ExportPiece> pieces_;
  std::vector<Index> shards_;
};

}  // namespace

ExportOptions parse_export(std::string_view text) {
  ExportOptions options;
  options.out = text;
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || text.find('/', colon) != std::string_view::npos)
    return options;
  options.out = text.substr(0, colon);
  options.format = served_format(text.substr(colon + 1)).name;
  return options;
}

void check_export(const ExportOptions& options, const Model& model,
                  const Assignments& assignments) {
  const std::vector<StoredMatrix> matrices = stored_matrices(model, assignments);
  const ServedFormat& format = served_format(options.format);
  check_matrices(model, matrices, format);
  if (!matrices.empty()) format.configuration(matrices, {});
  ExportDirectory(options.out).check_free();
}

ExportSummary export_run(const ExportOptions& options, Communicator& comm) {
  return Export(options, comm).run();
}

}  // namespace aq
