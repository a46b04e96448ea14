#include "aq/forward/batch.h"

namespace aq {

Range Batch::rows_of_lane(Index lane) const {
  const Range range = lane_sequences[lane];
  if (range.size() == 0) return {0, 0};
  return {rows_of_sequence(range.begin).begin, rows_of_sequence(range.end - 1).end};
}

Batch make_batch(const LaneLayout& layout, int rank, int ranks,
                 const std::function<Sequences(Index, Index)>& read) {
  Batch batch;
  const Range lanes = layout.lanes_of_rank(rank, ranks);
  batch.first_lane = lanes.begin;
  if (lanes.size() == 0) return batch;
  const Range all{layout.sequences_of_lane(lanes.begin).begin,
                  layout.sequences_of_lane(lanes.end - 1).end};
  batch.first_sequence = all.begin;
  batch.sequences = read(all.begin, all.size());
  for (Index lane = lanes.begin; lane < lanes.end; ++lane) {
    const Range range = layout.sequences_of_lane(lane);
    batch.lane_sequences.push_back({range.begin - all.begin, range.end - all.begin});
  }
  Index row = 0;
  for (const Index length : batch.sequences.lengths) {
    batch.sequence_rows.push_back({row, row + length});
    row += length;
  }
  return batch;
}

}  // namespace aq
