#include "eval/head_sums.h"

#include <algorithm>

#include "aq/comm/watchdog.h"
#include "aq/forward/finite.h"
#include "aq/runtime/operations.h"

namespace aq {

void WindowSums::add_nll(Index window, const Tensor& logits,
                         std::span<const std::int32_t> targets) {
  std::vector<double> values(targets.size());
  runtime::token_nll(logits.host().slice_rows(0, std::ssize(targets)), targets, values);
  for (const double value : values) nll[window] += value;
}

void WindowSums::add_distances(Index window, const Tensor& reference, const Tensor& logits,
                               Index tokens) {
  std::vector<runtime::TokenDistance> distances(tokens);
  runtime::compare_distributions(reference.host().slice_rows(0, tokens),
                                 logits.host().slice_rows(0, tokens), distances);
  for (const runtime::TokenDistance& distance : distances) {
    kl[window] += distance.kl;
    same_top1[window] += distance.same_top1 ? 1 : 0;
  }
}

void gather_windows(std::vector<double>& sums, Communicator& comm) {
  const std::vector<std::vector<double>> all = all_gather_values(comm, sums);
  std::ranges::fill(sums, 0.0);
  for (const std::vector<double>& values : all)
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += values.at(i);
}

HeadSums score_heads(const Inputs& inputs, FinalStates& model, FinalStates* reference, Trace* trace,
                     Communicator& comm) {
  set_work_place(std::string(stage_name(Stage::head)));
  const Batch& batch = inputs.batch;
  HeadSums sums{WindowSums(inputs.windows.count()), WindowSums(inputs.windows.count())};
  const Index vocabulary = model.scored.model().vocabulary;
  if (trace != nullptr) trace->logits.resize(batch.rows() * vocabulary);
  if (batch.rows() > 0) {
    const auto head = model.scored.head();
    const auto reference_head = reference != nullptr ? reference->scored.head() : nullptr;
    runtime::for_each_range(batch.sequence_rows, [&](Index sequence, Range rows) {
      const Index window = inputs.first_window + sequence;
      const auto targets =
          std::span(batch.sequences.tokens).subspan(rows.begin + 1, rows.size() - 1);
      const Tensor logits = head(model.hidden.window(rows));
      note_finite(ForwardPart::head, logits);
      sums.model.add_nll(window, logits, targets);
      if (reference != nullptr) {
        const Tensor expected = reference_head(reference->hidden.window(rows));
        note_finite(ForwardPart::head, expected);
        sums.reference.add_nll(window, expected, targets);
        sums.model.add_distances(window, expected, logits, std::ssize(targets));
      }
      if (trace != nullptr)
        std::copy_n(logits.host().data, rows.size() * vocabulary,
                    trace->logits.begin() + rows.begin * vocabulary);
    });
  }
  check_finite(comm, model.scored.model().head);
  for (std::vector<double>* values :
       {&sums.model.nll, &sums.reference.nll, &sums.model.kl, &sums.model.same_top1})
    gather_windows(*values, comm);
  return sums;
}

}  // namespace aq
