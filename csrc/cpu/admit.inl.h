// Admission of raw rows: judged, normalised where they are not of norm 1, rounded to float16 once.
//
// The sum of squares runs in one fixed order (eight lanes, then a tree), which is also what
// clipgap/kernels/admit.py does in NumPy: the same bits come out with and without this library.
// Float64 rows whose squares would leave its range are measured and divided in steps of 2^600.

#pragma once

#include "kernels.inl.h"

namespace clipgap {
namespace {

constexpr double kNormTolerance = 1e-3;
constexpr double kFewBits = 0x1p-450, kSteps = 0x1p600;
enum : uint8_t { kOk = 0, kNormalised = 1, kZero = 2, kNotFinite = 3 };

template <class Isa>
CG_INLINE void eight(const uint16_t* from, double* to) {
  const F8 values = Isa::halves(from);
  for (int l = 0; l < 8; ++l) to[l] = double(values[l]);
}
template <class Isa, class Float>
CG_INLINE void eight(const Float* from, double* to) {
  for (int l = 0; l < 8; ++l) to[l] = double(from[l]);
}

// Calls each(8 values, first, how many of them count) along a row.
template <class Isa, class Float, class Each>
CG_INLINE void along(const Float* row, int64_t d, const Each& each) {
  double values[8];
  int64_t i = 0;
  for (; i + 8 <= d; i += 8) {
    eight<Isa>(row + i, values);
    each(values, i, 8);
  }
  if (i < d) {
    Float tail[8] = {};
    for (int64_t j = i; j < d; ++j) tail[j - i] = row[j];
    eight<Isa>(tail, values);
    each(values, i, int(d - i));
  }
}

template <class Isa, class Float>
double norm_of(const Float* row, int64_t d, double factor = 1.0) {
  double lanes[8] = {};
  along<Isa>(row, d, [&](const double* x, int64_t, int) {
    for (int l = 0; l < 8; ++l) lanes[l] += (x[l] * factor) * (x[l] * factor);
  });
  for (int half = 4; half; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return __builtin_sqrt(lanes[0]);
}

// Near norm 1 a sum of float16 squares is exact in any order, so the quick one will do.
template <class Isa>
double norm_of(const uint16_t* row, int64_t d) {
  const double square = dot<Isa>(row, row, d);
  if (square > 0.5 && square < 2.0) return __builtin_sqrt(square);
  return norm_of<Isa, uint16_t>(row, d);
}

// To nearest, ties to even, straight from float64, so that nothing is rounded twice. |x| <= 65504.
CG_INLINE uint16_t half_of(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const uint64_t sign = (bits >> 48) & 0x8000;
  bits &= ~uint64_t{0} >> 1;
  __builtin_memcpy(&x, &bits, sizeof x);
  // Adding 1.5 * 2^52 steps of the target's size leaves the rounded number of steps in the low bits.
  const uint64_t smallest = 1023 - 14;
  const uint64_t exponent = bits >> 52 < smallest ? smallest : bits >> 52;
  const uint64_t magic_bits = ((exponent + 42) << 52) | (uint64_t{1} << 51);
  double magic;
  __builtin_memcpy(&magic, &magic_bits, sizeof magic);
  const double shifted = x + magic;
  uint64_t steps;
  __builtin_memcpy(&steps, &shifted, sizeof steps);
  return uint16_t(sign + (steps - magic_bits) + ((exponent - smallest) << 10));
}

template <class Isa, class Float>
void admit_rows(const Float* raw, int64_t n, int64_t d, uint16_t* rows, uint8_t* status,
                double* norm) {
  for (int64_t i = 0; i < n; ++i) {
    const Float* from = raw + i * d;
    double length = norm_of<Isa>(from, d), factor = 1.0;
    if (sizeof(Float) == 8 && !(length >= kFewBits && __builtin_isfinite(length))) {
      factor = length < kFewBits ? kSteps : 1.0 / kSteps;
      length = norm_of<Isa, Float>(from, d, factor);
    }
    norm[i] = length / factor;
    status[i] = !__builtin_isfinite(length)                     ? kNotFinite
                : length == 0.0                                 ? kZero
                : __builtin_fabs(norm[i] - 1.0) > kNormTolerance ? kNormalised
                                                                : kOk;
    if (!rows) continue;
    uint16_t* to = rows + i * d;
    if (status[i] >= kZero) {
      __builtin_memset(to, 0, d * sizeof *to);
      continue;
    }
    const double divisor = status[i] == kNormalised ? length : 1.0;
    along<Isa>(from, d, [&](const double* x, int64_t first, int count) {
      uint16_t halves[8];
      for (int l = 0; l < 8; ++l) halves[l] = half_of(x[l] * factor / divisor);
      __builtin_memcpy(to + first, halves, count * sizeof *halves);
    });
  }
}

template <class Isa>
void admit(const void* raw, int bytes, int64_t n, int64_t d, uint16_t* rows, uint8_t* status,
           double* norm) {
  if (bytes == 2) admit_rows<Isa>((const uint16_t*)raw, n, d, rows, status, norm);
  if (bytes == 4) admit_rows<Isa>((const float*)raw, n, d, rows, status, norm);
  if (bytes == 8) admit_rows<Isa>((const double*)raw, n, d, rows, status, norm);
}

}  // namespace
}  // namespace clipgap
