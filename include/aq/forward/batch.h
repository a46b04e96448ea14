#pragma once
/// The tokens of one rank: its lanes, their sequences and their rows in the activations.

#include <functional>

#include "aq/comm/lanes.h"
#include "aq/io/tokens.h"

namespace aq {

/// Rows of activations are the tokens of this rank's lanes in order. A rank may hold none.
struct Batch {
  Sequences sequences;
  Index first_lane = 0, first_sequence = 0;  ///< in the whole set
  std::vector<Range> lane_sequences;  ///< per lane of this rank: its sequences, counted from 0 here
  std::vector<Range> sequence_rows;   ///< per sequence of this rank: its rows

  Index rows() const { return sequences.token_count(); }
  Index lanes() const { return static_cast<Index>(lane_sequences.size()); }
  Index sequence_count() const { return sequences.count(); }
  Range rows_of_sequence(Index sequence) const { return sequence_rows[sequence]; }
  /// Rows of the lane: its sequences follow one another.
  Range rows_of_lane(Index lane) const;
};

/// Reads this rank's share; `read(first, count)` gives sequences by their number in the whole set.
Batch make_batch(const LaneLayout& layout, int rank, int ranks,
                 const std::function<Sequences(Index, Index)>& read);

}  // namespace aq
