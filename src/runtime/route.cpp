/// What is read off logits: the experts of each token, and the loss.

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aq/core/error.h"
#include "aq/core/finite.h"
#include "aq/runtime/pieces.h"
#include "runtime/vector_loops.h"

namespace aq::runtime {
namespace {

/// Memory for one token at a time.
struct Scratch {
  explicit Scratch(const RouterSpec& spec)
      : terms(static_cast<std::size_t>(spec.experts)),
        score(static_cast<std::size_t>(spec.experts)),
        key(static_cast<std::size_t>(spec.experts)),
        group_key(static_cast<std::size_t>(spec.groups)),
        kept_groups(static_cast<std::size_t>(spec.kept_groups)) {}

  std::vector<double> terms;  ///< of a softmax
  std::vector<float> score;   ///< of each expert, rounded once
  std::vector<double> key;    ///< what an expert is chosen by: score plus correction
  std::vector<double> group_key;
  std::vector<std::int32_t> kept_groups;
};

/// result = softmax(logits), rounded to fp32 once; may be the same memory.
void softmax(std::span<const float> logits, std::span<double> terms, std::span<float> result) {
  const float largest = std::ranges::max(logits);
  double sum = 0;
  for (std::size_t e = 0; e < logits.size(); ++e) {
    terms[e] = std::exp(static_cast<double>(logits[e]) - largest);
    sum += terms[e];
  }
  for (std::size_t e = 0; e < logits.size(); ++e) result[e] = static_cast<float>(terms[e] / sum);
}

/// Score of each expert.
void fill_scores(RouterScore kind, std::span<const float> logits, Scratch& scratch) {
  switch (kind) {
    case RouterScore::softmax:
      softmax(logits, scratch.terms, scratch.score);
      break;
    case RouterScore::sigmoid:
      std::ranges::copy(logits, scratch.score.begin());
      apply_sigmoid({scratch.score.data(), 1, std::ssize(scratch.score)});
      break;
    case RouterScore::softmax_of_chosen:
      std::ranges::copy(logits, scratch.score.begin());
      break;
  }
}

/// Places of the largest keys by falling key, of equals the lower place first; as many as `places`
/// has room for.
void choose(std::span<const double> key, std::span<std::int32_t> places) {
  std::size_t chosen = 0;
  for (std::size_t e = 0; e < key.size(); ++e) {
    std::size_t at = chosen;
    while (at > 0 && key[e] > key[places[at - 1]]) --at;
    if (at == places.size()) continue;
    chosen = std::min(chosen + 1, places.size());
    for (std::size_t i = chosen - 1; i > at; --i) places[i] = places[i - 1];
    places[at] = static_cast<std::int32_t>(e);
  }
}

/// What a group is kept by.
double group_key(GroupScore kind, std::span<const double> keys) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  double first = kNone;
  double second = kNone;
  for (const double key : keys) {
    second = std::max(second, std::min(first, key));
    first = std::max(first, key);
  }
  return kind == GroupScore::largest ? first : first + second;
}

/// Makes the keys of all experts outside the kept groups smaller than any other.
void drop_groups(const RouterSpec& spec, Scratch& scratch) {
  const auto size = static_cast<std::size_t>(spec.experts / spec.groups);
  const auto group = [&](std::size_t g) { return std::span(scratch.key).subspan(g * size, size); };
  for (std::size_t g = 0; g < scratch.group_key.size(); ++g)
    scratch.group_key[g] = group_key(spec.group_score, group(g));
  choose(scratch.group_key, scratch.kept_groups);
  for (std::size_t g = 0; g < scratch.group_key.size(); ++g)
    if (std::ranges::find(scratch.kept_groups, static_cast<std::int32_t>(g)) ==
        scratch.kept_groups.end())
      std::ranges::fill(group(g), -std::numeric_limits<double>::infinity());
}

/// The chosen experts by falling score.
void choose_experts(const RouterSpec& spec, std::span<const float> correction, Scratch& scratch,
                    std::span<std::int32_t> index) {
  std::ranges::copy(scratch.score, scratch.key.begin());
  for (std::size_t e = 0; e < correction.size(); ++e) scratch.key[e] += correction[e];
  if (spec.kept_groups < spec.groups) drop_groups(spec, scratch);
  choose(scratch.key, index);
  if (correction.empty()) return;  // the key is the score
  std::ranges::sort(index, [&](std::int32_t a, std::int32_t b) {
    const float score_a = scratch.score[a];
    const float score_b = scratch.score[b];
    return score_a != score_b ? score_a > score_b : a < b;
  });
}

/// The factors of the chosen experts.
void weigh(const RouterSpec& spec, Scratch& scratch, std::span<const std::int32_t> index,
           std::span<float> weight) {
  for (std::size_t i = 0; i < index.size(); ++i) weight[i] = scratch.score[index[i]];
  if (spec.score == RouterScore::softmax_of_chosen) softmax(weight, scratch.terms, weight);
  double divisor = 1;
  if (spec.renormalize) {
    double sum = 0;
    for (const float w : weight) sum += w;
    divisor = sum + 1e-20;
  }
  for (float& w : weight) w = static_cast<float>(w / divisor * spec.scale);
}

void check_route(const RouterSpec& spec, MatrixView<const float> logits,
                 std::span<const float> correction, MatrixView<const std::int32_t> index,
                 MatrixView<const float> weight) {
  AQ_CHECK(logits.columns == spec.experts && 0 < spec.top_k && spec.top_k <= spec.experts,
           "logits of ", logits.columns, ", experts ", spec.experts, ", top_k ", spec.top_k);
  AQ_CHECK(spec.groups > 0 && spec.experts % spec.groups == 0 && 0 < spec.kept_groups &&
               spec.kept_groups <= spec.groups &&
               spec.top_k <= spec.experts / spec.groups * spec.kept_groups,
           "groups ", spec.groups, ", kept ", spec.kept_groups, ", experts ", spec.experts,
           ", top_k ", spec.top_k);
  AQ_CHECK(spec.group_score == GroupScore::largest || spec.kept_groups == spec.groups ||
               spec.experts / spec.groups >= 2,
           "the two best of ", spec.experts / spec.groups);
  AQ_CHECK(correction.empty() || std::ssize(correction) == spec.experts, "correction ",
           correction.size());
  AQ_CHECK(index.rows == logits.rows && index.columns == spec.top_k, "index [", index.rows, ", ",
           index.columns, "]");
  AQ_CHECK(weight.rows == logits.rows && weight.columns == spec.top_k, "weight [", weight.rows,
           ", ", weight.columns, "]");
}

[[noreturn]] void throw_not_finite(const std::string& object, std::string_view what) {
  throw Error(ErrorKind::input, "route", object, str(what, " is not finite"),
              "the checkpoint may hold infinities or NaN");
}

}  // namespace

void route(const RouterSpec& spec, MatrixView<const float> logits,
           std::span<const float> correction, MatrixView<std::int32_t> index,
           MatrixView<float> weight) {
  check_route(spec, logits, correction, index, weight);
  if (!all_finite(correction)) throw_not_finite("correction bias", "a value");
  Scratch scratch(spec);
  for (Index t = 0; t < logits.rows; ++t) {
    if (!all_finite(logits.row(t))) throw_not_finite(str("token ", t), "a router logit");
    fill_scores(spec.score, logits.row(t), scratch);
    choose_experts(spec, correction, scratch, index.row(t));
    weigh(spec, scratch, index.row(t), weight.row(t));
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

void compare_distributions(MatrixView<const float> reference, MatrixView<const float> logits,
                           std::span<TokenDistance> distances) {
  AQ_CHECK(reference.rows == logits.rows && reference.columns == logits.columns &&
               std::ssize(distances) == logits.rows,
           "reference [", reference.rows, ", ", reference.columns, "], logits [", logits.rows, ", ",
           logits.columns, "], distances ", distances.size());
  const Index columns = logits.columns;
  for (Index t = 0; t < logits.rows; ++t) {
    const std::span<const float> p = reference.row(t), q = logits.row(t);
    const float largest_p = largest_of(p.data(), columns);
    const float largest_q = largest_of(q.data(), columns);
    const double sum_p = exponential_sum(p.data(), largest_p, columns);
    const double sum_q = exponential_sum(q.data(), largest_q, columns);
    const double difference = weighted_difference(p.data(), largest_p, q.data(), columns) / sum_p;
    distances[t] = {
        .kl = difference + (std::log(sum_q) + largest_q) - (std::log(sum_p) + largest_p),
        .same_top1 = std::ranges::find(p, largest_p) - p.begin() ==
                     std::ranges::find(q, largest_q) - q.begin()};
  }
}

}  // namespace aq::runtime
