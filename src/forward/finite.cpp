#include "aq/forward/finite.h"

#include <array>
#include <atomic>
#include <limits>

#include "aq/comm/common_error.h"
#include "aq/core/finite.h"

namespace aq {
namespace {

constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kExperts = std::int64_t{1} << 32;  ///< above the number of any expert

/// The first place of this process, in the order of place_of: a layer is in work at one time.
std::atomic<std::int64_t> first_place{kNone};

/// Experts are one after the other, each with its two parts, behind the router.
std::int64_t place_of(ForwardPart part, Index expert) {
  const auto number = static_cast<std::int64_t>(part);
  const auto gate_up = static_cast<std::int64_t>(ForwardPart::gate_up);
  if (part < ForwardPart::gate_up) return number;
  if (part <= ForwardPart::down) return gate_up + 2 * expert + (number - gate_up);
  return kExperts + number;
}

/// The first place of all ranks; forgets this rank's.
std::int64_t take_first_place(Communicator& comm) {
  std::array<std::int64_t, 1> least{-first_place.exchange(kNone)};
  comm.all_reduce_max(least);
  return -least[0];
}

[[noreturn]] void fail(const std::string& where, const std::string& what) {
  throw CommonError(
      ErrorKind::input, "forward pass", where, str(what, " is not finite"),
      "weights or activations are beyond float32: look at the checkpoint and the tokens");
}

std::string names_of(const std::vector<const LinearSpec*>& linears) {
  std::string names;
  for (const LinearSpec* linear : linears) names += str(names.empty() ? "" : ", ", linear->name);
  return names;
}

[[noreturn]] void fail_in_expert(const LayerSpec& layer, std::int64_t place) {
  const std::int64_t at = place - static_cast<std::int64_t>(ForwardPart::gate_up);
  const MlpSpec& mlp = layer.mlp(at / 2);
  std::string where = str("layer ", layer.index);
  if (mlp.down.expert >= 0) where += str(", expert ", mlp.down.expert);
  if (at % 2 == 0) fail(where, "the activation of " + names_of({&mlp.gate, &mlp.up}));
  fail(where, "the output of " + mlp.down.name);
}

}  // namespace

bool note_finite(ForwardPart part, const Tensor& tensor, Index expert) {
  const MatrixView<const float> values = tensor.host();
  bool finite = true;
  for (Index r = 0; r < values.rows && finite; ++r) finite = all_finite(values.row(r));
  if (finite) return true;
  const std::int64_t place = place_of(part, expert);
  std::int64_t first = first_place;
  while (place < first && !first_place.compare_exchange_weak(first, place)) {
  }
  return false;
}

void check_finite(Communicator& comm, const LayerSpec& layer) {
  const std::int64_t place = take_first_place(comm);
  if (place == kNone) return;
  const std::string where = str("layer ", layer.index);
  if (place == place_of(ForwardPart::attention, 0))
    fail(where + ", attention",
         "the output of " + names_of(attention_groups(layer).front().linears));
  if (place == place_of(ForwardPart::attention_output, 0))
    fail(where + ", attention", str("the output of ", layer.o.name, ", or its sum with the input"));
  if (place == place_of(ForwardPart::router, 0))
    fail(where, "the output of router " + layer.moe->router.name);
  if (place == place_of(ForwardPart::sum, 0))
    fail(where + ", experts", "the sum of their outputs and the input");
  fail_in_expert(layer, place);
}

void check_finite(Communicator& comm, const LinearSpec& head) {
  if (take_first_place(comm) != kNone) fail("head", "the output of " + head.name);
}

}  // namespace aq
