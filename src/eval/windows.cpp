#include "eval/windows.h"

#include <algorithm>

namespace aq {

std::vector<Index> Windows::predictions() const {
  std::vector<Index> predicted = length;
  for (Index& tokens : predicted) --tokens;
  return predicted;
}

Windows cut_windows(const std::vector<Index>& lengths, Index window, Index most) {
  Windows windows;
  for (std::size_t row = 0; row < lengths.size(); ++row)
    for (Index begin = 0; begin < lengths[row]; begin += window) {
      const Index length = std::min(window, lengths[row] - begin);
      if (length < 2) continue;  // nothing to predict
      if (most > 0 && windows.count() == most) return windows;
      windows.row.push_back(static_cast<Index>(row));
      windows.begin.push_back(begin);
      windows.length.push_back(length);
    }
  return windows;
}

Sequences tokens_of(const Windows& windows, const Sequences& rows, Index first, Index count) {
  std::vector<Index> row_begin{0};
  for (const Index length : rows.lengths) row_begin.push_back(row_begin.back() + length);
  Sequences out;
  for (auto w = static_cast<std::size_t>(first); w < static_cast<std::size_t>(first + count); ++w) {
    const Index begin = row_begin[windows.row[w]] + windows.begin[w];
    out.tokens.insert(out.tokens.end(), rows.tokens.begin() + begin,
                      rows.tokens.begin() + begin + windows.length[w]);
    out.lengths.push_back(windows.length[w]);
  }
  return out;
}

}  // namespace aq
