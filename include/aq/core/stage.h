#pragma once
/// The stages of a run and the phases of a stage, as plans, timers and reports name them.

#include <array>
#include <map>
#include <string>
#include <string_view>

namespace aq {

/// What a run works on at one time, in the order in which tokens meet it. A stage of linears
/// quantizes those that read one input.
enum class Stage {
  embed,    ///< the embedding of all tokens
  qkv,      ///< what reads norm(x): q, k, v; or q_a (q without it) and kv_a
  latent,   ///< q_b, kv_b of latent attention
  core,     ///< attention between q, k, v and o; no linears
  o,        ///< the output projection
  router,   ///< the routers of routed and shared experts
  gate_up,  ///< gate and up of experts or of a dense MLP
  down,     ///< down of these
  layer,    ///< a whole layer: it runs again, is written or comes from disk
  head,     ///< the output head
};

/// What is done in a stage, in the order of work.
enum class Phase {
  embed,
  hessian,   ///< sums over inputs
  reduce,    ///< partial sums to their owners
  factor,    ///< Cholesky factors, at their owners
  read,      ///< original weights
  solve,     ///< GPTQ and its sweeps
  exchange,  ///< factors and packed results between ranks
  dispatch,  ///< inputs of experts to their owners, outputs back
  forward,   ///< tokens through the linears
  write,     ///< shards and kept Hessians
  merge,     ///< shards into model.h5
  resume,    ///< layers from disk
};

inline constexpr std::array kPhases{
    Phase::embed,    Phase::hessian,  Phase::reduce,  Phase::factor, Phase::read,  Phase::solve,
    Phase::exchange, Phase::dispatch, Phase::forward, Phase::write,  Phase::merge, Phase::resume};

/// The name of the enumerator: "gate_up", "hessian".
std::string_view stage_name(Stage stage);
std::string_view phase_name(Phase phase);

/// The same values by the phases' names, for JSON.
std::map<std::string, double> by_name(const std::map<Phase, double>& values);

}  // namespace aq
