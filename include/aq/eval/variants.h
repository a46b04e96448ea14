#pragma once
/// How far the original model gets from itself when a few of its linears are quantized, for many
/// such choices: what each part of a model is worth its bits.

#include <filesystem>
#include <functional>
#include <map>
#include <vector>

#include "aq/eval/evaluate.h"

namespace aq {

/// The original model with the matrices of some linears from a run.
struct Variant {
  Index run = 0;               ///< number of the run directory
  std::vector<Index> linears;  ///< LinearSpec::id
};

/// Sees the variants of a pass when it has ended, by their numbers; each variant once, on every
/// rank.
using AfterPass = std::function<void(const std::map<Index, Estimate>& kl)>;

/// KL(original || variant) of the next token in nats over the windows of `options` (their model,
/// tokens and windows; there is no other reference). Variants share the layers before
/// their first quantized one, and the reading of those behind it; as many at one time as `memory`
/// (bytes a rank; 0: what the machine has free) has room for, in several passes where it must be.
/// The same bits for any number of ranks. Throws Error{input} where a run lacks a matrix.
/// Collective.
void measure_variants(const EvaluateOptions& options,
                      const std::vector<std::filesystem::path>& runs,
                      const std::vector<Variant>& variants, Index memory,
                      const AfterPass& after_pass, Communicator& comm);

}  // namespace aq
