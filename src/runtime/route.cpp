/// What is read off logits: the experts of each token, and the loss.

#include <algorithm>
#include <cmath>
#include <vector>

#include "aq/core/error.h"
#include "aq/runtime/pieces.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

/// score = softmax(logits), rounded to fp32 once.
void softmax(std::span<const float> logits, std::span<double> terms, std::span<float> score) {
  const float largest = std::ranges::max(logits);
  double sum = 0;
  for (std::size_t e = 0; e < logits.size(); ++e) {
    terms[e] = std::exp(static_cast<double>(logits[e]) - largest);
    sum += terms[e];
  }
  for (std::size_t e = 0; e < logits.size(); ++e) score[e] = static_cast<float>(terms[e] / sum);
}

/// The largest scores by falling score, of equals the lower index first.
void choose(std::span<const float> score, std::span<std::int32_t> index, std::span<float> weight) {
  std::size_t chosen = 0;
  for (std::size_t e = 0; e < score.size(); ++e) {
    std::size_t place = chosen;
    while (place > 0 && score[e] > weight[place - 1]) --place;
    if (place == index.size()) continue;
    chosen = std::min(chosen + 1, index.size());
    for (std::size_t k = chosen - 1; k > place; --k) {
      index[k] = index[k - 1];
      weight[k] = weight[k - 1];
    }
    index[place] = static_cast<std::int32_t>(e);
    weight[place] = score[e];
  }
}

void renormalize(std::span<float> weight) {
  double sum = 0;
  for (const float w : weight) sum += w;
  for (float& w : weight) w = static_cast<float>(w / sum);
}

}  // namespace

void route(const RouterSpec& spec, MatrixView<const float> logits, MatrixView<std::int32_t> index,
           MatrixView<float> weight) {
  AQ_CHECK(logits.columns == spec.experts && 0 < spec.top_k && spec.top_k <= spec.experts,
           "logits of ", logits.columns, ", experts ", spec.experts, ", top_k ", spec.top_k);
  AQ_CHECK(index.rows == logits.rows && index.columns == spec.top_k, "index [", index.rows, ", ",
           index.columns, "]");
  AQ_CHECK(weight.rows == logits.rows && weight.columns == spec.top_k, "weight [", weight.rows,
           ", ", weight.columns, "]");
  std::vector<double> terms(static_cast<std::size_t>(spec.experts));
  std::vector<float> score(static_cast<std::size_t>(spec.experts));
  for (Index t = 0; t < logits.rows; ++t) {
    for (const float logit : logits.row(t))
      if (!std::isfinite(logit))
        throw Error(ErrorKind::input, "route", str("token ", t), "a router logit is not finite",
                    "the checkpoint may hold infinities or NaN");
    softmax(logits.row(t), terms, score);
    choose(score, index.row(t), weight.row(t));
    if (spec.renormalize) renormalize(weight.row(t));
  }
}

void token_nll(MatrixView<const float> logits, std::span<const std::int32_t> targets,
               std::span<double> nll) {
  AQ_CHECK(std::ssize(targets) == logits.rows && targets.size() == nll.size(), "logits of ",
           logits.rows, " tokens, targets ", targets.size(), ", nll ", nll.size());
  for (Index t = 0; t < logits.rows; ++t) {
    const auto token = static_cast<std::size_t>(t);
    const std::int32_t target = targets[token];
    AQ_CHECK(target >= 0 && target < logits.columns, "target ", target, " of ", logits.columns);
    const float* row = logits.row(t).data();
    const float largest = largest_of(row, logits.columns);
    const double sum = exponential_sum(row, largest, logits.columns);
    nll[token] = std::log(sum) + (static_cast<double>(largest) - row[target]);
  }
}

}  // namespace aq::runtime
