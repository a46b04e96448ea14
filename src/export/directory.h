#pragma once
/// The directory of an export: complete under its final name, or not there.

#include <filesystem>
#include <string>
#include <vector>

namespace aq {

/// What an earlier export left is removed by begin(); finish() gives the directory its name.
class ExportDirectory {
 public:
  explicit ExportDirectory(std::filesystem::path target);

  /// Where files are written until finish().
  const std::filesystem::path& partial() const { return partial_; }
  /// Whether a complete export with this record is there. Throws Error{usage} when the path is
  /// taken by anything else.
  bool is_complete(const std::string& record) const;
  /// Throws Error{usage} when something else than an export is there.
  void check_free() const;
  /// An empty directory to write to.
  void begin() const;
  /// What is_complete() will look for.
  void write_record(const std::string& record) const;
  /// Gives the directory its name.
  void finish() const;

 private:
  std::filesystem::path target_, partial_;
};

/// Copies what a checkpoint directory holds beside config.json and its weights: tokenizer, chat
/// template, code, licence. Returns the names of what was left: weights in other files and formats,
/// hidden files.
std::vector<std::string> copy_companions(const std::filesystem::path& from,
                                         const std::filesystem::path& to);

}  // namespace aq
