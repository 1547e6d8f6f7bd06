// AVX2: integers of 7 bits. vpmaddubsw adds pairs of products of unsigned rows with signed columns into
// 16 bits and saturates there; with +-63 (rows with 64 added) two such sums, at most 2 * 16,002, still
// add up without. Then vpmaddwd widens them to 32 bits. Five instructions for 64 products, where 16-bit
// integers would take eight: half as fast again, for a coarser filter.
//
// Tile: 4 rows x 2 vectors of 8 columns, two lanes at a time = 8 accumulators, 4 columns, 2 rows, the
// ones of vpmaddwd and a product: all 16 registers.

#include "f16c.h"

namespace clipgap {
namespace {

struct Avx2 : F16c {
  using V = __m256i;
  using Fma = __m256;
  static constexpr int kRows = 4, kVectors = 2, kWidth = 8, kGroup = 4, kStep = 2;

  static CG_INLINE V load(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
  static CG_INLINE void store(int32_t* p, V v) { _mm256_storeu_si256((__m256i*)p, v); }
  static CG_INLINE V splat(int32_t x) { return _mm256_set1_epi32(x); }
  static CG_INLINE V add(V a, V b) { return _mm256_add_epi32(a, b); }
  static CG_INLINE V sub(V a, V b) { return _mm256_sub_epi32(a, b); }
  static CG_INLINE V min(V a, V b) { return _mm256_min_epi32(a, b); }
  static CG_INLINE V dot(V sum, const V* row, const V* column) {
    const V pairs = _mm256_add_epi16(_mm256_maddubs_epi16(row[0], column[0]),
                                     _mm256_maddubs_epi16(row[1], column[1]));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static CG_INLINE void sum_up(const V* four, int32_t* out) {
    sum_up_four(four[0], four[1], four[2], four[3], out);
  }
  static CG_INLINE uint32_t reaches(V value, V need) {
    const V below = _mm256_cmpgt_epi32(need, value);
    return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(below))) ^ 0xFFu;
  }
  static CG_INLINE Fma fma_splat(float x) { return _mm256_set1_ps(x); }
  static CG_INLINE Fma fma(Fma a, Fma b, Fma c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace

const Kernels kernels_avx2 = table<Avx2>("avx2", 63.0f, 64);

}  // namespace clipgap
