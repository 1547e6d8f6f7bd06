// Any processor: the same kernels in plain C++, with SSE2 multiply-adds where the compiler may assume
// them (every x86-64). The slowest way, and the one to compare the others with.

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "table.inl.h"

namespace clipgap {
namespace {

typedef int32_t I4 __attribute__((vector_size(16)));
typedef float F4 __attribute__((vector_size(16)));

struct Portable {
  using V = I4;
  using Fma = F4;
  static constexpr int kRows = 6, kVectors = 2, kWidth = 4, kGroup = 2, kStep = 1;

  static CG_INLINE V load(const int32_t* p) { return load_as<V>(p); }
  static CG_INLINE void store(int32_t* p, V v) { store_as(p, v); }
  static CG_INLINE V splat(int32_t x) { return V{x, x, x, x}; }
  static CG_INLINE V add(V a, V b) { return a + b; }
  static CG_INLINE V sub(V a, V b) { return a - b; }
  static CG_INLINE V min(V a, V b) { return a < b ? a : b; }
  static CG_INLINE V dot(V sum, const V* row, const V* column) {
    const V a = row[0], b = column[0];
#ifdef __SSE2__
    return sum + (V)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    // Both halves of a lane are signed 16-bit integers.
    return sum + (a >> 16) * (b >> 16) + ((a << 16) >> 16) * ((b << 16) >> 16);
#endif
  }
  static CG_INLINE void sum_up(const V* four, int32_t* out) {
    for (int i = 0; i < 4; ++i) out[i] = (four[i][0] + four[i][1]) + (four[i][2] + four[i][3]);
  }
  static CG_INLINE uint32_t reaches(V value, V need) {
    const V yes = value >= need;
    return (uint32_t(yes[0]) & 1u) | (uint32_t(yes[1]) & 2u) | (uint32_t(yes[2]) & 4u) |
           (uint32_t(yes[3]) & 8u);
  }
  static CG_INLINE F8 halves(const uint16_t* p) {
    // Exponent and fraction moved into place are the value times 2^-112, subnormals included.
    F8 out;
    for (int i = 0; i < 8; ++i) {
      const uint32_t magnitude = uint32_t(p[i] & 0x7FFF) << 13, sign = uint32_t(p[i] & 0x8000) << 16;
      float value;
      __builtin_memcpy(&value, &magnitude, sizeof value);
      value *= 0x1p112f;
      uint32_t bits;
      __builtin_memcpy(&bits, &value, sizeof bits);
      bits |= sign;
      __builtin_memcpy(&value, &bits, sizeof value);
      out[i] = value;
    }
    return out;
  }

  typedef double D __attribute__((vector_size(16)));
  static CG_INLINE D multiply_add(D a, D b, D c) { return a * b + c; }

  struct Sum {
    double lanes[8];
  };
  static CG_INLINE Sum no_sum() { return {}; }
  static CG_INLINE void add_products(Sum& sum, const uint16_t* a, const uint16_t* b) {
    const F8 products = halves(a) * halves(b);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sum.lanes[i] += double(products[i]);
  }
  static CG_INLINE double total(const Sum& a, const Sum& b) {
    double sum = 0;
    for (int i = 0; i < 8; ++i) sum += a.lanes[i] + b.lanes[i];
    return sum;
  }

  static CG_INLINE Fma fma_splat(float x) { return Fma{x, x, x, x}; }
  static CG_INLINE Fma fma(Fma a, Fma b, Fma c) { return a * b + c; }
};

}  // namespace

const Kernels kernels_portable = table<Portable>("portable", 8191.0f, 0);

}  // namespace clipgap
