/// A tile of rows: where its numbers lie, how rows come in and codes go out.

namespace aq::AQ_TILE_NAMESPACE {
namespace {

constexpr int kTileRows = 64;
constexpr int kParts = kTileRows / kLanes;  ///< sets of kLanes rows in a tile

constexpr Index panels(Index columns) {
  return (columns + kPanel - 1) / kPanel;
}

/// What one set of kLanes rows carries along.
struct Part {
  Rows* tile;        ///< `[columns]`: weights, behind the current column E = w - q; refining: E H
  Rows* sums;        ///< `[panels of the block, kPanel]`: s of the block's columns
  Rows* scale;       ///< `[groups]`
  Rows* zero;        ///< `[groups]`
  ShortRows* level;  ///< `[columns]`, as stored
  Rows* change;      ///< `[columns]`: E U; refining: what codes in work added to E
  std::int32_t* changed[2];  ///< `[group]` each: columns of the group with changes in a, in b
  Index changes[2];          ///< how many
  RowGrid<Rows> grid;        ///< of the columns in work
  double error[kLanes];
  int rows;  ///< rows of the matrix among the lanes
  int first_row;
};

/// All rows of a job, and memory that one part uses at a time, or with sweeps under an output
/// factor each part of its own.
struct Tile {
  const TileJob& job;
  Part parts[kParts] = {};
  int count = 0;
  Rows* spare = nullptr;   ///< `[columns]`: only with a column order
  Rows* values = nullptr;  ///< `[group]`: ŵ while a grid is fitted; refining: levels
  Rows* shift = nullptr;   ///< `[group]`: w - ŵ while a grid is fitted; refining: levels times H
  int refits = 0;          ///< rows whose scale moved in the group in work
  float* refit_rows[kTileRows] = {};  ///< G of each of them: elements are kLanes apart
  Floats* packed = nullptr;           ///< `[vectors of refits, group]`: what that added to E
};

/// Whether refinement moves scales whose groups leave other columns.
constexpr bool moves_scales(const TileJob& job) {
  return job.h != nullptr && job.refit && job.groups > 1;
}

/// Rows of a buffer of one group for one part: it may begin and end inside a panel.
constexpr Index group_rows(const TileJob& job) {
  return round_up(job.group, kPanel) + Index{2} * kPanel;
}

/// Floats of a buffer of one group: of one part at a time, or of all.
constexpr Index group_floats(const TileJob& job) {
  return group_rows(job) * kLanes * (job.coupled_sweeps > 0 ? kParts : 1);
}

/// Floats before the next part, in the order of Part's arrays.
constexpr Index part_floats(const TileJob& job) {
  const Index columns = panels(job.columns) * kPanel;
  const Index sums = (panels(job.block) + 1) * kPanel;
  const Index refining = job.h == nullptr ? 0 : columns * kLanes + round_up(2 * job.group, kLanes);
  return (columns + sums + 2 * job.groups) * kLanes + columns * kLanes / 2 + refining;
}

Index workspace_floats(const TileJob& job) {
  const Index columns = panels(job.columns) * kPanel;
  const Index packed = moves_scales(job) ? kTileRows * job.group : 0;
  return kParts * part_floats(job) + 2 * group_floats(job) + packed + columns * kLanes;
}

AQ_INLINE const float* strip(const TileJob& job, Index panel) {
  return job.strips + strip_offset(panel);
}

/// Weights of `part` with rows side by side; zeros beyond rows and columns.
void load_part(const TileJob& job, Part& part) {
  float* out = reinterpret_cast<float*>(part.tile);
  const Index padded = panels(job.columns) * kPanel;
  if (part.rows < kLanes || padded > job.columns) {
    for (Index i = 0; i < padded * kLanes; ++i) out[i] = 0;
  }
  constexpr Index kRun = 16;
  for (Index c0 = 0; c0 < job.columns; c0 += kRun) {
    const Index c1 = least(job.columns, c0 + kRun);
    for (int r = 0; r < part.rows; ++r) {
      const float* row = job.weight + (part.first_row + r) * job.stride;
      for (Index c = c0; c < c1; ++c) out[c * kLanes + r] = row[c];
    }
  }
}

/// @param take  floats of the workspace
template <class Take>
void start_refining(const TileJob& job, Part& part, const Take& take) {
  const Index columns = panels(job.columns) * kPanel;
  part.change = take(columns * kLanes);
  for (Index c = job.columns; c < columns; ++c) part.change[c] = Rows{};
  part.changed[0] = reinterpret_cast<std::int32_t*>(take(round_up(2 * job.group, kLanes)));
  part.changed[1] = part.changed[0] + job.group;
}

void start(Tile& tile) {
  const TileJob& job = tile.job;
  const Index columns = panels(job.columns) * kPanel;
  float* next = job.workspace;
  const auto take = [&next](Index floats) {
    float* taken = next;
    next += floats;
    return reinterpret_cast<Rows*>(taken);
  };
  for (int first = 0; first < job.rows; first += kLanes) {
    Part& part = tile.parts[tile.count++];
    part.tile = take(columns * kLanes);
    part.sums = take((panels(job.block) + 1) * kPanel * kLanes);
    part.scale = take(job.groups * kLanes);
    part.zero = take(job.groups * kLanes);
    part.level = reinterpret_cast<ShortRows*>(take(columns * kLanes / 2));
    if (job.h != nullptr) start_refining(job, part, take);
    part.first_row = first;
    part.rows = static_cast<int>(least(kLanes, job.rows - first));
    for (double& error : part.error) error = 0;
    load_part(job, part);
  }
  tile.values = take(group_floats(job)) + kPanel;
  tile.shift = take(group_floats(job)) + kPanel;
  if (moves_scales(job)) tile.packed = reinterpret_cast<Floats*>(take(kTileRows * job.group));
  tile.spare = take(columns * kLanes);
}

/// Puts the weights into the order in which columns are rounded.
void permute(Tile& tile) {
  const TileJob& job = tile.job;
  for (int p = 0; p < tile.count; ++p) {
    Part& part = tile.parts[p];
    for (Index c = 0; c < job.columns; ++c) tile.spare[c] = part.tile[job.order[c]];
    for (Index c = 0; c < job.columns; ++c) part.tile[c] = tile.spare[c];
  }
}

/// The inverse.
void restore_order(Tile& tile) {
  const TileJob& job = tile.job;
  for (int p = 0; p < tile.count; ++p) {
    Part& part = tile.parts[p];
    for (Index c = 0; c < job.columns; ++c) tile.spare[job.order[c]] = part.tile[c];
    for (Index c = 0; c < job.columns; ++c) part.tile[c] = tile.spare[c];
  }
}

AQ_INLINE Ints code_bits(const IntegerLevels&, Floats level, Floats zero) {
  return __builtin_convertvector(level + zero, Ints);
}
/// See element_code().
AQ_INLINE Ints code_bits(const FloatLevels& levels, Floats level, Floats) {
  const Ints bits = (Ints)level;
  const Ints magnitude = bits & 0x7FFFFFFF;
  const Floats steps = (Floats)magnitude * power_of_two(levels.bias - 1 + levels.mantissa_bits);
  const Ints subnormal = __builtin_convertvector(steps, Ints);
  const Ints normal =
      (magnitude >> (23 - levels.mantissa_bits)) - ((127 - levels.bias) << levels.mantissa_bits);
  const Ints sign = (Ints)((Unsigned)bits >> 31 << (levels.bits - 1));
  return ((Floats)magnitude < levels.least_normal ? subnormal : normal) | sign;
}

/// Codes of a part as a bit stream a row; see pack_row().
template <class Levels>
void write_codes(const TileJob& job, const Levels& levels, const Part& part) {
  alignas(64) std::uint32_t word[kLanes] = {};
  int used = 0;
  Index index = 0;
  for (Index c = 0; c < job.columns; ++c) {
    const Rows level = lengthen(part.level[c]);
    const Rows zero = part.zero[c / job.group];
    const Ints whole[2] = {code_bits(levels, level.a, zero.a), code_bits(levels, level.b, zero.b)};
    const auto* codes = reinterpret_cast<const std::uint32_t*>(whole);
    for (int i = 0; i < kLanes; ++i) word[i] |= codes[i] << used;
    used += job.bits;
    if (used < 32 && c + 1 < job.columns) continue;
    for (int r = 0; r < part.rows; ++r)
      job.codes[(part.first_row + r) * job.words + index] = word[r];
    ++index;
    used -= 32;
    const int fitted = job.bits - used;  // bits of this code that fitted
    for (int i = 0; i < kLanes; ++i) word[i] = used > 0 ? codes[i] >> fitted : 0;
    if (c + 1 == job.columns && used > 0)
      for (int r = 0; r < part.rows; ++r)
        job.codes[(part.first_row + r) * job.words + index] = word[r];
  }
}

void write_grids(const TileJob& job, const Part& part) {
  for (Index group = 0; group < job.groups; ++group) {
    Rows scale = part.scale[group];
    Rows zero = part.zero[group];
    for (int r = 0; r < part.rows; ++r) {
      const Index at = (part.first_row + r) * job.groups + group;
      if (job.scales != nullptr) job.scales[at] = lanes(scale)[r];
      if (job.zeros != nullptr) job.zeros[at] = static_cast<std::uint8_t>(lanes(zero)[r]);
    }
  }
}

}  // namespace
}  // namespace aq::AQ_TILE_NAMESPACE
