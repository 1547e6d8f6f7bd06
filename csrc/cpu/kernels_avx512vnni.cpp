// AVX-512 VNNI: 8-bit integers, four a lane; vpdpbusd multiplies and adds 64 pairs at once, four times
// the float32 FMA rate. It takes rows unsigned, so they are packed with 128 added, and every column's
// start value takes 128 times its sum away.
//
// Tile: 12 rows x 2 vectors of 16 columns = 24 accumulators, 2 columns, 1 row of 32 registers. 24
// independent sums cover the latency of 5 cycles twice over; 14 loads feed 24 multiply-adds.

#include "f16c.h"

namespace clipgap {
namespace {

typedef int32_t I16 __attribute__((vector_size(64)));

struct Avx512Vnni : F16c {
  using V = I16;
  using Fma = __m512;
  static constexpr int kRows = 12, kVectors = 2, kWidth = 16, kGroup = 4, kStep = 1;

  // Twice as wide as what AVX2 adds up. The conversion is named: GCC takes a generic one apart.
  typedef __m512d Sum;
  static CG_INLINE Sum no_sum() { return _mm512_setzero_pd(); }
  static CG_INLINE void add_products(Sum& sum, const uint16_t* a, const uint16_t* b) {
    sum = _mm512_add_pd(sum, _mm512_cvtps_pd((__m256)(halves(a) * halves(b))));
  }
  static CG_INLINE double total(const Sum& a, const Sum& b) {
    return sum_of((D8)_mm512_add_pd(a, b));
  }

  static CG_INLINE __m256i fold(V v) {
    return _mm256_add_epi32(_mm512_castsi512_si256((__m512i)v),
                            _mm512_maskz_extracti64x4_epi64(0xFF, (__m512i)v, 1));
  }
  static CG_INLINE V load(const int32_t* p) { return (V)_mm512_loadu_si512(p); }
  static CG_INLINE void store(int32_t* p, V v) { _mm512_storeu_si512(p, (__m512i)v); }
  static CG_INLINE V splat(int32_t x) { return (V)_mm512_set1_epi32(x); }
  static CG_INLINE V add(V a, V b) { return a + b; }
  static CG_INLINE V sub(V a, V b) { return a - b; }
  static CG_INLINE V min(V a, V b) { return a < b ? a : b; }
  static CG_INLINE V dot(V sum, const V* row, const V* column) {
    return (V)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)row[0], (__m512i)column[0]);
  }
  static CG_INLINE void sum_up(const V* four, int32_t* out) {
    sum_up_four(fold(four[0]), fold(four[1]), fold(four[2]), fold(four[3]), out);
  }
  static CG_INLINE uint32_t reaches(V value, V need) {
    return _mm512_cmpge_epi32_mask((__m512i)value, (__m512i)need);
  }
  static CG_INLINE Fma fma_splat(float x) { return _mm512_set1_ps(x); }
  static CG_INLINE Fma fma(Fma a, Fma b, Fma c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace

const Kernels kernels_avx512vnni = table<Avx512Vnni>("avx512vnni", 127.0f, 128);

}  // namespace clipgap
