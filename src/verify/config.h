#pragma once
/// config.json of an export: what a server will make of each module.

#include "verify/export_files.h"

namespace aq {

struct ConfigToCheck {
  const std::string& text;    ///< of the export's config.json
  const std::string& source;  ///< of the source's
  std::string text_key = {};  ///< of a text model inside a larger one ("a.b"); or empty
  const std::string& format;
  const PlannedMatrices& planned;
  std::vector<std::string> left;  ///< modules with a matrix that are not quantized
  bool own_head = false;          ///< a tied head has become a tensor of its own
};

/// The configuration is the source's but for what was quantized, and its patterns match exactly
/// that, with the numbers of each matrix.
std::vector<TextProblem> config_problems(const ConfigToCheck& check);

/// Python's re.match for the expressions that checkpoints use.
class MatchFromBegin {
 public:
  explicit MatchFromBegin(const std::string& expression);
  ~MatchFromBegin();
  MatchFromBegin(const MatchFromBegin&) = delete;
  MatchFromBegin& operator=(const MatchFromBegin&) = delete;
  MatchFromBegin(MatchFromBegin&&) noexcept;
  bool valid() const { return compiled_ != nullptr; }
  bool operator()(const std::string& text) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace aq
