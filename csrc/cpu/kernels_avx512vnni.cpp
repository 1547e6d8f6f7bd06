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

  static CG_INLINE V load(const int32_t* p) { return (V)_mm512_loadu_si512(p); }
  static CG_INLINE void store(int32_t* p, V v) { _mm512_storeu_si512(p, (__m512i)v); }
  static CG_INLINE V splat(int32_t x) { return (V)_mm512_set1_epi32(x); }
  static CG_INLINE V add(V a, V b) { return a + b; }
  static CG_INLINE V sub(V a, V b) { return a - b; }
  static CG_INLINE V min(V a, V b) { return a < b ? a : b; }
  static CG_INLINE V dot(V sum, const V* row, const V* column) {
    return (V)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)row[0], (__m512i)column[0]);
  }
  static CG_INLINE int32_t sum_up(V v) {
    const char* halves = reinterpret_cast<const char*>(&v);
    return add_up(_mm256_add_epi32(load_as<__m256i>(halves), load_as<__m256i>(halves + 32)));
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
