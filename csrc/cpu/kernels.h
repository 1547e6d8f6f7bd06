// One table of functions per instruction set: everything whose speed depends on it. Each is compiled
// in a translation unit of its own (kernels_<isa>.cpp) and chosen at run time.
//
// Those units include nothing of the standard library that the linker could merge with the copy of
// another unit: an inline function compiled for AVX-512 must never end up in the portable path.

#pragma once

#include <cstdint>

namespace clipgap {

constexpr int kExactRows = 3;

// How vectors become integers; the same for rows and columns. `docs/exactness.md` derives the bounds.
struct Quantiser {
  int64_t d;         // stored dimension
  int64_t padded;    // multiple of 64; zeros behind d
  int64_t block;     // Hadamard block, the largest power of two dividing `padded`, at most 1024
  const float* centre;  // (padded) subtracted first; any vector is correct, the mean is best
  const float* signs;   // (padded) +1 or -1
  float step;        // size of one integer step before the 1/sqrt(block) of the rotation
  float limit;       // largest integer magnitude
};

struct Rounded {
  float residual_sq;  // of (y - step * q)
  float integer_sq;   // of q
};

struct Quantised {
  float norm_sq;      // of the centred vector
  float residual_sq;  // as in Rounded, of y that is `block` times longer in square than the vector
  float integer_sq;
};

// Vectors are projected onto so many directions at a time.
constexpr int kDirections = 32;
// And so many products are summed up at a time, for the sake of rounding.
constexpr int kPartial = 64;

constexpr int kAtOnce = 4;  // pairs that are looked at again
constexpr int kBeyond = 4;

// One place where the filter could not rule a pair out.
struct Survivor {
  int32_t row;     // in the row block
  int32_t column;  // in scan order
  int32_t bound;   // upper bound of its score in integer units, without the row's offset
};

// What the epilogue compares a tile with. A pair survives when its bound reaches any of the three.
struct TileBounds {
  const int32_t* row;     // (tile_rows) the row's best score so far, in this test set
  const int32_t* margin;  // (tile_rows) the row's best margin so far
  const int32_t* offset;  // (tile_rows) what the row adds to every bound
  const int32_t* column;  // (tile_columns) the column's k-th best score so far
  const int32_t* tau;     // (tile_columns) the column's threshold
};

struct Kernels {
  const char* name;
  int tile_rows, tile_columns;
  int group;            // integers that share one 32-bit lane: 4 of 8 bits or 2 of 16 bits
  float max_limit;      // largest integer magnitude the lanes can hold
  int32_t row_bias;     // added to every row integer when packed, where rows must be unsigned

  // See cg_admit.
  void (*admit)(const void* raw, int bytes, int64_t n, int64_t d, uint16_t* rows, uint8_t* status,
                double* norm);
  Quantised (*quantise)(const Quantiser&, const uint16_t* vector, int16_t* out, float* scratch);
  // y to integers, as `quantise` does; n is a multiple of 8.
  Rounded (*round)(const float* y, int64_t n, float step, float limit, int16_t* out);
  // A vector less the centre, and the square of its length.
  float (*centred)(const uint16_t* vector, const float* centre, int64_t d, float* out);
  // Scalar products of vectors (n, d) with directions, packed as [count / kDirections][d][kDirections]:
  // (n, count).
  void (*project)(const float* vectors, int64_t n, int64_t d, const float* directions, int64_t count,
                  float* out);
  // (n, padded) integers -> panels of `width` vectors: [panel][lane][vector] 32-bit units.
  void (*pack)(const int16_t* integers, int64_t n, int64_t padded, int width, int bias, int32_t* out);
  // out[r][c] = start[c] + dot(row r, column c) for one tile of packed panels.
  void (*tile)(const int32_t* rows, const int32_t* columns, int64_t lanes, const int32_t* start,
               int32_t* out);
  // One row of such a tile; `row` is the panel of rows from that row on.
  void (*tile_row)(const int32_t* row, const int32_t* columns, int64_t lanes, const int32_t* start,
                   int32_t* out);
  // Which of the tile_columns values of such a row is largest, the first of equal ones.
  int (*largest)(const int32_t* values);
  // Appends the survivors of a tile to `queue`, returns how many.
  int64_t (*survivors)(const int32_t* tile, const TileBounds&, int32_t first_row,
                       int32_t first_column, int32_t rows, Survivor* queue);
  // The same in one step, for a first look: appends pairs, each as row * tile_columns + column, with the
  // row counted in the block and the column in its panel. Writes up to kBeyond numbers more.
  int64_t (*sift)(const int32_t* rows, const int32_t* columns, int64_t lanes, const int32_t* start,
                  const TileBounds& bounds, int32_t first_row, int32_t count, int32_t* pairs);
  // Second look: of n such pairs of a panel of columns, those that survive at full depth too; returns
  // how many, their columns counted in the panel. Behind them are kAtOnce more, whatever pairs, to fill up
  // the last step. Rows and columns are single vectors of `lanes` units; `bounds` and `start` begin at the
  // first row of the block and at the first column of the panel.
  int64_t (*look_again)(const int32_t* rows, const int32_t* columns, int64_t lanes,
                        const int32_t* start, const TileBounds& bounds, const int32_t* pairs,
                        int64_t n, Survivor* queue);
  double (*dot)(const uint16_t* a, const uint16_t* b, int64_t d);
  // Scalar products of vectors (n, d) with float64 weights (heads, d): (n, heads).
  void (*weigh)(const uint16_t* vectors, int64_t n, int64_t d, const double* weights, int64_t heads,
                double* out);
  // See cg_sums_of_words.
  void (*sums_of_words)(const void* rows, int64_t n, int64_t width, const uint64_t* factors,
                        uint64_t* sums);
  // sum += vector, number by number.
  void (*add_to)(const uint16_t* vector, int64_t d, double* sum);
  // Vectors (n <= width, d) to float64, transposed: [d][width].
  void (*widen)(const uint16_t* vectors, int64_t n, int64_t d, int64_t width, double* out);
  // Exact scores of kExactRows rows against a widened panel: [kExactRows][tile_columns].
  void (*exact)(const double* const* rows, const double* columns, int64_t d, double* scores);
  // best[c] = max over the tile's rows of tile[r][c] + offset[r].
  void (*column_max)(const int32_t* tile, const int32_t* offset, int32_t rows, int32_t* best);

  // Keep the arithmetic units busy and return the operations done; for benchmarks only.
  double (*burn_fma)(int64_t rounds);
  double (*burn_integer)(int64_t rounds);
};

extern const Kernels kernels_portable;
#ifndef CLIPGAP_PORTABLE_ONLY
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512vnni;
#endif

}  // namespace clipgap
