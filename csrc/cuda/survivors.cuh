// What follows a tile of sums: the pairs that can still matter into the queue, and no score.
//
// A sum, with its row's offset, is an upper bound u of a score. A pair survives when u reaches the
// row's best so far, the column's k-th best (`floor`), or the row's best margin so far. First three
// maxima a row say how far the row's bounds rise, and whether any of the thread's pairs survives: two
// and a half instructions a pair where the chip adds and takes the maximum at once. A warp that has
// a survivor looks again, at all of its pairs at once and in order, so that nothing waits for
// another row; it reserves room for all of them with one atomic addition.
//
// Sums are int where operands are int8, and float where they are float16. Bounds of floats have room
// for the roundings here (HALF_ROUNDING in clipgap/kernels/gpu/bounds.py).
#pragma once

#include "layout.cuh"

template <typename Sum>
struct RowTerms {
    const Sum* offset;
    const Sum* width;  // u less this, less the column's thickness, is below the score
    Sum* best;  // raised
    Sum* margin;  // raised; only with MARGIN
};

template <typename Sum>
struct ColumnTerms {  // in shared memory, by column of the tile
    const Sum* start;
    const Sum* floor;
    const Sum* tau;
    const Sum* thickness;
};

struct Queue {
    int* pairs;  // (3, capacity): row, column, u or its bits
    u64* count;  // runs on when the queue is full; a block and a panel may have 2^32 pairs
    int capacity;
};

// The arithmetic of sums: max(a, b, c), max(a + b, c), min(a + b, c), and what is below all.
__device__ __forceinline__ int most_of(int a, int b, int c) { return __vimax3_s32(a, b, c); }
__device__ __forceinline__ int most_with(int a, int b, int c) { return __viaddmax_s32(a, b, c); }
__device__ __forceinline__ int least_with(int a, int b, int c) { return __viaddmin_s32(a, b, c); }
__device__ __forceinline__ int bits_of(int value) { return value; }
__device__ __forceinline__ void raise(int* to, int value) { atomicMax(to, value); }

__device__ __forceinline__ float most_of(float a, float b, float c) { return fmaxf(fmaxf(a, b), c); }
__device__ __forceinline__ float most_with(float a, float b, float c) { return fmaxf(a + b, c); }
__device__ __forceinline__ float least_with(float a, float b, float c) { return fminf(a + b, c); }
__device__ __forceinline__ int bits_of(float value) { return __float_as_int(value); }
__device__ __forceinline__ void raise(float* to, float value) {
    // As integers, floats from zero on ascend, and those below it descend.
    if (value >= 0) {
        atomicMax(reinterpret_cast<int*>(to), __float_as_int(value));
    } else {
        atomicMin(reinterpret_cast<u32*>(to), static_cast<u32>(__float_as_int(value)));
    }
}

template <typename Sum>
constexpr Sum LEAST = Sum(-0x40000000);  // below all sums, and still is with a term of theirs

// A thread holds rows row, row + 8, ..., SLOTS of them, and of each the columns column, column + 1,
// column + 8, column + 9, ...
template <typename Sum, int SLOTS, int COLUMNS>
struct Sums {
    Sum at[SLOTS][COLUMNS];

    static __device__ __forceinline__ int column(int i) { return (i >> 1) * 8 + (i & 1); }

    // A sum starts at what its column adds to it.
    __device__ __forceinline__ void start(const Sum* starts) {
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) {
            const Sum value = starts[column(i)];
#pragma unroll
            for (int slot = 0; slot < SLOTS; ++slot) at[slot][i] = value;
        }
    }
};

// values[i], in a way that leaves them in registers: halves are chosen by the bits of i.
template <typename Sum, int COUNT>
__device__ __forceinline__ Sum pick(const Sum (&values)[COUNT], int i) {
    if constexpr (COUNT == 1) {
        return values[0];
    } else {
        Sum half[COUNT / 2];
#pragma unroll
        for (int j = 0; j < COUNT / 2; ++j) half[j] = i & COUNT / 2 ? values[j + COUNT / 2] : values[j];
        return pick(half, i);
    }
}

// The most that the four lanes have which share a row.
template <typename Sum>
__device__ __forceinline__ Sum most_of_row(Sum value) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
        value = max(value, __shfl_xor_sync(ALL_LANES, value, step));
    }
    return value;
}

// What a thread's rows ask of a sum. It comes from beyond this multiprocessor, so it is asked for
// before the last products are waited for.
template <typename Sum, int SLOTS, bool MARGIN>
struct Asked {
    Sum reach[SLOTS], lead[SLOTS], none[SLOTS], width[SLOTS];

    __device__ __forceinline__ Asked(const RowTerms<Sum>& rows, int row) {
        Sum best[SLOTS], margin[SLOTS], offset[SLOTS];
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            best[slot] = __ldcg(rows.best + row + 8 * slot);
            margin[slot] = MARGIN ? __ldcg(rows.margin + row + 8 * slot) : Sum(0);
            offset[slot] = rows.offset[row + 8 * slot];
            width[slot] = rows.width[row + 8 * slot];
        }
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            reach[slot] = best[slot] - offset[slot];
            lead[slot] = margin[slot] - offset[slot];
            none[slot] = -offset[slot];
        }
    }
};

// The thickest of a thread's columns.
template <typename Sum, int COLUMNS>
__device__ __forceinline__ Sum thickest_of(const Sum* thickness) {
    Sum most = 0;
#pragma unroll 1
    for (int i = 0; i < COLUMNS; ++i) most = max(most, thickness[Sums<Sum, 1, COLUMNS>::column(i)]);
    return most_of_row(most);
}

// `row` and `first_column` are the thread's first among all; `columns` point at the latter's terms,
// and `thickest` is the most of their thicknesses. All lanes of a warp come together.
template <bool MARGIN, typename Sum, int SLOTS, int COLUMNS>
__device__ __forceinline__ void queue_survivors(const Sums<Sum, SLOTS, COLUMNS>& sums,
                                                Asked<Sum, SLOTS, MARGIN>& asked, int row,
                                                int first_column, const RowTerms<Sum>& rows,
                                                const ColumnTerms<Sum>& columns, Sum thickest,
                                                const Queue& queue) {
    using Tile = Sums<Sum, SLOTS, COLUMNS>;
    const int lane = threadIdx.x & 31;
    Sum top[SLOTS], over[SLOTS], room[SLOTS];
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) top[slot] = over[slot] = room[slot] = LEAST<Sum>;
#pragma unroll
    for (int i = 0; i < COLUMNS; i += 2) {
        const int c = Tile::column(i);
        const Sum floor0 = -columns.floor[c], floor1 = -columns.floor[c + 1];
        const Sum tau0 = MARGIN ? -columns.tau[c] : Sum(0), tau1 = MARGIN ? -columns.tau[c + 1] : Sum(0);
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            const Sum sum0 = sums.at[slot][i], sum1 = sums.at[slot][i + 1];
            top[slot] = most_of(top[slot], sum0, sum1);
            over[slot] = most_with(sum0, floor0, over[slot]);
            over[slot] = most_with(sum1, floor1, over[slot]);
            if (MARGIN) {
                room[slot] = most_with(sum0, tau0, room[slot]);
                room[slot] = most_with(sum1, tau1, room[slot]);
            }
        }
    }
    // The best u of a row, less what lies between bounds at most, is below the score of some pair.
    bool some = false;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const Sum between = asked.width[slot] + thickest;
        const Sum risen = most_of_row(top[slot]) - between;
        if (risen > asked.reach[slot]) {
            asked.reach[slot] = risen;
            if ((lane & 3) == 0) raise(rows.best + row + 8 * slot, risen - asked.none[slot]);
        }
        some = some || top[slot] >= asked.reach[slot] || over[slot] >= asked.none[slot];
        if (MARGIN) {
            const Sum led = most_of_row(room[slot]) - between;
            if (led > asked.lead[slot]) {
                asked.lead[slot] = led;
                if ((lane & 3) == 0) raise(rows.margin + row + 8 * slot, led - asked.none[slot]);
            }
            some = some || room[slot] >= asked.lead[slot];
        }
    }
    if (!__any_sync(ALL_LANES, some)) return;
    __syncwarp();  // the columns' terms are read anew: kept since the first look, they would spill

    // One bit for each pair, row after row.
    constexpr int WORDS = SLOTS * COLUMNS / 32;
    u32 alive[WORDS];
#pragma unroll
    for (int word = 0; word < WORDS; ++word) alive[word] = 0;
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i) {
        const Sum floor = columns.floor[Tile::column(i)];
        const Sum tau = MARGIN ? columns.tau[Tile::column(i)] : Sum(0);
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            Sum bound = least_with(floor, asked.none[slot], asked.reach[slot]);
            if (MARGIN) bound = least_with(tau, asked.lead[slot], bound);
            const int pair = slot * COLUMNS + i;
            if (sums.at[slot][i] >= bound) alive[pair / 32] |= 1u << pair % 32;
        }
    }
    int mine = 0;
#pragma unroll
    for (int word = 0; word < WORDS; ++word) mine += __popc(alive[word]);
    int upto = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(ALL_LANES, upto, step);
        if (lane >= step) upto += other;
    }
    int place = 0;
    if (lane == 31 && upto > 0) {
        const u64 found = atomicAdd(queue.count, static_cast<u64>(upto));
        place = found < static_cast<u64>(queue.capacity) ? static_cast<int>(found) : queue.capacity;
    }
    place = __shfl_sync(ALL_LANES, place, 31) + upto - mine;
#pragma unroll
    for (int word = 0; word < WORDS; ++word) {
        // Sums and offsets of this word's pairs.
        constexpr int ROWS = COLUMNS < 32 ? 32 / COLUMNS : 1;
        Sum values[32], none[ROWS];
#pragma unroll
        for (int j = 0; j < 32; ++j) {
            values[j] = sums.at[(32 * word + j) / COLUMNS][(32 * word + j) % COLUMNS];
        }
#pragma unroll
        for (int j = 0; j < ROWS; ++j) none[j] = asked.none[32 * word / COLUMNS + j];
#pragma unroll 1
        for (; alive[word]; alive[word] &= alive[word] - 1, ++place) {
            const int j = __ffs(alive[word]) - 1, pair = 32 * word + j;
            if (place < queue.capacity) {
                queue.pairs[place] = row + 8 * (pair / COLUMNS);
                queue.pairs[queue.capacity + place] = first_column + Tile::column(pair % COLUMNS);
                queue.pairs[2ll * queue.capacity + place] =
                    bits_of(pick(values, j) - pick(none, j / COLUMNS));
            }
        }
    }
    __syncwarp();  // matrix instructions and barriers take whole warps
}
