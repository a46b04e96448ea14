#pragma once
/// Perplexity of the original or the quantized model over token windows, and how far the two are
/// from each other.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "aq/comm/communicator.h"
#include "aq/core/index.h"
#include "aq/eval/estimate.h"

namespace aq {

/// What the scored model is compared with, token by token.
enum class Against {
  automatic,   ///< the original of a run, where one more set of hidden states fits into memory
  original,    ///< the checkpoint that a run is laid over
  nothing,     ///< it is scored alone
  checkpoint,  ///< another checkpoint with the same vocabulary
};

struct EvaluateOptions {
  std::filesystem::path model;             ///< checkpoint directory
  std::filesystem::path architecture;      ///< JSON file (architecture_json.h); empty: found out
  std::vector<std::string> assume_unused;  ///< keys of config.json (describe_model)
  std::filesystem::path quantized;         ///< run directory; empty: the weights of `model`
  std::filesystem::path tokens;            ///< token file
  Index window = 2048;                     ///< tokens; a row of the file is cut into such windows
  Index max_windows = 0;                   ///< 0: all
  Index rows = 0;  ///< above 0: only so many rows of the file, of each its first window
  std::filesystem::path trace;  ///< HDF5 file for logits and router choices; empty: none
  Against against = Against::automatic;
  std::filesystem::path reference;  ///< of Against::checkpoint
};

/// Means over all predicted tokens, with standard errors over windows.
struct Comparison {
  Estimate kl;         ///< KL(reference || model) of the next token, nats
  Estimate loss;       ///< NLL above the reference's, nats: paired, window by window
  Estimate same_top1;  ///< share of tokens for which both find the same token likeliest
};

struct Score {
  double mean_nll = 0;  ///< nats a prediction
  double perplexity = 0;
  std::optional<Comparison> comparison;
};

struct EvaluateResult {
  Score score;  ///< inputs of linears are exact
  /// What it was compared with, scored on the same windows.
  std::optional<Score> reference;
  Index predictions = 0;  ///< the first token of a window is not predicted
  Index windows = 0;
  /// Formats of the inputs of some linears, e.g. "mxfp8 g32"; empty: none has one.
  std::vector<std::string> activation_formats;
  /// The same model with those inputs rounded per token and group, where there are formats.
  std::optional<Score> with_activations;
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
