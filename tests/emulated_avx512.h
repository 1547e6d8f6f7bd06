// The handful of AVX-512 instructions that csrc/cpu/kernels_avx512vnni.cpp uses, in plain C++, so that
// the unit can be compiled and tested on processors without them (see tests/test_kernels_emulated.py).

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace emulated {

typedef int32_t Lanes __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(64)));

inline __m512i load(const void* from) {
  Lanes value;
  std::memcpy(&value, from, sizeof value);
  return (__m512i)value;
}

inline void store(void* to, const __m512i& value) { std::memcpy(to, &value, sizeof value); }

inline __m512i splat(int32_t x) { return (__m512i)(Lanes{} + x); }
inline __m512 splat(float x) { return (__m512)(Floats{} + x); }

// VPDPBUSD: four products of an unsigned with a signed byte are added to each 32-bit lane.
inline __m512i dpbusd(const __m512i& sum, const __m512i& a, const __m512i& b) {
  int32_t lanes[16];
  uint8_t unsigned_bytes[64];
  int8_t signed_bytes[64];
  std::memcpy(lanes, &sum, sizeof lanes);
  std::memcpy(unsigned_bytes, &a, sizeof unsigned_bytes);
  std::memcpy(signed_bytes, &b, sizeof signed_bytes);
  for (int i = 0; i < 64; ++i) lanes[i / 4] += int32_t(unsigned_bytes[i]) * int32_t(signed_bytes[i]);
  return load(lanes);
}

inline uint16_t cmpge(const __m512i& a, const __m512i& b) {
  uint16_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= uint16_t(((Lanes)a)[i] >= ((Lanes)b)[i]) << i;
  return mask;
}

inline __m256i half(const __m512i& a, int which) {
  __m256i value;
  std::memcpy(&value, (const char*)&a + 32 * which, sizeof value);
  return value;
}

inline __m512d widen(const __m256& a) {
  Doubles lanes;
  for (int i = 0; i < 8; ++i) lanes[i] = a[i];
  return (__m512d)lanes;
}

}  // namespace emulated

#define _mm512_loadu_si512 emulated::load
#define _mm512_storeu_si512 emulated::store
#define _mm512_castsi512_si256(a) emulated::half(a, 0)
#define _mm512_maskz_extracti64x4_epi64(all, a, which) emulated::half(a, which)
#define _mm512_set1_epi32(x) emulated::splat(int32_t(x))
#define _mm512_set1_ps(x) emulated::splat(float(x))
#define _mm512_dpbusd_epi32 emulated::dpbusd
#define _mm512_cmpge_epi32_mask emulated::cmpge
#define _mm512_fmadd_ps(a, b, c) ((a) * (b) + (c))
#define _mm512_setzero_pd() ((__m512d)(emulated::Doubles{}))
#define _mm512_add_pd(a, b) ((__m512d)((a) + (b)))
#define _mm512_cvtps_pd emulated::widen
