// The exact scores of surviving pairs, who wins by them, and the lists of the k best.
//
// A float64 sum of products of stored float16 numbers has no rounding (docs/exactness.md), so it may
// be taken in any order; the product of two float16 numbers is exact in float32 already. Maxima of
// rows are taken with atomics on the bits of the float64, which order like the numbers.
#pragma once

#include "layout.cuh"

namespace refinement {

constexpr int THREADS = 256;

// An integer that compares as the score does (no NaN, no negative zero).
__device__ __forceinline__ long long order_of(double score) {
    const long long bits = __double_as_longlong(score);
    return bits ^ (bits >> 63 & 0x7fffffffffffffffll);
}

__device__ __forceinline__ int stored(const u64* count, int capacity) {
    const u64 found = *count;
    return found < static_cast<u64>(capacity) ? static_cast<int>(found) : capacity;
}

__device__ __forceinline__ double dot(const u16* x, const u16* t, int d, int lane) {
    double score = 0;
    if (d % 8 == 0) {
        // Rows begin at multiples of 16 bytes.
        for (int at = 8 * lane; at < d; at += 8 * 32) {
            const uint4 a = *reinterpret_cast<const uint4*>(x + at);
            const uint4 b = *reinterpret_cast<const uint4*>(t + at);
            const u32 left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                score += half_to_float(left[i] & 0xffff) * half_to_float(right[i] & 0xffff);
                score += half_to_float(left[i] >> 16) * half_to_float(right[i] >> 16);
            }
        }
    } else {
        for (int at = lane; at < d; at += 32) score += half_to_float(x[at]) * half_to_float(t[at]);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) score += __shfl_xor_sync(ALL_LANES, score, step);
    return score;
}

}  // namespace refinement

// Scores of the pairs that still matter now that the filter is done: bounds have risen since the
// first of them were queued. Each lane looks at one pair; the warp computes those that are left.
// Raises `best` and `margin`, and collects candidates for the columns' lists.
CLIPGAP_KERNEL void __launch_bounds__(refinement::THREADS) score(
    const int* pairs, const u64* count, int capacity, const int* reach, const int* lead,
    const int* floor, const int* tau_floor, const u16* rows, const u16* columns, int d,
    const long long* ids, const double* tau, const double* kth, double* scores, long long* best,
    long long* margin, int* candidates, double* candidate_score, long long* candidate_id, int slots,
    int has_margin, int* refined) {
    const int lane = threadIdx.x & 31;
    const int warp = (blockIdx.x * refinement::THREADS + threadIdx.x) >> 5;
    const int total = refinement::stored(count, capacity);
    int done = 0;
    for (int first = 32 * warp; first < total; first += gridDim.x * refinement::THREADS) {
        const int pair = first + lane;
        int row = 0, column = 0;
        bool alive = false;
        if (pair < total) {
            row = pairs[pair];
            column = pairs[capacity + pair];
            const int upper = pairs[2ll * capacity + pair];
            alive = upper >= reach[row] || upper >= floor[column] ||
                (has_margin && upper >= lead[row] + tau_floor[column]);
        }
        double mine = __longlong_as_double(0xfff0000000000000ull);  // -inf: it wins nothing
        u32 left = __ballot_sync(ALL_LANES, alive);
        done += __popc(left);
        while (left) {
            const int next = __ffs(left) - 1;
            left &= left - 1;
            const int r = __shfl_sync(ALL_LANES, row, next);
            const int c = __shfl_sync(ALL_LANES, column, next);
            const double found = refinement::dot(rows + static_cast<u64>(r) * d,
                                                 columns + static_cast<u64>(c) * d, d, lane);
            if (lane == next) mine = found;
        }
        if (alive) {
            atomicMax(best + row, refinement::order_of(mine));
            if (has_margin) atomicMax(margin + row, refinement::order_of(mine - tau[column]));
            // Not below the k-th best: with the same score a lower id still wins.
            if (mine >= kth[column]) {
                const int slot = atomicAdd(candidates + column, 1);
                if (slot < slots) {
                    const u64 place = static_cast<u64>(column) * slots + slot;
                    candidate_score[place] = mine;
                    candidate_id[place] = ids[row];
                }
            }
        }
        if (pair < total) scores[pair] = mine;
    }
    if (lane == 0 && done) atomicAdd(refined, done);
}

// Lowers `nearest` and `witness` to the first of the test rows that hold the maxima.
CLIPGAP_KERNEL void __launch_bounds__(refinement::THREADS) decide(
    const int* pairs, const u64* count, int capacity, const double* scores, const int* given,
    const double* tau, const long long* best, int* nearest, const long long* margin, int* witness,
    int has_margin) {
    const int total = refinement::stored(count, capacity);
    for (int pair = blockIdx.x * refinement::THREADS + threadIdx.x; pair < total;
         pair += gridDim.x * refinement::THREADS) {
        const int row = pairs[pair], column = pairs[capacity + pair];
        const double score = scores[pair];
        if (refinement::order_of(score) == best[row]) atomicMin(nearest + row, given[column]);
        if (has_margin && refinement::order_of(score - tau[column]) == margin[row]) {
            atomicMin(witness + row, given[column]);
        }
    }
}

// Candidates into the lists of the k best, a block a column: an entry's place is the number of
// entries before it. Counting needs no sort and gives the same list whatever order candidates came
// in. An id counts once.
CLIPGAP_KERNEL void __launch_bounds__(refinement::THREADS) merge(
    int* candidates, const double* candidate_score, const long long* candidate_id, int slots,
    double* list_score, long long* list_id, int k) {
    CLIPGAP_SHARED(shared);
    const int column = blockIdx.x;
    const int count = min(candidates[column], slots);
    if (count <= 0) return;
    const int entries = k + count;
    double* const score = reinterpret_cast<double*>(shared);
    long long* const id = reinterpret_cast<long long*>(score + k + slots);
    double* const held_score = list_score + static_cast<u64>(column) * k;
    long long* const held_id = list_id + static_cast<u64>(column) * k;
    for (int i = threadIdx.x; i < entries; i += refinement::THREADS) {
        const u64 late = static_cast<u64>(column) * slots + i - k;
        score[i] = i < k ? held_score[i] : candidate_score[late];
        id[i] = i < k ? held_id[i] : candidate_id[late];
    }
    __syncthreads();
    u32 copies = 0;  // which of this thread's entries have a copy in front of them
    for (int i = threadIdx.x, turn = 0; i < entries; i += refinement::THREADS, ++turn) {
        for (int j = 0; j < i; ++j) copies |= static_cast<u32>(id[j] == id[i]) << turn;
    }
    __syncthreads();
    for (int i = threadIdx.x, turn = 0; i < entries; i += refinement::THREADS, ++turn) {
        if (copies >> turn & 1) id[i] = -1;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < entries; i += refinement::THREADS) {
        if (id[i] < 0) continue;
        int place = 0;
        for (int j = 0; j < entries; ++j) {
            place += id[j] >= 0 &&
                (score[j] > score[i] || (score[j] == score[i] && id[j] < id[i]));
        }
        if (place < k) {
            held_score[place] = score[i];
            held_id[place] = id[i];
        }
    }
    if (threadIdx.x == 0) candidates[column] = 0;
}
