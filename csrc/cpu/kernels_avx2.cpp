// AVX2: 16-bit integers, two a lane. vpmaddwd runs twice a cycle on every core since Haswell, so this is
// twice the float32 FMA rate; and 16 bits make the filter's window ten times narrower than 8 would.
//
// Tile: 6 rows x 2 vectors of 8 columns = 12 accumulators, 2 columns, 1 row, 1 product: all 16 registers.

#include "f16c.h"

namespace clipgap {
namespace {

struct Avx2 : F16c {
  using V = __m256i;
  using Fma = __m256;
  static constexpr int kRows = 6, kVectors = 2, kWidth = 8, kGroup = 2;

  static CG_INLINE V load(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
  static CG_INLINE void store(int32_t* p, V v) { _mm256_storeu_si256((__m256i*)p, v); }
  static CG_INLINE V splat(int32_t x) { return _mm256_set1_epi32(x); }
  static CG_INLINE V add(V a, V b) { return _mm256_add_epi32(a, b); }
  static CG_INLINE V sub(V a, V b) { return _mm256_sub_epi32(a, b); }
  static CG_INLINE V min(V a, V b) { return _mm256_min_epi32(a, b); }
  static CG_INLINE V dot(V sum, V row, V column) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(row, column));
  }
  static CG_INLINE uint32_t reaches(V value, V need) {
    const V below = _mm256_cmpgt_epi32(need, value);
    return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(below))) ^ 0xFFu;
  }
  static CG_INLINE Fma fma_splat(float x) { return _mm256_set1_ps(x); }
  static CG_INLINE Fma fma(Fma a, Fma b, Fma c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace

const Kernels kernels_avx2 = table<Avx2>("avx2", 8191.0f, 0);

}  // namespace clipgap
