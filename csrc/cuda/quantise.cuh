// float16 rows to int8 integers on a common grid, with a measure of what was lost.
//
// docs/exactness.md has the algebra. A warp takes a row, 128 coordinates at a time, four a lane: the
// row is centred, its signs are flipped, and the block goes through an unnormalised Hadamard
// transform, two of whose seven stages stay in a lane. One float32 addition a stage keeps its
// rounding as small as it can be.
#pragma once

#include "layout.cuh"

namespace quantisation {

constexpr int THREADS = 256;  // a row each warp

template <typename Number>
__device__ __forceinline__ Number sum_of_warp(Number value) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

__device__ __forceinline__ void hadamard(float (&y)[4], int lane) {
    const float s0 = y[0] + y[1], d0 = y[0] - y[1], s1 = y[2] + y[3], d1 = y[2] - y[3];
    y[0] = s0 + s1, y[1] = d0 + d1, y[2] = s0 - s1, y[3] = d0 - d1;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float other = __shfl_xor_sync(ALL_LANES, y[i], step);
            y[i] = lane & step ? other - y[i] : y[i] + other;
        }
    }
}

template <int SLICE>
__device__ __forceinline__ void quantise(const u16* rows, int n, int d, const float* centre,
                                         const float* signs, float step, float limit,
                                         signed char* integers, int places, int depth,
                                         double* shift, float* residual_sq, float* integer_sq,
                                         float* norm_sq) {
    const int lane = threadIdx.x & 31;
    const int row = (blockIdx.x * THREADS + threadIdx.x) >> 5;
    if (row >= places) return;
    const bool there = row < n;
    const u16* from = rows + static_cast<u64>(there ? row : 0) * d;
    double dot = 0;
    float lost = 0, length = 0, norm = 0;
    for (int first = 4 * lane; first < depth; first += BLOCK) {
        float y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = first + i;
            const float x = there && at < d ? half_to_float(from[at]) : 0.0f;
            dot += static_cast<double>(x) * static_cast<double>(centre[at]);
            y[i] = (x - centre[at]) * signs[at];
        }
        hadamard(y, lane);
        u32 bytes = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            // Half up, not to even: any grid point near y will do, what is lost is measured.
            const float q = fminf(fmaxf(floorf(y[i] / step + 0.5f), -limit), limit);
            const float e = y[i] - step * q;
            lost += e * e;
            length += q * q;
            norm += y[i] * y[i];
            bytes |= (static_cast<u32>(static_cast<int>(q)) & 0xff) << 8 * i;
        }
        const int slice = first / SLICE, within = first % SLICE;
        signed char* to = integers +
            (static_cast<u64>(row / TILE) * (depth / SLICE) + slice) * Layout<SLICE>::BYTES +
            Layout<SLICE>::place(row % TILE, within / 16) + within % 16;
        // A row that is not there is all zero.
        *reinterpret_cast<u32*>(to) = there ? bytes : 0;
    }
    dot = sum_of_warp(dot);
    lost = sum_of_warp(lost);
    length = sum_of_warp(length);
    norm = sum_of_warp(norm);
    if (there && lane == 0) {
        shift[row] = dot;
        residual_sq[row] = lost;
        integer_sq[row] = length;
        norm_sq[row] = norm;
    }
}

}  // namespace quantisation

#define CLIPGAP_QUANTISE(name, SLICE)                                                              \
    CLIPGAP_KERNEL void __launch_bounds__(quantisation::THREADS) name(                             \
        const u16* rows, int n, int d, const float* centre, const float* signs, float step,        \
        float limit, signed char* integers, int places, int depth, double* shift,                  \
        float* residual_sq, float* integer_sq, float* norm_sq) {                                   \
        quantisation::quantise<SLICE>(rows, n, d, centre, signs, step, limit, integers, places,    \
                                      depth, shift, residual_sq, integer_sq, norm_sq);             \
    }

CLIPGAP_QUANTISE(quantise_64, 64)
CLIPGAP_QUANTISE(quantise_128, 128)
