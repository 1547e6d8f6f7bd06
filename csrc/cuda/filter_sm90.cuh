// The filter with wgmma, for H100.
//
// A block holds COLUMNS columns, full depth, in shared memory; rows stream through a ring of stages.
// One warp brings operands, and two warp groups take turns at the row tiles: while one looks for
// survivors, the tensor cores work for the other. A group begins a tile when the other has ordered
// all products of the tile before: only then is every phase of the ring's signals over but the one
// that it waits for, which is all that a parity can tell.
//
// Registers: 64 x 256 sums a group are 128 a thread; the groups have 232 a thread and leave 40 to
// the warps that copy. Shared memory, d = 640 bytes: 160 KiB of columns, 4 KiB of terms, 7 stages x
// 8 KiB of rows: 221 of 227 KiB. The products read 80 of the 128 bytes a clock that shared memory
// gives. Traffic from the second-level cache: 16 bytes a clock with 256 columns and 32 with 128, of
// which an H100 has about 32 for each multiprocessor; a tile of 128 x 256 whose operands both come
// by, as libraries have it, asks for 48.
#pragma once

#include "survivors.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(CLIPGAP_EMULATED)

namespace sm90 {

constexpr int TILE = 64;  // rows
constexpr int SLICE = 128;  // bytes of depth
constexpr int GROUP = 128;
constexpr int THREADS = 3 * GROUP;  // one group that copies, two that multiply
constexpr int STAGES_MAX = 8;
using Image = Layout<TILE, SLICE>;

// How the matrix instructions find rows of 128 bytes whose chunks are permuted as in `Image`:
// address, and the distance of every eighth row, in units of 16 bytes; the permutation's name.
__device__ __forceinline__ u64 operand_of(u32 address) {
    return static_cast<u64>((address & 0x3ffff) >> 4) | 1ull << 16 |
        static_cast<u64>(8 * SLICE >> 4) << 32 | 1ull << 62;
}

// The named barrier at which a group waits for its turn, and the threads that come to it: those of the
// group that waits, and those of the other, which only arrive.
constexpr int TURN = 1, TAKING_TURNS = 2 * GROUP;

// Where the ring stands; `stage` and `parity` go round together.
struct Ring {
    int stages, stage = 0, parity = 0;

    __device__ __forceinline__ void step() {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
    __device__ __forceinline__ void skip(int steps) {
        const int to = stage + steps;
        parity ^= to / stages & 1;
        stage = to % stages;
    }
};

// Shared memory: columns, stages, terms, signals.
template <int COLUMNS>
struct Plan {
    u32 columns, stages, terms, signals;

    __device__ __forceinline__ Plan(u32 base, int slices, int stage_count)
        : columns(base), stages(columns + slices * COLUMNS * SLICE),
          terms(stages + stage_count * Image::BYTES), signals(terms + 4 * COLUMNS * 4) {}

    __device__ __forceinline__ u32 full(int stage) const { return signals + stage * 8; }
    __device__ __forceinline__ u32 empty(int stage) const {
        return signals + (STAGES_MAX + stage) * 8;
    }
    __device__ __forceinline__ u32 columns_full() const { return signals + 2 * STAGES_MAX * 8; }
    __device__ __forceinline__ u32 columns_empty() const { return columns_full() + 8; }
};

template <typename Sum, int COLUMNS, bool MARGIN>
__device__ __forceinline__ void bring(const Plan<COLUMNS>& plan, const unsigned char* rows,
                                      const unsigned char* columns, int slices, int stages,
                                      const ColumnTerms<Sum>& all_terms, const Work& work) {
    constexpr int TERM_BYTES = COLUMNS * 4;
    Ring ring{stages};
    int columns_parity = 0;
    for (int index = blockIdx.x; index < work.pieces(); index += gridDim.x) {
        const Work::Piece piece = work.piece(index);
        const int first_column = piece.column_tile * COLUMNS;

        signal_wait(plan.columns_empty(), columns_parity ^ 1);
        columns_parity ^= 1;
        signal_expect(plan.columns_full(),
                      slices * COLUMNS * SLICE + (MARGIN ? 4 : 3) * TERM_BYTES);
        const unsigned char* from_columns =
            columns + static_cast<u64>(first_column / TILE) * slices * Image::BYTES;
        for (int tile = 0; tile < COLUMNS / TILE; ++tile) {
            for (int slice = 0; slice < slices; ++slice, from_columns += Image::BYTES) {
                copy_bulk(plan.columns + slice * COLUMNS * SLICE + tile * Image::BYTES,
                          from_columns, Image::BYTES, plan.columns_full());
            }
        }
        copy_bulk(plan.terms, all_terms.start + first_column, TERM_BYTES, plan.columns_full());
        copy_bulk(plan.terms + TERM_BYTES, all_terms.floor + first_column, TERM_BYTES,
                  plan.columns_full());
        if (MARGIN) {
            copy_bulk(plan.terms + 2 * TERM_BYTES, all_terms.tau + first_column, TERM_BYTES,
                      plan.columns_full());
        }
        copy_bulk(plan.terms + 3 * TERM_BYTES, all_terms.thickness + first_column, TERM_BYTES,
                  plan.columns_full());

        const unsigned char* from =
            rows + static_cast<u64>(piece.first_row_tile) * slices * Image::BYTES;
        const int count = (piece.last_row_tile - piece.first_row_tile) * slices;
        for (int step = 0; step < count; ++step, from += Image::BYTES) {
            signal_wait(plan.empty(ring.stage), ring.parity ^ 1);
            signal_expect(plan.full(ring.stage), Image::BYTES);
            copy_bulk(plan.stages + ring.stage * Image::BYTES, from, Image::BYTES,
                      plan.full(ring.stage));
            ring.step();
        }
    }
}

template <typename Sum, int COLUMNS, bool MARGIN>
__device__ __forceinline__ void multiply_tiles(const Plan<COLUMNS>& plan, const Sum* terms,
                                               int slices, int stages,
                                               const RowTerms<Sum>& row_terms, const Queue& queue,
                                               const Work& work) {
    constexpr int WIDE = COLUMNS / 4;  // columns of a thread
    const int group = threadIdx.x / GROUP - 1;
    const int lane = threadIdx.x & 31, warp = threadIdx.x % GROUP >> 5;
    const int mine = 2 * (lane & 3);
    const ColumnTerms<Sum> here = {terms + mine, terms + COLUMNS + mine,
                                   terms + 2 * COLUMNS + mine, terms + 3 * COLUMNS + mine};
    // A stage is free when the warps of the group that used it have said so.
    auto release = [&](u32 signal) {
        if (lane == 0) signal_arrive(signal);
    };

    Ring ring{stages};
    int columns_parity = 0, turn = 0;
    if (group == 1) arrive(TURN, TAKING_TURNS);  // the first tile is for group 0
    for (int index = blockIdx.x; index < work.pieces(); index += gridDim.x) {
        const Work::Piece piece = work.piece(index);
        const int first_column = piece.column_tile * COLUMNS + mine;
        signal_wait(plan.columns_full(), columns_parity);
        columns_parity ^= 1;
        const Sum thickest = thickest_of<Sum, WIDE>(here.thickness);
        for (int row_tile = piece.first_row_tile; row_tile < piece.last_row_tile; ++row_tile) {
            const bool my_turn = turn == group;
            turn ^= 1;
            if (!my_turn) {
                ring.skip(slices);
                continue;
            }
            Sums<Sum, 2, WIDE> sums;
            sums.start(here.start);
            meet(TURN + group, TAKING_TURNS);
            int before = 0;
            for (int slice = 0; slice < slices; ++slice) {
                signal_wait(plan.full(ring.stage), ring.parity);
                const u64 left = operand_of(plan.stages + ring.stage * Image::BYTES);
                const u64 right = operand_of(plan.columns + slice * COLUMNS * SLICE);
                products_fence();
#pragma unroll
                for (int k = 0; k < SLICE; k += 32) {
                    multiply_group(sums.at[0], sums.at[1], left + (k >> 4), right + (k >> 4));
                }
                products_commit();
                products_wait<1>();  // those of the slice before are done
                if (slice > 0) release(plan.empty(before));
                before = ring.stage;
                ring.step();
            }
            arrive(TURN + (group ^ 1), TAKING_TURNS);
            const int row = row_tile * TILE + warp * 16 + (lane >> 2);
            Asked<Sum, 2, MARGIN> asked(row_terms, row);
            products_wait<0>();
            release(plan.empty(before));
            queue_survivors<MARGIN>(sums, asked, row, first_column, row_terms, here, thickest, queue);
        }
        release(plan.columns_empty());
    }
    if (turn == group) meet(TURN + group, TAKING_TURNS);  // takes the arrival that is left over
}

template <typename Sum, int COLUMNS, bool MARGIN>
__device__ __forceinline__ void filter(unsigned char* shared, const unsigned char* rows,
                                       const unsigned char* columns, int slices, int stages,
                                       const RowTerms<Sum>& row_terms,
                                       const ColumnTerms<Sum>& all_terms, const Queue& queue,
                                       const Work& work) {
    constexpr int WARPS = GROUP / 32;
    const Plan<COLUMNS> plan(shared_address(shared), slices, stages);
    const Sum* terms = reinterpret_cast<const Sum*>(shared + (plan.terms - plan.columns));
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < stages; ++stage) {
            signal_init(plan.full(stage), 1);
            signal_init(plan.empty(stage), WARPS);  // of the group whose turn it is
        }
        signal_init(plan.columns_full(), 1);
        signal_init(plan.columns_empty(), 2 * WARPS);
        signal_fence();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        give_registers<40>();
        if (threadIdx.x == 0) {
            bring<Sum, COLUMNS, MARGIN>(plan, rows, columns, slices, stages, all_terms, work);
        }
    } else {
        take_registers<232>();
        multiply_tiles<Sum, COLUMNS, MARGIN>(plan, terms, slices, stages, row_terms, queue, work);
    }
}

}  // namespace sm90

#define CLIPGAP_FILTER_SM90(name, Sum, COLUMNS, MARGIN)                                            \
    CLIPGAP_KERNEL void __launch_bounds__(sm90::THREADS, 1) name(                                  \
        const unsigned char* rows, const unsigned char* columns, int slices, int stages,           \
        const Sum* offset, const Sum* width, Sum* best, Sum* margin, const Sum* start,             \
        const Sum* floor, const Sum* tau, const Sum* thickness, int* pairs, u64* count,            \
        int capacity, int row_tiles, int column_tiles, int band, int stretch) {                    \
        CLIPGAP_SHARED(shared);                                                                    \
        sm90::filter<Sum, COLUMNS, MARGIN>(shared, rows, columns, slices, stages,                  \
                                           {offset, width, best, margin},                          \
                                           {start, floor, tau, thickness},                         \
                                           {pairs, count, capacity},                               \
                                           {row_tiles, column_tiles, band, stretch});              \
    }
#define CLIPGAP_FILTERS_SM90(COLUMNS)                                                              \
    CLIPGAP_FILTER_SM90(filter_int8_sm90_##COLUMNS, int, COLUMNS, false)                           \
    CLIPGAP_FILTER_SM90(filter_int8_sm90_##COLUMNS##_margin, int, COLUMNS, true)                   \
    CLIPGAP_FILTER_SM90(filter_float16_sm90_##COLUMNS, float, COLUMNS, false)                      \
    CLIPGAP_FILTER_SM90(filter_float16_sm90_##COLUMNS##_margin, float, COLUMNS, true)

CLIPGAP_FILTERS_SM90(256)
CLIPGAP_FILTERS_SM90(128)
CLIPGAP_FILTERS_SM90(64)

#endif
