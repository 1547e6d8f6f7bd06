// The filter with mma.sync, for every chip from A100 on.
//
// A block holds COLUMNS columns of full depth in shared memory. Its two groups of four warps take
// turns at the row tiles and never wait for each other: while one looks for survivors, the tensor
// cores work for the other. Each group brings its own rows, STAGES slices at a time.
//
// Registers: 64 x 64 sums a warp are 128 a thread of 255. Shared memory, d = 640: 80 KiB of columns,
// 2 KiB of their terms, 2 groups x 4 stages x 8 KiB of rows: 146 of 163 KiB. Traffic from the
// second-level cache: 16 bytes a clock of the 47 that an A100 has for each multiprocessor.
#pragma once

#include "survivors.cuh"

namespace sm80 {

constexpr int TILE = 128;  // rows
constexpr int SLICE = 64;  // bytes of depth
constexpr int GROUP = 128;  // threads
constexpr int THREADS = 2 * GROUP;
using Image = Layout<TILE, SLICE>;

// Shared memory: columns, terms, stages of group 0, stages of group 1.
template <typename Sum, int COLUMNS, int STAGES, bool MARGIN>
__device__ __forceinline__ void filter(unsigned char* shared, const unsigned char* rows,
                                       const unsigned char* columns, int slices,
                                       RowTerms<Sum> row_terms, ColumnTerms<Sum> all_terms,
                                       Queue queue, Work work) {
    constexpr int WARPS_DOWN = COLUMNS == 128 ? 2 : 4;
    constexpr int SLOTS = TILE / WARPS_DOWN / 8;  // rows of a thread

    const int group = threadIdx.x / GROUP, thread = threadIdx.x % GROUP;
    const int lane = thread & 31, warp = thread >> 5;
    const int warp_row = warp % WARPS_DOWN * (TILE / WARPS_DOWN);
    const int warp_column = warp / WARPS_DOWN * 64;

    const int column_slice = COLUMNS * SLICE;
    Sum* const terms = reinterpret_cast<Sum*>(shared + slices * column_slice);
    unsigned char* const stages =
        reinterpret_cast<unsigned char*>(terms + 4 * COLUMNS) + group * STAGES * Image::BYTES;
    const u32 columns_at = shared_address(shared), stages_at = shared_address(stages);

    // What a lane reads of operands: a row of the left matrices, a column of the right ones.
    const int left_row = warp_row + (lane & 15), left_chunk = lane >> 4;
    const int right_column = warp_column + (lane & 7) + (lane >> 4 << 3), right_chunk = lane >> 3 & 1;

    const int mine = 2 * (lane & 3);  // first column of a thread, within its warp's
    const ColumnTerms<Sum> here = {terms + warp_column + mine, terms + COLUMNS + warp_column + mine,
                              terms + 2 * COLUMNS + warp_column + mine,
                              terms + 3 * COLUMNS + warp_column + mine};

    for (int index = blockIdx.x; index < work.pieces(); index += gridDim.x) {
        const Work::Piece piece = work.piece(index);
        const int first_column = piece.column_tile * COLUMNS;

        __syncthreads();  // nobody reads the columns before
        for (int at = threadIdx.x; at < slices * column_slice / 16; at += THREADS) {
            const int slice = at / (column_slice / 16), within = at % (column_slice / 16);
            const unsigned char* from = columns +
                (static_cast<u64>(first_column / TILE) * slices + slice) * Image::BYTES +
                first_column % TILE * SLICE + within * 16;
            copy_async(columns_at + at * 16, from);
        }
        for (int at = threadIdx.x; at < COLUMNS; at += THREADS) {
            terms[at] = all_terms.start[first_column + at];
            terms[COLUMNS + at] = all_terms.floor[first_column + at];
            terms[2 * COLUMNS + at] = MARGIN ? all_terms.tau[first_column + at] : Sum(0);
            terms[3 * COLUMNS + at] = all_terms.thickness[first_column + at];
        }
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        const Sum thickest = thickest_of<Sum, 16>(here.thickness);

        // The group's row tiles, slice after slice. `next` runs ahead of what is computed.
        const int first = piece.first_row_tile + group;
        const int steps = first < piece.last_row_tile
            ? (piece.last_row_tile - first + 1) / 2 * slices : 0;
        const unsigned char* next = rows + static_cast<u64>(first) * slices * Image::BYTES;
        int begun = 0, next_slice = 0;
        auto bring = [&] {
            if (begun < steps) {
                const u32 to = stages_at + begun % STAGES * Image::BYTES + thread * 16;
#pragma unroll
                for (int at = 0; at < Image::BYTES; at += GROUP * 16) {
                    copy_async(to + at, next + thread * 16 + at);
                }
                ++begun;
                next += Image::BYTES;
                if (++next_slice == slices) {
                    next_slice = 0;
                    next += static_cast<u64>(slices) * Image::BYTES;  // the other group's tile
                }
            }
            copy_commit();
        };
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; ++stage) bring();

        int stage = 0;
        for (int row_tile = first; row_tile < piece.last_row_tile; row_tile += 2) {
            Sums<Sum, SLOTS, 16> sums;
            sums.start(here.start);
            for (int slice = 0; slice < slices; ++slice) {
                copy_wait<STAGES - 2>();
                meet(1 + group, GROUP);  // all of the slice is there; the one before is used up
                bring();
                const u32 left = stages_at + stage * Image::BYTES;
                const u32 right = columns_at + slice * column_slice;
                stage = stage + 1 == STAGES ? 0 : stage + 1;
#pragma unroll
                for (int k = 0; k < Image::CHUNKS; k += 2) {
                    u32 a[SLOTS / 2][4], b[4][4];
#pragma unroll
                    for (int m = 0; m < SLOTS / 2; ++m) {
                        load_matrices(a[m], left + Image::place(left_row + 16 * m, k + left_chunk));
                    }
#pragma unroll
                    for (int n = 0; n < 4; ++n) {
                        load_matrices(b[n],
                                      right + Image::place(right_column + 16 * n, k + right_chunk));
                    }
#pragma unroll
                    for (int m = 0; m < SLOTS / 2; ++m) {
#pragma unroll
                        for (int n = 0; n < 8; ++n) {
                            multiply(sums.at[2 * m] + 2 * n, sums.at[2 * m + 1] + 2 * n, a[m],
                                     b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
                        }
                    }
                }
            }
            const int row = row_tile * TILE + warp_row + (lane >> 2);
            Asked<Sum, SLOTS, MARGIN> asked(row_terms, row);
            queue_survivors<MARGIN>(sums, asked, row, first_column + warp_column + mine, row_terms,
                                    here, thickest, queue);
        }
    }
}

}  // namespace sm80

#define CLIPGAP_FILTER_SM80(name, Sum, COLUMNS, STAGES, MARGIN)                                     \
    CLIPGAP_KERNEL void __launch_bounds__(sm80::THREADS, 1) name(                                  \
        const unsigned char* rows, const unsigned char* columns, int slices, const Sum* offset,    \
        const Sum* width, Sum* best, Sum* margin, const Sum* start, const Sum* floor,              \
        const Sum* tau, const Sum* thickness, int* pairs, u64* count, int capacity, int row_tiles, \
        int column_tiles, int band, int stretch) {                                                 \
        CLIPGAP_SHARED(shared);                                                                    \
        sm80::filter<Sum, COLUMNS, STAGES, MARGIN>(                                                \
            shared, rows, columns, slices, {offset, width, best, margin},                          \
            {start, floor, tau, thickness}, {pairs, count, capacity},                              \
            {row_tiles, column_tiles, band, stretch});                                             \
    }
#define CLIPGAP_FILTERS_SM80(COLUMNS, STAGES)                                                      \
    CLIPGAP_FILTER_SM80(filter_int8_sm80_##COLUMNS##_##STAGES, int, COLUMNS, STAGES, false)        \
    CLIPGAP_FILTER_SM80(filter_int8_sm80_##COLUMNS##_##STAGES##_margin, int, COLUMNS, STAGES,      \
                        true)                                                                      \
    CLIPGAP_FILTER_SM80(filter_float16_sm80_##COLUMNS##_##STAGES, float, COLUMNS, STAGES, false)   \
    CLIPGAP_FILTER_SM80(filter_float16_sm80_##COLUMNS##_##STAGES##_margin, float, COLUMNS, STAGES, \
                        true)

CLIPGAP_FILTERS_SM80(128, 4)
CLIPGAP_FILTERS_SM80(128, 2)
CLIPGAP_FILTERS_SM80(64, 4)
CLIPGAP_FILTERS_SM80(64, 2)
