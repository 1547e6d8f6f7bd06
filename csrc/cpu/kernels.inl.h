// The kernels, written once over a small vocabulary of vector operations (`Isa`). Each kernels_<isa>.cpp
// defines that vocabulary and includes this file; everything is in an unnamed namespace, so that no two
// units share a symbol.

#pragma once

#include "kernels.h"

// Wide vectors are passed between inlined functions only; their calling convention does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace clipgap {
namespace {

typedef float F8 __attribute__((vector_size(32)));
typedef double D8 __attribute__((vector_size(64)));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef int16_t S8 __attribute__((vector_size(16)));

#define CG_INLINE inline __attribute__((always_inline))

template <class T>
CG_INLINE T load_as(const void* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
CG_INLINE void store_as(void* to, const T& value) {
  __builtin_memcpy(to, &value, sizeof value);
}

CG_INLINE F8 splat(float x) { return F8{x, x, x, x, x, x, x, x}; }

#ifdef __clang__
#define CG_SHUFFLE(v, a, b, c, d, e, f, g, h) __builtin_shufflevector(v, v, a, b, c, d, e, f, g, h)
#else
#define CG_SHUFFLE(v, a, b, c, d, e, f, g, h) __builtin_shuffle(v, I8{a, b, c, d, e, f, g, h})
#endif

// --- quantise -----------------------------------------------------------------------------------

// The three Hadamard levels that stay inside one vector.
CG_INLINE F8 butterfly_within(F8 v) {
  v = v * F8{1, -1, 1, -1, 1, -1, 1, -1} + CG_SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6);
  v = v * F8{1, 1, -1, -1, 1, 1, -1, -1} + CG_SHUFFLE(v, 2, 3, 0, 1, 6, 7, 4, 5);
  return v * F8{1, 1, 1, 1, -1, -1, -1, -1} + CG_SHUFFLE(v, 4, 5, 6, 7, 0, 1, 2, 3);
}

// The levels with strides of 8 and more over one block, two at a time where two are left.
CG_INLINE void butterfly_across(float* y, int64_t block) {
  int64_t h = 8;
  for (; 4 * h <= block; h *= 4) {
    for (int64_t base = 0; base < block; base += 4 * h) {
      for (int64_t i = base; i < base + h; i += 8) {
        const F8 a = load_as<F8>(y + i), b = load_as<F8>(y + i + h);
        const F8 c = load_as<F8>(y + i + 2 * h), d = load_as<F8>(y + i + 3 * h);
        const F8 sum0 = a + b, diff0 = a - b, sum1 = c + d, diff1 = c - d;
        store_as(y + i, sum0 + sum1);
        store_as(y + i + h, diff0 + diff1);
        store_as(y + i + 2 * h, sum0 - sum1);
        store_as(y + i + 3 * h, diff0 - diff1);
      }
    }
  }
  if (2 * h <= block) {
    for (int64_t i = 0; i < h; i += 8) {
      const F8 a = load_as<F8>(y + i), b = load_as<F8>(y + i + h);
      store_as(y + i, a + b);
      store_as(y + i + h, a - b);
    }
  }
}

CG_INLINE float sum_of(const F8& v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

CG_INLINE double sum_of(const D8& v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

template <class Isa>
Rounded round(const float* y, int64_t n, float grid, float limit, int16_t* out) {
  // Adding and taking away 1.5 * 2^23 rounds to the nearest integer; its bits then are the integer.
  const float magic = 12582912.0f;
  const int32_t magic_bits = 0x4B400000;
  const F8 inverse = splat(1.0f / grid), step = splat(grid);
  const F8 top = splat(limit), bottom = splat(-limit);
  F8 residual = splat(0), integers = splat(0);
  for (int64_t i = 0; i < n; i += 8) {
    const F8 value = load_as<F8>(y + i);
    F8 scaled = value * inverse;
    scaled = scaled < top ? scaled : top;
    scaled = scaled > bottom ? scaled : bottom;
    const F8 shifted = scaled + splat(magic);
    const F8 rounded = shifted - splat(magic);
    const F8 rest = value - rounded * step;
    residual += rest * rest;
    integers += rounded * rounded;
    const I8 bits = load_as<I8>(&shifted) - magic_bits;
    store_as(out + i, __builtin_convertvector(bits, S8));
  }
  return {sum_of(residual), sum_of(integers)};
}

// Eight values from place i on; zeros behind the end.
template <class Isa>
CG_INLINE F8 halves_at(const uint16_t* vector, int64_t i, int64_t d) {
  if (i + 8 <= d) return Isa::halves(vector + i);
  uint16_t tail[8] = {};
  for (int64_t j = i; j < d; ++j) tail[j - i] = vector[j];
  return Isa::halves(tail);
}

template <class Isa>
Quantised quantise(const Quantiser& how, const uint16_t* vector, int16_t* out, float* y) {
  F8 norm = splat(0);
  for (int64_t i = 0; i < how.padded; i += 8) {
    F8 x = halves_at<Isa>(vector, i, how.d);
    x = (x - load_as<F8>(how.centre + i)) * load_as<F8>(how.signs + i);
    norm += x * x;
    store_as(y + i, butterfly_within(x));
  }
  for (int64_t start = 0; start < how.padded; start += how.block) {
    butterfly_across(y + start, how.block);
  }

  const Rounded rounded = round<Isa>(y, how.padded, how.step, how.limit, out);
  return {sum_of(norm), rounded.residual_sq, rounded.integer_sq};
}

template <class Isa>
void pack(const int16_t* integers, int64_t n, int64_t padded, int width, int bias, int32_t* out) {
  const int64_t lanes = padded / Isa::kGroup;
  if (width == 1 && Isa::kGroup == 4) {  // bytes in their order
    auto* bytes = reinterpret_cast<unsigned char*>(out);
    for (int64_t i = 0; i < n * padded; ++i) bytes[i] = static_cast<unsigned char>(integers[i] + bias);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const int16_t* from = integers + i * padded;
    int32_t* to = out + (i / width) * lanes * width + i % width;
    for (int64_t lane = 0; lane < lanes; ++lane, from += Isa::kGroup, to += width) {
      uint32_t unit = 0;
      for (int j = 0; j < Isa::kGroup; ++j) {
        const int bits = 32 / Isa::kGroup;
        unit |= (uint32_t(from[j] + bias) & ((1u << bits) - 1)) << (bits * j);
      }
      *to = int32_t(unit);
    }
  }
}

// --- project ------------------------------------------------------------------------------------

template <class Isa>
float centred(const uint16_t* vector, const float* centre, int64_t d, float* out) {
  F8 norm = splat(0);
  for (int64_t i = 0; i < d; i += 8) {
    const F8 x = halves_at<Isa>(vector, i, d) - load_as<F8>(centre + i);
    norm += x * x;
    if (i + 8 <= d) {
      store_as(out + i, x);
    } else {
      for (int64_t j = i; j < d; ++j) out[j] = x[j - i];
    }
  }
  return sum_of(norm);
}

// Some rows with kDirections directions.
template <class Isa, int R>
CG_INLINE void project_rows(const float* vectors, int64_t d, const float* directions, float* out,
                            int64_t count) {
  using V = typename Isa::Fma;
  constexpr int W = sizeof(V) / sizeof(float), C = kDirections / W;
  for (int64_t first = 0; first < d; first += kPartial) {
    const int64_t last = first + kPartial < d ? first + kPartial : d;
    V sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = V{};
    }
#pragma GCC unroll 1
    for (int64_t i = first; i < last; ++i, directions += kDirections) {
      V column[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) column[c] = load_as<V>(directions + c * W);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const V x = Isa::fma_splat(vectors[r * d + i]);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sum[r][c] = Isa::fma(x, column[c], sum[r][c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        float* to = out + r * count + c * W;
        store_as(to, first ? load_as<V>(to) + sum[r][c] : sum[r][c]);
      }
    }
  }
}

template <class Isa>
__attribute__((noinline)) void project(const float* vectors, int64_t n, int64_t d,
                                       const float* directions, int64_t count, float* out) {
  constexpr int W = sizeof(typename Isa::Fma) / sizeof(float);
  constexpr int kSums = W == 16 ? 12 : 8;  // which hide the latency of one, and fit the registers
  constexpr int R = kSums * W >= kDirections ? kSums * W / kDirections : 1;
  for (int64_t first = 0; first < count; first += kDirections, directions += d * kDirections) {
    int64_t i = 0;
    for (; i + R <= n; i += R) {
      project_rows<Isa, R>(vectors + i * d, d, directions, out + i * count + first, count);
    }
    for (; i < n; ++i) {
      project_rows<Isa, 1>(vectors + i * d, d, directions, out + i * count + first, count);
    }
  }
}

// --- filter -------------------------------------------------------------------------------------

template <class Isa>
using Sums = typename Isa::V[Isa::kRows][Isa::kVectors];

// The main loop. Only what needs the sums in their registers follows it in a function: with anything
// else in there compilers spill them, and half the speed is gone (tests/test_disassembly.py watches this).
template <class Isa>
CG_INLINE void multiply(const int32_t* rows, const int32_t* columns, int64_t lanes,
                        const int32_t* start, Sums<Isa>& sum) {
  using V = typename Isa::V;
  constexpr int R = Isa::kRows, C = Isa::kVectors, W = Isa::kWidth;
  constexpr int S = Isa::kStep;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sum[r][c] = Isa::load(start + c * W);
  }
#pragma GCC unroll 1
  for (int64_t lane = 0; lane < lanes; lane += S) {
    V column[C][S], row[S];
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) column[c][s] = Isa::load(columns + (s * C + c) * W);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int s = 0; s < S; ++s) row[s] = Isa::splat(rows[s * R + r]);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[r][c] = Isa::dot(sum[r][c], row, column[c]);
    }
    rows += S * R;
    columns += S * C * W;
  }
}

template <class Isa>
__attribute__((noinline)) void tile(const int32_t* rows, const int32_t* columns, int64_t lanes,
                                    const int32_t* start, int32_t* out) {
  constexpr int R = Isa::kRows, C = Isa::kVectors, W = Isa::kWidth;
  Sums<Isa> sum;
  multiply<Isa>(rows, columns, lanes, start, sum);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) Isa::store(out + (r * C + c) * W, sum[r][c]);
  }
}

template <class Isa>
void tile_row(const int32_t* row, const int32_t* columns, int64_t lanes, const int32_t* start,
              int32_t* out) {
  using V = typename Isa::V;
  constexpr int R = Isa::kRows, C = Isa::kVectors, W = Isa::kWidth, S = Isa::kStep;
  V sum[C];
  for (int c = 0; c < C; ++c) sum[c] = Isa::load(start + c * W);
  for (int64_t lane = 0; lane < lanes; lane += S, row += S * R, columns += S * C * W) {
    V x[S], column[S];
    for (int s = 0; s < S; ++s) x[s] = Isa::splat(row[s * R]);
    for (int c = 0; c < C; ++c) {
      for (int s = 0; s < S; ++s) column[s] = Isa::load(columns + (s * C + c) * W);
      sum[c] = Isa::dot(sum[c], x, column);
    }
  }
  for (int c = 0; c < C; ++c) Isa::store(out + c * W, sum[c]);
}

template <class Isa>
int largest(const int32_t* values) {
  using V = typename Isa::V;
  constexpr int C = Isa::kVectors, W = Isa::kWidth;
  int32_t most = values[0];
  for (int c = 1; c < C * W; ++c) most = values[c] > most ? values[c] : most;
  uint32_t where = 0;
  const V all = Isa::splat(most);
  for (int c = 0; c < C; ++c) where |= Isa::reaches(Isa::load(values + c * W), all) << (c * W);
  return __builtin_ctz(where);
}

template <class Isa>
constexpr int32_t kPanelColumns = Isa::kVectors * Isa::kWidth;
template <class Isa>
constexpr int32_t kTogether = 64 / kPanelColumns<Isa>;  // rows of a tile whose bits fill a word

template <class Isa>
__attribute__((noinline)) void reach(const int32_t* rows, const int32_t* columns, int64_t lanes,
                                     const int32_t* start, const TileBounds& bounds,
                                     uint64_t* alive) {
  using V = typename Isa::V;
  constexpr int R = Isa::kRows, C = Isa::kVectors, W = Isa::kWidth;
  Sums<Isa> sum;
  multiply<Isa>(rows, columns, lanes, start, sum);
  uint64_t word = 0;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const V row = Isa::splat(bounds.row[r]), offset = Isa::splat(bounds.offset[r]);
    const V margin = Isa::splat(bounds.margin[r]);
    uint64_t of_row = 0;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const V column = Isa::load(bounds.column + c * W), tau = Isa::load(bounds.tau + c * W);
      const V need = Isa::min(Isa::min(row, Isa::sub(column, offset)), Isa::add(margin, tau));
      of_row |= uint64_t(Isa::reaches(sum[r][c], need)) << (c * W);
    }
    const int place = r % kTogether<Isa>;
    word |= of_row << (place * C * W);
    if (place == kTogether<Isa> - 1 || r == R - 1) alive[r / kTogether<Isa>] = word, word = 0;
  }
}

// Appends `first` + the place of each bit. Where bits are is hard to guess for a processor, so a branch is
// taken for four of them; up to three numbers behind the last mean nothing.
CG_INLINE int32_t* append_bits(uint64_t bits, int32_t first, int32_t* out) {
  const int count = __builtin_popcountll(bits);
  int done = 0;
  do {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i, bits &= bits - 1) {
      out[done + i] = first + __builtin_ctzll(bits | uint64_t(1) << 63);
    }
  } while ((done += 4) < count);
  return out + count;
}

template <class Isa>
int64_t sift(const int32_t* rows, const int32_t* columns, int64_t lanes, const int32_t* start,
             const TileBounds& bounds, int32_t first_row, int32_t count, int32_t* pairs) {
  constexpr int kWidth = kPanelColumns<Isa>, kStride = kTogether<Isa>;
  uint64_t alive[(Isa::kRows + kStride - 1) / kStride];
  reach<Isa>(rows, columns, lanes, start, bounds, alive);
  int32_t* next = pairs;
#pragma GCC unroll 6
  for (int32_t first = 0; first < Isa::kRows; first += kStride) {
    uint64_t bits = alive[first / kStride];
    if (first + kStride > count) {
      if (first >= count) break;
      bits &= (uint64_t(1) << ((count - first) * kWidth)) - 1;
    }
    next = append_bits(bits, (first_row + first) * kWidth, next);
  }
  return next - pairs;
}

template <class Isa>
int64_t survivors(const int32_t* tile, const TileBounds& bounds, int32_t first_row,
                  int32_t first_column, int32_t rows, Survivor* queue) {
  using V = typename Isa::V;
  constexpr int C = Isa::kVectors, W = Isa::kWidth;
  V column[C], tau[C];
  for (int c = 0; c < C; ++c) {
    column[c] = Isa::load(bounds.column + c * W);
    tau[c] = Isa::load(bounds.tau + c * W);
  }
  Survivor* next = queue;
  for (int32_t r = 0; r < rows; ++r, tile += C * W) {
    const V row = Isa::splat(bounds.row[r]), offset = Isa::splat(bounds.offset[r]);
    const V margin = Isa::splat(bounds.margin[r]);
    uint32_t alive = 0;
    for (int c = 0; c < C; ++c) {
      const V need = Isa::min(Isa::min(row, Isa::sub(column[c], offset)), Isa::add(margin, tau[c]));
      alive |= Isa::reaches(Isa::load(tile + c * W), need) << (c * W);
    }
    for (; alive; alive &= alive - 1) {
      const int32_t c = __builtin_ctz(alive);
      *next++ = {first_row + r, first_column + c, tile[c]};
    }
  }
  return next - queue;
}

// The scalar products of pairs of single vectors, four at a time.
template <class Isa>
CG_INLINE void dots_of(const int32_t* rows, const int32_t* columns, int64_t lanes,
                       const int32_t* pairs, int64_t n, int32_t* dots) {
  using V = typename Isa::V;
  constexpr int W = Isa::kWidth, S = Isa::kStep;
  for (int64_t i = 0; i < n; i += kAtOnce) {
    const int32_t *a[kAtOnce], *b[kAtOnce];
    V sum[kAtOnce];
#pragma GCC unroll 4
    for (int j = 0; j < kAtOnce; ++j) {
      const uint32_t pair = uint32_t(pairs[i + j]);
      a[j] = rows + pair / kPanelColumns<Isa> * lanes, b[j] = columns + pair % kPanelColumns<Isa> * lanes;
      sum[j] = Isa::splat(0);
    }
#pragma GCC unroll 1
    for (int64_t lane = 0; lane < lanes; lane += S * W) {
#pragma GCC unroll 4
      for (int j = 0; j < kAtOnce; ++j) {
        V x[S], y[S];
#pragma GCC unroll 2
        for (int s = 0; s < S; ++s) {
          x[s] = Isa::load(a[j] + lane + s * W), y[s] = Isa::load(b[j] + lane + s * W);
        }
        sum[j] = Isa::dot(sum[j], x, y);
      }
    }
    Isa::sum_up(sum, dots + i);
  }
}

// Products first and bounds behind them, some pairs at a time: together they need more registers than
// there are.
template <class Isa>
__attribute__((noinline)) int64_t look_again(const int32_t* rows, const int32_t* columns,
                                             int64_t lanes, const int32_t* start,
                                             const TileBounds& bounds, const int32_t* pairs,
                                             int64_t n, Survivor* queue) {
  constexpr int64_t kSome = 128;
  int32_t dots[kSome];
  Survivor* next = queue;
  for (int64_t first = 0; first < n; first += kSome, pairs += kSome) {
    const int64_t some = first + kSome < n ? kSome : n - first;
    dots_of<Isa>(rows, columns, lanes, pairs, some, dots);
    for (int64_t i = 0; i < some; ++i) {
      const uint32_t pair = uint32_t(pairs[i]);
      const int32_t r = int32_t(pair / kPanelColumns<Isa>), c = int32_t(pair % kPanelColumns<Isa>);
      const int32_t bound = start[c] + dots[i];
      // All three before a branch is taken, which few pairs take.
      const bool alive = (bound >= bounds.row[r]) | (bound + bounds.offset[r] >= bounds.column[c]) |
                         (bound >= bounds.margin[r] + bounds.tau[c]);
      if (__builtin_expect(alive, 0)) *next++ = {r, c, bound};
    }
  }
  return next - queue;
}

template <class Isa>
void column_max(const int32_t* tile, const int32_t* offset, int32_t rows, int32_t* best) {
  constexpr int columns = Isa::kVectors * Isa::kWidth;
  for (int32_t r = 0; r < rows; ++r, tile += columns) {
    for (int c = 0; c < columns; ++c) {
      const int32_t value = tile[c] + offset[r];
      best[c] = value > best[c] ? value : best[c];
    }
  }
}

// --- refine -------------------------------------------------------------------------------------

// Exact: a product of two float16 fits a float32, and their sum, below 2, fits a float64.
template <class Isa>
double dot(const uint16_t* a, const uint16_t* b, int64_t d) {
  typename Isa::Sum even = Isa::no_sum(), odd = Isa::no_sum();
  int64_t i = 0;
  for (; i + 16 <= d; i += 16) {
    Isa::add_products(even, a + i, b + i);
    Isa::add_products(odd, a + i + 8, b + i + 8);
  }
  if (i < d) {
    uint16_t x[16] = {}, t[16] = {};
    for (int64_t j = i; j < d; ++j) x[j - i] = a[j], t[j - i] = b[j];
    Isa::add_products(even, x, t);
    Isa::add_products(odd, x + 8, t + 8);
  }
  return Isa::total(even, odd);
}

// Two columns of weights at a time, so that rows are widened half as often.
template <class Isa>
void weigh(const uint16_t* rows, int64_t n, int64_t d, const double* weights, int64_t heads,
           double* out) {
  const int64_t whole = d / 8 * 8;
  for (int64_t h = 0; h < heads; h += 2) {
    const int64_t other = h + 1 < heads ? h + 1 : h;
    const double *first = weights + h * d, *second = weights + other * d;
    for (int64_t r = 0; r < n; ++r) {
      const uint16_t* row = rows + r * d;
      D8 a{}, b{};
      for (int64_t i = 0; i < whole; i += 8) {
        const D8 values = __builtin_convertvector(Isa::halves(row + i), D8);
        a += values * load_as<D8>(first + i);
        b += values * load_as<D8>(second + i);
      }
      if (whole < d) {
        uint16_t tail[8] = {};
        double one[8] = {}, two[8] = {};
        for (int64_t i = whole; i < d; ++i) {
          tail[i - whole] = row[i], one[i - whole] = first[i], two[i - whole] = second[i];
        }
        const D8 values = __builtin_convertvector(Isa::halves(tail), D8);
        a += values * load_as<D8>(one);
        b += values * load_as<D8>(two);
      }
      out[r * heads + h] = sum_of(a);
      out[r * heads + other] = sum_of(b);
    }
  }
}

// See cg_sums_of_words.
template <class Isa>
void sums_of_words(const void* rows, int64_t n, int64_t width, const uint64_t* factors,
                   uint64_t* sums) {
  const auto* row = static_cast<const unsigned char*>(rows);
  const int64_t whole = width / 8;
  for (int64_t r = 0; r < n; ++r, row += width) {
    uint64_t sum = 0, rest = 0;
    for (int64_t i = 0; i < whole; ++i) {
      const uint64_t word = load_as<uint64_t>(row + 8 * i);
      sum += (word ^ (word >> 32)) * factors[i];
    }
    __builtin_memcpy(&rest, row + 8 * whole, width % 8);
    if (width % 8) sum += (rest ^ (rest >> 32)) * factors[whole];
    sums[r] = sum;
  }
}

template <class Isa>
void add_to(const uint16_t* vector, int64_t d, double* sum) {
  int64_t i = 0;
  for (; i + 8 <= d; i += 8) {
    const D8 values = __builtin_convertvector(Isa::halves(vector + i), D8);
    store_as(sum + i, load_as<D8>(sum + i) + values);
  }
  if (i == d) return;
  const F8 rest = halves_at<Isa>(vector, i, d);
  for (int64_t j = i; j < d; ++j) sum[j] += double(rest[j - i]);
}

// Where nearly every pair of a panel survives, a small float64 matrix product is three times as fast as
// one pair after another, and just as exact.
template <class Isa>
void widen(const uint16_t* vectors, int64_t n, int64_t d, int64_t width, double* out) {
  for (int64_t c = 0; c < n; ++c, vectors += d) {
    int64_t i = 0;
    for (; i + 8 <= d; i += 8) {
      const F8 values = Isa::halves(vectors + i);
      for (int j = 0; j < 8; ++j) out[(i + j) * width + c] = double(values[j]);
    }
    if (i == d) continue;
    uint16_t tail[8] = {};
    for (int64_t j = i; j < d; ++j) tail[j - i] = vectors[j];
    const F8 values = Isa::halves(tail);
    for (int64_t j = i; j < d; ++j) out[j * width + c] = double(values[j - i]);
  }
}

template <class Isa>
__attribute__((noinline)) void exact(const double* const* rows, const double* columns, int64_t d,
                                     double* scores) {
  using D = typename Isa::D;
  constexpr int lanes = sizeof(D) / sizeof(double), width = Isa::kVectors * Isa::kWidth;
  constexpr int C = width / lanes;
  const double *first = rows[0], *second = rows[1], *third = rows[2];
  D sum[kExactRows][C];
#pragma GCC unroll 3
  for (int r = 0; r < kExactRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = D{};
  }
#pragma GCC unroll 1
  for (int64_t i = 0; i < d; ++i, columns += width) {
    const D a = D{} + first[i], b = D{} + second[i], e = D{} + third[i];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const D column = load_as<D>(columns + c * lanes);
      sum[0][c] = Isa::multiply_add(a, column, sum[0][c]);
      sum[1][c] = Isa::multiply_add(b, column, sum[1][c]);
      sum[2][c] = Isa::multiply_add(e, column, sum[2][c]);
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < kExactRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store_as(scores + r * width + c * lanes, sum[r][c]);
  }
}

// --- peaks --------------------------------------------------------------------------------------

constexpr int kSums = 10;  // enough to hide the latency, few enough for 16 registers

// Every loop over the sums is unrolled: an array indexed by a variable would live in memory.
template <class Isa>
double burn_fma(int64_t rounds) {
  typename Isa::Fma sums[kSums], factor = Isa::fma_splat(0.999f), addend = Isa::fma_splat(0.001f);
#pragma GCC unroll 10
  for (int i = 0; i < kSums; ++i) sums[i] = Isa::fma_splat(1.01f + 0.01f * float(i));
#pragma GCC unroll 1
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 10
    for (int i = 0; i < kSums; ++i) sums[i] = Isa::fma(sums[i], factor, addend);
  }
  typename Isa::Fma total = sums[0];
#pragma GCC unroll 10
  for (int i = 1; i < kSums; ++i) total = total + sums[i];
  float lanes[sizeof total / sizeof(float)];
  store_as(lanes, total);
  asm volatile("" : : "m"(lanes));  // somebody might read it, so it must be computed
  return 2.0 * kSums * double(rounds) * double(sizeof(typename Isa::Fma) / sizeof(float));
}

// The tile loop with all its data in the first-level cache.
template <class Isa>
double burn_integer(int64_t rounds) {
  constexpr int64_t lanes = 64, width = Isa::kVectors * Isa::kWidth;
  static const int32_t rows[Isa::kRows * lanes] = {}, columns[width * lanes] = {}, start[width] = {};
  int32_t out[Isa::kRows * width];
  for (int64_t round = 0; round < rounds; round += lanes) {
    tile<Isa>(rows, columns, lanes, start, out);
    asm volatile("" : : "m"(out));
  }
  return 2.0 * double(rounds) * Isa::kRows * width * Isa::kGroup;
}

}  // namespace
}  // namespace clipgap
