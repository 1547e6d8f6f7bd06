// What follows a tile of sums: the pairs that can still matter into the queue, and no score.
//
// A sum, with its row's offset, is an upper bound u of a score. A pair survives when u reaches the
// row's best so far, the column's k-th best (`floor`), or the row's best margin so far. First three
// maxima a row say whether any of the thread's pairs survives: two and a half instructions a pair
// where the chip adds and takes the maximum at once. Only rows that have survivors are looked at
// again, and only they can raise a bound.
#pragma once

#include "layout.cuh"

struct RowTerms {
    const int* offset;
    const int* width;  // u less this, less the column's thickness, is below the score
    int* best;  // raised
    int* margin;  // raised; only with MARGIN
};

struct ColumnTerms {  // in shared memory, by column of the tile
    const int* start;
    const int* floor;
    const int* tau;
    const int* thickness;
};

struct Queue {
    int* pairs;  // (3, capacity): row, column, u
    u64* count;  // runs on when the queue is full; a block and a panel may have 2^32 pairs
    int capacity;
};

constexpr int LEAST = -0x7fffffff - 1;

// A thread holds SLOTS rows, and of each the columns column, column + 1, column + 8, column + 9, ...
template <int SLOTS, int COLUMNS>
struct Sums {
    int at[SLOTS][COLUMNS];

    static __device__ __forceinline__ int column(int i) { return (i >> 1) * 8 + (i & 1); }

    // A sum starts at what its column adds to it.
    __device__ __forceinline__ void start(const int* starts) {
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) {
            const int value = starts[column(i)];
#pragma unroll
            for (int slot = 0; slot < SLOTS; ++slot) at[slot][i] = value;
        }
    }
};

// values[i], in a way that leaves them in registers: halves are chosen by the bits of i.
template <int COUNT>
__device__ __forceinline__ int pick(const int (&values)[COUNT], int i) {
    if constexpr (COUNT == 1) {
        return values[0];
    } else {
        int half[COUNT / 2];
#pragma unroll
        for (int j = 0; j < COUNT / 2; ++j) half[j] = i & COUNT / 2 ? values[j + COUNT / 2] : values[j];
        return pick(half, i);
    }
}

// One row of a thread, looked at closely. All lanes of a warp come together; four of them share a
// row.
template <int COLUMNS, bool MARGIN>
__device__ __forceinline__ void queue_row(const int (&sums)[COLUMNS], int row, int first_column,
                                          const RowTerms& rows, const ColumnTerms& columns,
                                          const Queue& queue) {
    const int lane = threadIdx.x & 31;
    const int offset = rows.offset[row];
    int least = LEAST, least_room = LEAST;
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i) {
        const int c = Sums<1, COLUMNS>::column(i);
        const int lower = sums[i] - columns.thickness[c];
        least = max(least, lower);
        if (MARGIN) least_room = max(least_room, lower - columns.tau[c]);
    }
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
        least = max(least, __shfl_xor_sync(ALL_LANES, least, step));
        if (MARGIN) least_room = max(least_room, __shfl_xor_sync(ALL_LANES, least_room, step));
    }
    const int rise = offset - rows.width[row];
    const int known = __ldcg(rows.best + row), reach = max(known, least + rise);
    if (reach > known && (lane & 3) == 0) atomicMax(rows.best + row, reach);
    int lead = 0;
    if (MARGIN) {
        const int most = __ldcg(rows.margin + row);
        lead = max(most, least_room + rise);
        if (lead > most && (lane & 3) == 0) atomicMax(rows.margin + row, lead);
    }

    u32 alive = 0;
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i) {
        const int c = Sums<1, COLUMNS>::column(i);
        int bound = min(reach, columns.floor[c]);
        if (MARGIN) bound = min(bound, lead + columns.tau[c]);
        alive |= static_cast<u32>(sums[i] + offset >= bound) << i;
    }
    const int mine = __popc(alive);
    int upto = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(ALL_LANES, upto, step);
        if (lane >= step) upto += other;
    }
    const int total = __shfl_sync(ALL_LANES, upto, 31);
    if (total == 0) return;
    int place = 0;
    if (lane == 0) {
        const u64 found = atomicAdd(queue.count, static_cast<u64>(total));
        place = found < static_cast<u64>(queue.capacity) ? static_cast<int>(found) : queue.capacity;
    }
    place = __shfl_sync(ALL_LANES, place, 0) + upto - mine;
    for (; alive; alive &= alive - 1, ++place) {
        const int i = __ffs(alive) - 1;
        if (place < queue.capacity) {
            queue.pairs[place] = row;
            queue.pairs[queue.capacity + place] = first_column + Sums<1, COLUMNS>::column(i);
            queue.pairs[2ll * queue.capacity + place] = pick(sums, i) + offset;
        }
    }
}

// `row_of(slot)` is the row of a slot; `first_column` the thread's first column among all, for which
// `columns` point at the terms.
template <int SLOTS, int COLUMNS, bool MARGIN, typename RowOf>
__device__ __forceinline__ void queue_survivors(const Sums<SLOTS, COLUMNS>& sums, RowOf row_of,
                                                int first_column, const RowTerms& rows,
                                                const ColumnTerms& columns, const Queue& queue) {
    int reach[SLOTS], lead[SLOTS], none[SLOTS];
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const int row = row_of(slot), offset = rows.offset[row];
        reach[slot] = __ldcg(rows.best + row) - offset;
        lead[slot] = MARGIN ? __ldcg(rows.margin + row) - offset : 0;
        none[slot] = -offset;
    }
    int top[SLOTS], over[SLOTS], room[SLOTS];
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) top[slot] = over[slot] = room[slot] = LEAST;
#pragma unroll
    for (int i = 0; i < COLUMNS; i += 2) {
        const int c = Sums<1, COLUMNS>::column(i);
        const int floor0 = -columns.floor[c], floor1 = -columns.floor[c + 1];
        const int tau0 = MARGIN ? -columns.tau[c] : 0, tau1 = MARGIN ? -columns.tau[c + 1] : 0;
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            const int sum0 = sums.at[slot][i], sum1 = sums.at[slot][i + 1];
            top[slot] = __vimax3_s32(top[slot], sum0, sum1);
            over[slot] = __viaddmax_s32(sum0, floor0, over[slot]);
            over[slot] = __viaddmax_s32(sum1, floor1, over[slot]);
            if (MARGIN) {
                room[slot] = __viaddmax_s32(sum0, tau0, room[slot]);
                room[slot] = __viaddmax_s32(sum1, tau1, room[slot]);
            }
        }
    }
    u32 waiting = 0;  // slots that have survivors in some lane
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        bool some = top[slot] >= reach[slot] || over[slot] >= none[slot];
        if (MARGIN) some = some || room[slot] >= lead[slot];
        waiting |= static_cast<u32>(__any_sync(ALL_LANES, some)) << slot;
    }
    // The close look is written once: a copy for each slot would not stay in the instruction cache.
    while (waiting) {
        const int next = __ffs(waiting) - 1;
        waiting &= waiting - 1;
        int chosen[COLUMNS];
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            if (slot == next) {
#pragma unroll
                for (int i = 0; i < COLUMNS; ++i) chosen[i] = sums.at[slot][i];
            }
        }
        queue_row<COLUMNS, MARGIN>(chosen, row_of(next), first_column, rows, columns, queue);
    }
}
