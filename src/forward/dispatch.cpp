#include "aq/forward/dispatch.h"

#include <algorithm>
#include <array>

#include "aq/comm/watchdog.h"
#include "aq/core/bytes.h"
#include "aq/runtime/operations.h"

namespace aq {
namespace {

constexpr int kListTag = 7101, kRowsTag = 7102, kOutputTag = 7103;

/// Sizes of the messages that every rank sends here; `mine` are those to every other.
std::vector<std::int64_t> sizes_to_me(Communicator& comm, const std::vector<std::int64_t>& mine) {
  std::vector<std::int64_t> sizes;
  for (const std::vector<std::int64_t>& sent : all_gather_values(comm, mine))
    sizes.push_back(sent.at(static_cast<std::size_t>(comm.rank())));
  return sizes;
}

}  // namespace

Dispatch::Dispatch(Transport& transport, const LaneLayout& layout, const ExpertPass& home,
                   std::vector<Index> experts, std::vector<int> owners)
    : transport_(transport),
      comm_(transport.control()),
      layout_(layout),
      home_(home),
      experts_(std::move(experts)),
      owners_(std::move(owners)),
      owner_{home.layer, home.weights,      gathered_batch_,
             gathered_,  gathered_routing_, TokensAt::owner} {
  AQ_CHECK(experts_.size() == owners_.size(), experts_.size(), " experts, ", owners_.size(),
           " owners");
  if (home.drift != nullptr) {
    drift_.emplace(Drift{home.drift->original, drift_input_, drift_output_});
    owner_.drift = &*drift_;
  }
  std::array<std::int64_t, 1> tokens{home_.batch.rows()};
  comm_.all_reduce_sum(tokens);
  all_tokens_ = tokens[0];
  choose_rows();
  exchange_lists();
}

/// The rows that each rank needs, each once.
void Dispatch::choose_rows() {
  const auto ranks = static_cast<std::size_t>(comm_.size());
  rows_for_.resize(ranks);
  for (std::size_t i = 0; i < experts_.size(); ++i) {
    const TokenList& list = home_.tokens(experts_[i]);
    std::vector<std::int32_t>& rows = rows_for_[owners_[i]];
    rows.insert(rows.end(), list.rows.begin(), list.rows.end());
  }
  for (std::vector<std::int32_t>& rows : rows_for_) {
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  }
}

/// What `owner` must know: for each of my lanes its number of rows; then for each expert there and
/// each of my lanes the number of its tokens, their places among the rows, and their weights.
std::vector<std::byte> Dispatch::list_for(int owner) const {
  const std::vector<std::int32_t>& rows = rows_for_[owner];
  const auto place = [&](std::int64_t row) {
    return checked_cast<std::int32_t>(std::lower_bound(rows.begin(), rows.end(), row) -
                                      rows.begin());
  };
  ByteWriter list;
  for (Index lane = 0; lane < home_.batch.lanes(); ++lane) {
    const Range range = home_.batch.rows_of_lane(lane);
    list.value(place(range.end) - place(range.begin));
  }
  for (std::size_t i = 0; i < experts_.size(); ++i) {
    if (owners_[i] != owner) continue;
    const TokenList& tokens = home_.tokens(experts_[i]);
    for (Index lane = 0; lane < home_.batch.lanes(); ++lane) {
      list.value(checked_cast<std::int32_t>(tokens.lane(lane).size()));
      for (const std::int32_t row : tokens.rows_at(tokens.lane(lane))) list.value(place(row));
      list.values(tokens.weights_at(tokens.lane(lane)));
    }
  }
  return list.take();
}

void Dispatch::exchange_lists() {
  const WorkLabel label("tokens of experts");
  const int ranks = comm_.size(), me = comm_.rank();
  std::vector<std::vector<std::byte>> sent, received(static_cast<std::size_t>(ranks));
  std::vector<std::int64_t> lengths;
  for (int to = 0; to < ranks; ++to) {
    sent.push_back(list_for(to));
    lengths.push_back(std::ssize(sent.back()));
  }
  const std::vector<std::int64_t> received_lengths = sizes_to_me(comm_, lengths);
  for (int other = 0; other < ranks; ++other) {
    const auto at = static_cast<std::size_t>(other);
    if (other == me) {
      received[at] = std::move(sent[at]);
      continue;
    }
    received[at].resize(received_lengths[at]);
    if (!sent[at].empty())
      transport_.start_send(host_buffer(std::span<const std::byte>(sent[at])), other, kListTag);
    if (!received[at].empty())
      transport_.start_receive(host_buffer(std::span(received[at])), other, kListTag);
  }
  transport_.wait_all();
  gathered_routing_.experts.resize(home_.routing.experts.size());
  for (TokenList& list : gathered_routing_.experts) list.lane_offsets.push_back(0);
  gathered_begin_.push_back(0);
  for (int from = 0; from < ranks; ++from) read_list(from, received[from]);
}

/// Appends the lanes of rank `from`, which follow those of the ranks before it.
void Dispatch::read_list(int from, std::span<const std::byte> bytes) {
  const Index lanes = layout_.lanes_of_rank(from, comm_.size()).size();
  ByteReader list(bytes);
  const std::int64_t first = gathered_begin_.back();
  std::int64_t row = first;
  for (Index lane = 0; lane < lanes; ++lane) {
    const Index sequence = gathered_batch_.lanes();
    gathered_batch_.lane_sequences.push_back({sequence, sequence + 1});
    const std::int64_t begin = row;
    row += list.value<std::int32_t>();
    gathered_batch_.sequence_rows.push_back({begin, row});
  }
  gathered_begin_.push_back(row);
  std::vector<bool> here(gathered_routing_.experts.size(), false);
  for (std::size_t i = 0; i < experts_.size(); ++i)
    if (owners_[i] == comm_.rank()) here[experts_[i]] = true;
  for (std::size_t expert = 0; expert < here.size(); ++expert) {
    TokenList& tokens = gathered_routing_.experts[expert];
    for (Index lane = 0; lane < lanes; ++lane) {
      if (here[expert]) {
        const auto count = list.value<std::int32_t>();
        for (const std::int32_t place : list.values<std::int32_t>(count))
          tokens.rows.push_back(checked_cast<std::int32_t>(first + place));
        const std::vector<float> weights = list.values<float>(count);
        tokens.weights.insert(tokens.weights.end(), weights.begin(), weights.end());
      }
      tokens.lane_offsets.push_back(tokens.size());
    }
  }
  AQ_CHECK(list.at_end(), "rank ", from, " lists more than it has tokens");
}

Range Dispatch::gathered_rows_of(int rank) const {
  return {gathered_begin_[rank], gathered_begin_[static_cast<std::size_t>(rank) + 1]};
}

void Dispatch::gather() {
  gathered_ = gather(home_.normed);
  if (!drift_) return;
  drift_input_ = gather(home_.drift->input);
  drift_output_ = gather(home_.drift->output);
}

Tensor Dispatch::gather(const Tensor& x) const {
  Tensor gathered(gathered_begin_.back(), x.columns(), x.kind());
  const auto rows_to = [&](int rank) -> const std::vector<std::int32_t>& {
    return rows_for_[rank];
  };
  const auto place_of = [&](int rank) { return gathered.window(gathered_rows_of(rank)); };
  const int ranks = comm_.size(), me = comm_.rank();
  runtime::copy(runtime::gather_rows(x, rows_to(me)), place_of(me));
  // In step d every rank sends to the d-th after it. Steps that are waited for together may be
  // others on other ranks: all do them in the same order.
  std::vector<Tensor> sent;
  Index rows_sent = 0;
  for (int step = 1; step < ranks; ++step) {
    const int to = (me + step) % ranks, from = (me + ranks - step) % ranks;
    const std::vector<std::int32_t>& rows = rows_to(to);
    if (rows_sent > 0 && rows_sent + std::ssize(rows) > x.rows()) {
      transport_.wait_all();
      sent.clear();
      rows_sent = 0;
    }
    rows_sent += std::ssize(rows);
    sent.push_back(runtime::gather_rows(x, rows));
    if (!rows.empty()) transport_.start_send(std::as_const(sent.back()).bytes(), to, kRowsTag);
    if (Tensor place = place_of(from); place.rows() > 0)
      transport_.start_receive(place.bytes(), from, kRowsTag);
  }
  transport_.wait_all();
  return gathered;
}

ByExpert Dispatch::combine(Range some, ByExpert outputs) {
  ByExpert mine;
  for (Index at = some.begin; at < some.end; ++at) {
    const Index expert = experts_[at];
    const int owner = owners_[at];
    if (const Index tokens = home_.tokens(expert).size(); tokens > 0) {
      Tensor& rows = mine[expert] = Tensor(tokens, home_.normed.columns(), home_.normed.kind());
      if (owner != comm_.rank()) transport_.start_receive(rows.bytes(), owner, kOutputTag);
    }
    if (owner != comm_.rank()) continue;
    const std::vector<Index>& offsets = owner_.tokens(expert).lane_offsets;
    for (int rank = 0; rank < comm_.size(); ++rank) {
      const Range lanes = layout_.lanes_of_rank(rank, comm_.size());
      const Index begin = offsets[lanes.begin];
      const Index count = offsets[lanes.end] - begin;
      if (count == 0) continue;
      const Tensor rows = outputs.at(expert).window({begin, begin + count});
      if (rank == comm_.rank())
        runtime::copy(rows, mine.at(expert).window());
      else
        transport_.start_send(rows.bytes(), rank, kOutputTag);
    }
  }
  transport_.wait_all();
  return mine;
}

}  // namespace aq
