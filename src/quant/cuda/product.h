#pragma once
/// The product of all large sums: C = A B' of pairs as three bfloat16 products with sums in
/// float32, low parts by high ones first, and without the product of two low ones.

#include <cstdint>

#include "quant/cuda/block.h"
#include "quant/cuda/views.h"

namespace aq::cuda {

/// C = ±A B' or C += ±A B' in each of a batch: A `[rows, depth]`, B `[columns, depth]`, C `[rows,
/// columns]`. Tables lie on the device and hold the beginnings of arrays. An operand A without low
/// parts is exact in its high ones. An element's bits depend on its row of A, its row of B and
/// depth alone.
struct Product {
  Index batch, rows, columns, depth;
  const PairArray* a;
  Index a_offset, a_stride;
  const PairArray* b;
  Index b_offset, b_stride;
  float* const* c;
  Index c_offset, c_stride;
  bool add = false, subtract = false;
};

/// Side of a tile of C, and columns of both operands in shared memory at one time.
inline constexpr int kTileSide = 128, kTileDepth = 32;

/// Rows of an operand in shared memory. They are 80 bytes apart: eight of them fall into different
/// banks, and each begins at a multiple of 16 bytes.
struct alignas(16) TileOperand {
  static constexpr int kPitch = kTileDepth + 8;
  std::uint16_t high[kTileSide][kPitch], low[kTileSide][kPitch];
};

/// The sums of a tile of C, which a block keeps while it goes along the depth.
template <class Block>
class TileSums;

/// Plain loops.
template <>
class TileSums<HostBlock> {
 public:
  explicit TileSums(const HostBlock&) : sums_(std::size_t{kTileSide} * kTileSide) {}

  /// The sums of this thread += those of the tiles; all threads call it.
  void multiply(const TileOperand& a, const TileOperand& b, int rows, int columns, int thread) {
    if (thread > 0) return;
    alignas(64) float other[kTileDepth][kTileSide] = {};
    for (int c = 0; c < columns; ++c)
      for (int k = 0; k < kTileDepth; ++k)
        other[k][c] = from_bf16(b.high[c][k]) + from_bf16(b.low[c][k]);
    const int wide = (columns + 15) / 16 * 16;
    for (int r = 0; r < rows; ++r) {
      float* __restrict sums = sums_.data() + Index{r} * kTileSide;
      for (int k = 0; k < kTileDepth; ++k) {
        const float factor = from_bf16(a.high[r][k]) + from_bf16(a.low[r][k]);
        const float* __restrict of_k = other[k];
        for (int c = 0; c < wide; ++c) sums[c] += factor * of_k[c];
      }
    }
  }

  /// body(row, column, sum) for the sums of this thread.
  template <class Body>
  void each(int thread, const Body& body) const {
    if (thread > 0) return;
    for (int r = 0; r < kTileSide; ++r)
      for (int c = 0; c < kTileSide; ++c) body(r, c, sums_[r * kTileSide + c]);
  }

 private:
  std::vector<float> sums_;
};

#ifdef __CUDACC__
/// Tensor cores: each of eight warps has 64 rows and 32 columns as 4 x 4 fragments of m16n8k16 (PTX
/// ISA, "Matrix Fragments for mma.m16n8k16").
template <>
class TileSums<GpuBlock> {
 public:
  __device__ explicit TileSums(const GpuBlock&) {}

  __device__ __forceinline__ void multiply(const TileOperand& a, const TileOperand& b, int, int,
                                           int thread) {
    const int lane = thread % 32, row = first_row(thread), column = first_column(thread);
    __syncwarp();  // lanes may have read their parts of the next tiles in different ways
#pragma unroll
    for (int k = 0; k < kTileDepth; k += 16) {
      std::uint32_t a_high[4][4], a_low[4][4], b_high[4][2], b_low[4][2];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const int r = row + m * 16 + lane % 16, at = k + lane / 16 * 8;
        load(a_high[m][0], a_high[m][1], a_high[m][2], a_high[m][3], &a.high[r][at]);
        load(a_low[m][0], a_low[m][1], a_low[m][2], a_low[m][3], &a.low[r][at]);
      }
#pragma unroll
      for (int n = 0; n < 4; n += 2) {
        const int c = column + n * 8 + lane / 16 * 8 + lane % 8, at = k + lane / 8 % 2 * 8;
        load(b_high[n][0], b_high[n][1], b_high[n + 1][0], b_high[n + 1][1], &b.high[c][at]);
        load(b_low[n][0], b_low[n][1], b_low[n + 1][0], b_low[n + 1][1], &b.low[c][at]);
      }
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          add(sums_[m][n], a_low[m], b_high[n]);
          add(sums_[m][n], a_high[m], b_low[n]);
          add(sums_[m][n], a_high[m], b_high[n]);
        }
    }
  }

  template <class Body>
  __device__ __forceinline__ void each(int thread, const Body& body) const {
    const int lane = thread % 32;
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          body(first_row(thread) + m * 16 + lane / 4 + i / 2 * 8,
               first_column(thread) + n * 8 + lane % 4 * 2 + i % 2, sums_[m][n][i]);
  }

 private:
  static __device__ int first_row(int thread) {
    return thread / 32 / 4 * 64;
  }
  static __device__ int first_column(int thread) {
    return thread / 32 % 4 * 32;
  }

  /// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
  static __device__ __forceinline__ void load(std::uint32_t& x0, std::uint32_t& x1,
                                              std::uint32_t& x2, std::uint32_t& x3,
                                              const std::uint16_t* row) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x0), "=r"(x1), "=r"(x2), "=r"(x3)
                 : "r"(address));
  }

  static __device__ __forceinline__ void add(float (&sum)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  float sums_[4][4][4] = {};
};
#endif

/// A tile of C for each block.x, tiles of rows first; a task for each block.y. What comes next is
/// on its way from memory while tiles are multiplied.
struct MultiplyPairs {
  static constexpr int kThreads = 256;
  struct Shared {
    TileOperand a, b;
  };
  Product p;

  static Index tiles(const Product& p) {
    return ceil_div(p.rows, Index{kTileSide}) * ceil_div(p.columns, Index{kTileSide});
  }

  template <class Block>
  AQ_HOST_DEVICE void run(const Block& block) const {
    Shared& m = block.template shared<Shared>();
    const Index row_tiles = (p.rows + kTileSide - 1) / kTileSide;
    const Index row = block.x % row_tiles * kTileSide, column = block.x / row_tiles * kTileSide;
    const Rows a{p.a[block.y], p.a_offset + row * p.a_stride, p.a_stride, left(p.rows - row)};
    const Rows b{p.b[block.y], p.b_offset + column * p.b_stride, p.b_stride,
                 left(p.columns - column)};
    TileSums<Block> sums(block);
    typename Block::template Own<Ahead> ahead(block);
    block.each_thread([&](int thread) { ahead[thread] = fetch(a, b, 0, thread); });
    for (Index k = 0; k < p.depth; k += kTileDepth) {
      block.each_thread([&](int thread) { put(ahead[thread], m, thread); });
      block.each_thread([&](int thread) {
        if (k + kTileDepth < p.depth) ahead[thread] = fetch(a, b, k + kTileDepth, thread);
        sums.multiply(m.a, m.b, a.count, b.count, thread);
      });
    }
    float* c = p.c[block.y] + p.c_offset + row * p.c_stride + column;
    block.each_thread([&](int thread) {
      sums.each(thread, [&](int r, int at, float sum) {
        if (r >= a.count || at >= b.count) return;
        float& out = c[r * p.c_stride + at];
        const float value = p.subtract ? -sum : sum;
        out = p.add ? out + value : value;
      });
    });
  }

 private:
  static constexpr int kChunk = 8;  ///< elements that a thread moves at a time
  static constexpr int kChunks = kTileDepth / kChunk;
  static constexpr int kTurns = kTileSide * kChunks / kThreads;

  struct alignas(16) Chunk {
    std::uint16_t values[kChunk];
  };
  /// What a thread moves of a pair of tiles.
  struct Ahead {
    Chunk a_high[kTurns], a_low[kTurns], b_high[kTurns], b_low[kTurns];
  };
  /// Rows of an operand that belong to a tile.
  struct Rows {
    PairArray values;
    Index offset, stride;
    int count;
  };

  static AQ_HOST_DEVICE int left(Index rows) {
    return static_cast<int>(rows < kTileSide ? rows : kTileSide);
  }

  AQ_HOST_DEVICE Chunk chunk(const std::uint16_t* from, const Rows& rows, Index row,
                             Index k) const {
    Chunk out{};
    if (from == nullptr || row >= rows.count || k >= p.depth) return out;
    const std::uint16_t* at = from + rows.offset + row * rows.stride + k;
    if (k + kChunk <= p.depth && reinterpret_cast<std::uintptr_t>(at) % sizeof(Chunk) == 0)
      return *reinterpret_cast<const Chunk*>(at);
    for (Index i = 0; i < kChunk && k + i < p.depth; ++i) out.values[i] = at[i];
    return out;
  }

  AQ_HOST_DEVICE Ahead fetch(const Rows& a, const Rows& b, Index k, int thread) const {
    Ahead out;
    AQ_UNROLL
    for (int turn = 0; turn < kTurns; ++turn) {
      const int i = thread + turn * kThreads;
      const Index row = i / kChunks, at = k + Index{i % kChunks} * kChunk;
      out.a_high[turn] = chunk(a.values.high, a, row, at);
      out.a_low[turn] = chunk(a.values.low, a, row, at);
      out.b_high[turn] = chunk(b.values.high, b, row, at);
      out.b_low[turn] = chunk(b.values.low, b, row, at);
    }
    return out;
  }

  static AQ_HOST_DEVICE void put(const Ahead& ahead, Shared& m, int thread) {
    AQ_UNROLL
    for (int turn = 0; turn < kTurns; ++turn) {
      const int i = thread + turn * kThreads;
      const int row = i / kChunks, at = i % kChunks * kChunk;
      *reinterpret_cast<Chunk*>(&m.a.high[row][at]) = ahead.a_high[turn];
      *reinterpret_cast<Chunk*>(&m.a.low[row][at]) = ahead.a_low[turn];
      *reinterpret_cast<Chunk*>(&m.b.high[row][at]) = ahead.b_high[turn];
      *reinterpret_cast<Chunk*>(&m.b.low[row][at]) = ahead.b_low[turn];
    }
  }
};

}  // namespace aq::cuda
