// The filter with wgmma, for H100.
//
// A cluster of two blocks takes neighbouring column tiles and the same rows. Each block holds its
// columns, full depth, in shared memory; rows stream through a ring of stages, each block bringing
// half of every slice for both. In a block one warp brings operands, and two warp groups take turns
// at the row tiles: while one looks for survivors, the tensor cores work for the other. A group
// begins a tile when the other has ordered all products of the tile before: only then is every phase
// of the ring's signals over but the one that it waits for, which is all that a parity can tell.
//
// Registers: 128 x 128 sums a group are 128 a thread; the groups have 232 a thread and leave 40 to
// the warps that copy. Shared memory, d = 640: 80 KiB of columns, 2 KiB of terms, 8 stages x 16 KiB
// of rows: 210 of 227 KiB. Traffic from the second-level cache: 16 bytes a clock, of about 32 that an
// H100 has for each multiprocessor; without the cluster it would be all of them.
#pragma once

#include "survivors.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(CLIPGAP_EMULATED)

namespace sm90 {

constexpr int SLICE = 128;
constexpr int GROUP = 128;
constexpr int THREADS = 3 * GROUP;  // one group that copies, two that multiply
constexpr int CLUSTER = 2;
constexpr int STAGES_MAX = 8;
using Image = Layout<SLICE>;

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

template <int COLUMNS, bool MARGIN>
__device__ __forceinline__ void bring(const Plan<COLUMNS>& plan, const signed char* rows,
                                      const signed char* columns, int slices, int stages,
                                      const ColumnTerms& all_terms, const Work& work, u32 rank) {
    constexpr int TERM_BYTES = COLUMNS * 4;
    Ring ring{stages};
    int columns_parity = 0;
    for (int index = blockIdx.x / CLUSTER; index < work.pieces(CLUSTER);
         index += gridDim.x / CLUSTER) {
        const Work::Piece piece = work.piece(index, CLUSTER);
        const int first_column = (piece.column_tile + rank) * COLUMNS;

        signal_wait(plan.columns_empty(), columns_parity ^ 1);
        columns_parity ^= 1;
        signal_expect(plan.columns_full(),
                      slices * COLUMNS * SLICE + (MARGIN ? 4 : 3) * TERM_BYTES);
        const signed char* tile = columns +
            static_cast<u64>(first_column / TILE) * slices * Image::BYTES +
            first_column % TILE * SLICE;
        for (int slice = 0; slice < slices; ++slice) {
            copy_bulk(plan.columns + slice * COLUMNS * SLICE, tile + slice * Image::BYTES,
                      COLUMNS * SLICE, plan.columns_full());
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

        constexpr u32 PART = Image::BYTES / CLUSTER;
        const signed char* from =
            rows + static_cast<u64>(piece.first_row_tile) * slices * Image::BYTES + rank * PART;
        const int count = (piece.last_row_tile - piece.first_row_tile) * slices;
        for (int step = 0; step < count; ++step, from += Image::BYTES) {
            // Both blocks are done with the stage, for both are written to.
            signal_wait(plan.empty(ring.stage), ring.parity ^ 1);
            signal_expect(plan.full(ring.stage), Image::BYTES);
            copy_bulk_to(plan.stages + ring.stage * Image::BYTES + rank * PART, from, PART,
                         plan.full(ring.stage), (1 << CLUSTER) - 1);
            ring.step();
        }
    }
}

template <int COLUMNS, bool MARGIN>
__device__ __forceinline__ void multiply_tiles(const Plan<COLUMNS>& plan, const int* terms,
                                               int slices, int stages, const RowTerms& row_terms,
                                               const Queue& queue, const Work& work, u32 rank) {
    constexpr int WIDE = COLUMNS / 4;  // columns of a thread
    constexpr int HALF = 64 * SLICE;  // bytes of the rows of one product
    const int group = threadIdx.x / GROUP - 1;
    const int lane = threadIdx.x & 31, warp = threadIdx.x % GROUP >> 5;
    const int mine = 2 * (lane & 3);
    const ColumnTerms here = {terms + mine, terms + COLUMNS + mine, terms + 2 * COLUMNS + mine,
                              terms + 3 * COLUMNS + mine};
    // A stage is free when the warps that used it, in both blocks, have said so in both.
    auto release = [&](int stage) {
        if (lane < CLUSTER) signal_arrive_at(plan.empty(stage), lane);
    };

    Ring ring{stages};
    int columns_parity = 0, turn = 0;
    if (group == 1) arrive(TURN, TAKING_TURNS);  // the first tile is for group 0
    for (int index = blockIdx.x / CLUSTER; index < work.pieces(CLUSTER);
         index += gridDim.x / CLUSTER) {
        const Work::Piece piece = work.piece(index, CLUSTER);
        const int first_column = (piece.column_tile + rank) * COLUMNS + mine;
        signal_wait(plan.columns_full(), columns_parity);
        columns_parity ^= 1;
        for (int row_tile = piece.first_row_tile; row_tile < piece.last_row_tile; ++row_tile) {
            const bool my_turn = turn == group;
            turn ^= 1;
            if (!my_turn) {
                ring.skip(slices);
                continue;
            }
            Sums<4, WIDE> sums;
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
                    multiply_group(sums.at[2], sums.at[3], left + (HALF + k >> 4),
                                   right + (k >> 4));
                }
                products_commit();
                products_wait<1>();  // those of the slice before are done
                if (slice > 0) release(before);
                before = ring.stage;
                ring.step();
            }
            arrive(TURN + (group ^ 1), TAKING_TURNS);
            products_wait<0>();
            release(before);
            const int row = row_tile * TILE + warp * 16 + (lane >> 2);
            queue_survivors<4, WIDE, MARGIN>(
                sums, [&](int slot) { return row + (slot >> 1) * 64 + (slot & 1) * 8; },
                first_column, row_terms, here, queue);
        }
        __syncwarp();
        if (lane == 0) signal_arrive(plan.columns_empty());
    }
    if (turn == group) meet(TURN + group, TAKING_TURNS);  // takes the arrival that is left over
}

template <int COLUMNS, bool MARGIN>
__device__ __forceinline__ void filter(unsigned char* shared, const signed char* rows,
                                       const signed char* columns, int slices, int stages,
                                       const RowTerms& row_terms, const ColumnTerms& all_terms,
                                       const Queue& queue, const Work& work) {
    constexpr int WARPS = 2 * GROUP / 32;  // that multiply
    const Plan<COLUMNS> plan(shared_address(shared), slices, stages);
    const int* terms = reinterpret_cast<const int*>(shared + (plan.terms - plan.columns));
    const u32 rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < stages; ++stage) {
            signal_init(plan.full(stage), 1);
            signal_init(plan.empty(stage), CLUSTER * WARPS / 2);  // one group of each block
        }
        signal_init(plan.columns_full(), 1);
        signal_init(plan.columns_empty(), WARPS);
        signal_fence();
    }
    cluster_meet();
    if (threadIdx.x < GROUP) {
        give_registers<40>();
        if (threadIdx.x == 0) {
            bring<COLUMNS, MARGIN>(plan, rows, columns, slices, stages, all_terms, work, rank);
        }
    } else {
        take_registers<232>();
        multiply_tiles<COLUMNS, MARGIN>(plan, terms, slices, stages, row_terms, queue, work, rank);
    }
    __syncwarp();
    cluster_meet();  // no block leaves while another may still signal to it
}

}  // namespace sm90

#define CLIPGAP_FILTER_SM90(name, COLUMNS, MARGIN)                                                 \
    CLIPGAP_KERNEL void CLIPGAP_CLUSTER(sm90::CLUSTER) __launch_bounds__(sm90::THREADS, 1) name(   \
        const signed char* rows, const signed char* columns, int slices, int stages,               \
        const int* offset, const int* width, int* best, int* margin, const int* start,             \
        const int* floor, const int* tau, const int* thickness, int* pairs, u64* count,            \
        int capacity, int row_tiles, int column_tiles, int band, int stretch) {                    \
        CLIPGAP_SHARED(shared);                                                                    \
        sm90::filter<COLUMNS, MARGIN>(shared, rows, columns, slices, stages,                       \
                                      {offset, width, best, margin},                               \
                                      {start, floor, tau, thickness}, {pairs, count, capacity},    \
                                      {row_tiles, column_tiles, band, stretch});                   \
    }

CLIPGAP_FILTER_SM90(filter_sm90_128, 128, false)
CLIPGAP_FILTER_SM90(filter_sm90_128_margin, 128, true)
CLIPGAP_FILTER_SM90(filter_sm90_64, 64, false)
CLIPGAP_FILTER_SM90(filter_sm90_64_margin, 64, true)

#endif
