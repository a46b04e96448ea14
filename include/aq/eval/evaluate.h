#pragma once
/// Perplexity of the original or the quantized model over token windows.

#include <filesystem>
#include <string>
#include <vector>

#include "aq/comm/communicator.h"
#include "aq/core/index.h"

namespace aq {

struct EvaluateOptions {
  std::filesystem::path model;             ///< checkpoint directory
  std::filesystem::path architecture;      ///< JSON file (architecture_json.h); empty: found out
  std::vector<std::string> assume_unused;  ///< keys of config.json (describe_model)
  std::filesystem::path quantized;         ///< run directory; empty: the original weights
  std::filesystem::path tokens;            ///< token file
  Index window = 2048;                     ///< tokens; a row of the file is cut into such windows
  Index max_windows = 0;                   ///< 0: all
  std::filesystem::path trace;             ///< HDF5 file for logits and router choices; empty: none
};

struct EvaluateResult {
  double mean_nll = 0;  ///< nats a prediction; inputs of linears are exact
  double perplexity = 0;
  Index predictions = 0;  ///< the first token of a window is not predicted
  Index windows = 0;
  /// Formats of the inputs of some linears, e.g. "mxfp8 g32"; empty: none has one.
  std::vector<std::string> activation_formats;
  /// The same model with those inputs rounded per token and group, where there are formats.
  double activation_mean_nll = 0, activation_perplexity = 0;
  double seconds = 0;
};

/// Collective; every rank returns the same result, the same bits for any number of ranks.
EvaluateResult evaluate_model(const EvaluateOptions& options, Communicator& comm);

/// Tokens routed to each expert, `[layers][experts]`; empty for a dense layer. Collective.
struct Utilization {
  Index tokens = 0;
  std::vector<std::vector<std::int64_t>> expert_tokens;
};
Utilization expert_utilization(const EvaluateOptions& options, Communicator& comm);

}  // namespace aq
