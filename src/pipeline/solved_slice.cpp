#include "pipeline/solved_slice.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "aq/core/bytes.h"
#include "aq/core/log.h"

namespace aq {

void describe(const Factor& factor, SolvedSlice& slice) {
  slice.fallback = factor.fallback;
  slice.rtn_reason = factor.rtn_reason;
  slice.damping = factor.damping;
  if (!std::ranges::all_of(slice.error, [](double error) { return std::isfinite(error); })) {
    slice.fallback = Fallback::rtn;
    slice.rtn_reason = RtnReason::overflow;
  }
  // JSON has no infinity: the largest number stands for a sum beyond it.
  if (!std::isfinite(slice.weight_sum)) slice.weight_sum = std::numeric_limits<double>::max();
  slice.method = slice.fallback == Fallback::rtn ? Method::rtn : Method::gptq;
}

void describe_alike(std::span<SolvedSlice> slices) {
  const auto worst = std::ranges::max_element(slices, {}, &SolvedSlice::fallback);
  for (SolvedSlice& slice : slices) {
    slice.fallback = worst->fallback;
    slice.rtn_reason = worst->rtn_reason;
    slice.method = worst->method;
  }
}

void add_scales(std::span<const SolvedSlice> slices, MatrixStats& stats) {
  for (const SolvedSlice& slice : slices) {
    stats.scales_above += slice.scales_above;
    stats.scales_below += slice.scales_below;
  }
  if (stats.scales_above + stats.scales_below > 0 && stats.fallback == "none")
    stats.fallback = "scale_range";
}

namespace {

/// "layer 3, expert 7: name"
std::string place_of(const LinearSpec& linear) {
  std::string place;
  if (linear.layer >= 0) place = str("layer ", linear.layer);
  if (linear.expert >= 0) place += str(", expert ", linear.expert);
  return str(place, place.empty() ? "" : ": ", linear.name);
}

}  // namespace

void warn_of_scales(const LinearSpec& linear, const MatrixStats& stats) {
  if (stats.scales_above + stats.scales_below == 0) return;
  log_warning(str(place_of(linear), ": ", stats.scales_above, " scales are above and ",
                  stats.scales_below, " below what float16 holds: choose another scale_dtype"));
}

void warn_of_rtn(const LinearSpec& linear, RtnReason reason) {
  if (reason == RtnReason::none || reason == RtnReason::no_tokens) return;
  log_warning(str(place_of(linear), " is rounded to nearest, since ", rtn_reason_text(reason)));
}

std::vector<std::byte> slices_to_bytes(std::span<const SolvedSlice> slices) {
  ByteWriter out;
  for (const SolvedSlice& slice : slices) {
    for (const std::int64_t value : {slice.task, slice.matrix, slice.first_row, slice.tokens,
                                     slice.scales_above, slice.scales_below})
      out.value(value);
    out.value(slice.method);
    out.value(slice.fallback);
    out.value(slice.rtn_reason);
    out.value(slice.damping);
    out.value(slice.weight_sum);
    for (const auto* values :
         {&slice.error, &slice.error_rtn, &slice.norm, &slice.weight_error, &slice.weight_norm})
      out.array(*values);
    write_bytes(slice.rows, out);
  }
  return out.take();
}

std::vector<SolvedSlice> slices_from_bytes(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  std::vector<SolvedSlice> slices;
  while (!in.at_end()) {
    SolvedSlice slice;
    for (std::int64_t* value : {&slice.task, &slice.matrix, &slice.first_row, &slice.tokens,
                                &slice.scales_above, &slice.scales_below})
      *value = in.value<std::int64_t>();
    slice.method = in.value<Method>();
    slice.fallback = in.value<Fallback>();
    slice.rtn_reason = in.value<RtnReason>();
    slice.damping = in.value<double>();
    slice.weight_sum = in.value<double>();
    for (auto* values :
         {&slice.error, &slice.error_rtn, &slice.norm, &slice.weight_error, &slice.weight_norm})
      *values = in.array<double>();
    slice.rows = read_bytes(in);
    slices.push_back(std::move(slice));
  }
  return slices;
}

}  // namespace aq
