// Admission of raw rows. The sums run in one fixed order (eight lanes, then a tree), which is also what
// clipgap/kernels/admit.py does in NumPy: the same bits come out with and without this library.

#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>

#include "clipgap.h"
#include "kernels.h"

namespace {

constexpr double kNormTolerance = 1e-3;
enum : uint8_t { kOk = 0, kNormalised = 1, kZero = 2, kNotFinite = 3 };

float float_of_half(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31;
  uint32_t bits = uint32_t(half & 0x7FFF) << 13;
  float value;
  if (exponent == 31) {
    bits |= 0x7F800000u;
    std::memcpy(&value, &bits, sizeof value);
  } else {
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
  }
  std::memcpy(&bits, &value, sizeof bits);
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// To nearest, ties to even, straight from float64; |x| <= 65504 is given.
uint16_t half_of_double(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint16_t sign = uint16_t(bits >> 48) & 0x8000;
  bits &= ~(uint64_t{1} << 63);
  std::memcpy(&x, &bits, sizeof x);
  // Adding 1.5 * 2^52 steps of the target's size leaves the rounded number of steps in the low bits.
  uint64_t exponent = bits >> 52;
  if (exponent < 1023 - 14) exponent = 1023 - 14;
  const uint64_t magic_bits = ((exponent + 42) << 52) | (uint64_t{1} << 51);
  double magic;
  std::memcpy(&magic, &magic_bits, sizeof magic);
  const double shifted = x + magic;
  uint64_t steps;
  std::memcpy(&steps, &shifted, sizeof steps);
  steps -= magic_bits;
  return uint16_t(sign + (steps + ((exponent - (1023 - 14)) << 10)));
}

template <class Float>
double as_double(Float x) {
  return double(x);
}
template <>
double as_double<uint16_t>(uint16_t x) {
  return double(float_of_half(x));
}

template <class Float>
double norm_of(const Float* row, int64_t d) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= d; i += 8) {
    for (int l = 0; l < 8; ++l) {
      const double x = as_double(row[i + l]);
      lanes[l] += x * x;
    }
  }
  for (int l = 0; i + l < d; ++l) {
    const double x = as_double(row[i + l]);
    lanes[l] += x * x;
  }
  for (int half = 4; half; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return std::sqrt(lanes[0]);
}

template <class Float>
void admit(const Float* raw, int64_t n, int64_t d, uint16_t* rows, uint8_t* status, double* norm) {
  for (int64_t i = 0; i < n; ++i) {
    const Float* from = raw + i * d;
    const double length = norm_of(from, d);
    norm[i] = length;
    status[i] = !std::isfinite(length)                          ? kNotFinite
                : length == 0.0                                 ? kZero
                : std::fabs(length - 1.0) > kNormTolerance      ? kNormalised
                                                                : kOk;
    if (!rows) continue;
    uint16_t* to = rows + i * d;
    if (status[i] >= kZero) {
      std::memset(to, 0, d * sizeof *to);
    } else if (status[i] == kOk && sizeof(Float) == sizeof(uint16_t)) {
      std::memcpy(to, from, d * sizeof *to);
    } else {
      const double divisor = status[i] == kNormalised ? length : 1.0;
      for (int64_t j = 0; j < d; ++j) to[j] = half_of_double(as_double(from[j]) / divisor);
    }
  }
}

}  // namespace

void cg_admit(const void* raw, int kind, int64_t n, int64_t d, uint16_t* rows, uint8_t* status,
              double* norm) {
  std::fenv_t before;
  std::fegetenv(&before);
  std::fesetenv(FE_DFL_ENV);
  if (kind == 2) admit(static_cast<const uint16_t*>(raw), n, d, rows, status, norm);
  if (kind == 4) admit(static_cast<const float*>(raw), n, d, rows, status, norm);
  if (kind == 8) admit(static_cast<const double*>(raw), n, d, rows, status, norm);
  std::fesetenv(&before);
}
