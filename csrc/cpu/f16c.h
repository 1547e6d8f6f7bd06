// What the units with AVX2 and F16C share: float16 in, exact float64 sums out, and sums of 32-bit integers.

#pragma once

#include <immintrin.h>

#include "table.inl.h"

namespace clipgap {
namespace {

struct F16c {
  typedef double D __attribute__((vector_size(32)));
  struct Sum {
    __m256d low, high;
  };

  static CG_INLINE F8 halves(const uint16_t* p) {
    return (F8)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
  }
  // The sum of each of four vectors.
  static CG_INLINE void sum_up_four(__m256i a, __m256i b, __m256i c, __m256i d, int32_t* out) {
    const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm_storeu_si128((__m128i*)out, _mm_add_epi32(_mm256_castsi256_si128(all),
                                                  _mm256_extracti128_si256(all, 1)));
  }
  static CG_INLINE D multiply_add(D a, D b, D c) {
    return (D)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
  }
  static CG_INLINE Sum no_sum() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
  static CG_INLINE void add_products(Sum& sum, const uint16_t* a, const uint16_t* b) {
    const __m256 products = (__m256)(halves(a) * halves(b));
    sum.low = _mm256_add_pd(sum.low, _mm256_cvtps_pd(_mm256_castps256_ps128(products)));
    sum.high = _mm256_add_pd(sum.high, _mm256_cvtps_pd(_mm256_extractf128_ps(products, 1)));
  }
  static CG_INLINE double total(const Sum& a, const Sum& b) {
    double lanes[4];
    _mm256_storeu_pd(lanes, _mm256_add_pd(_mm256_add_pd(a.low, a.high), _mm256_add_pd(b.low, b.high)));
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
  }
};

}  // namespace
}  // namespace clipgap
