// How operands and work are laid out, the same for both filters.
#pragma once

#include "device.cuh"

// An operand lies in global memory as it will lie in shared memory, so that a copy is a copy: tiles
// of TILE rows, each a sequence of slices of SLICE bytes of depth, each slice row by row. Within a
// row the 16-byte chunks are permuted, so that eight rows' chunks of the same depth lie in
// different banks. `place_of` in triton_kernels/quantise.py writes them so.
template <int TILE, int SLICE>
struct Layout {
    static constexpr int BYTES = TILE * SLICE;  // of a slice
    static constexpr int CHUNKS = SLICE / 16;

    // Where a chunk of a row lies within a slice.
    static __device__ __forceinline__ int place(int row, int chunk) {
        const int turn = SLICE == 128 ? row & 7 : (row >> 1) & 3;
        return row * SLICE + ((chunk ^ turn) << 4);
    }
};

// A piece of work: some columns, which stay in shared memory, and a stretch of rows, which comes by.
// A band of neighbouring column tiles is worked on at the same time, over all rows, before the next
// begins: by then the rows' bounds have risen.
struct Work {
    int row_tiles, column_tiles;
    int band;  // column tiles of a band
    int stretch;  // row tiles of a piece

    struct Piece {
        int column_tile, first_row_tile, last_row_tile;
    };

    __device__ __forceinline__ int stretches() const { return (row_tiles + stretch - 1) / stretch; }
    __device__ __forceinline__ int pieces() const { return stretches() * column_tiles; }

    __device__ __forceinline__ Piece piece(int index) const {
        const int first = index / (stretches() * band) * band;
        const int wide = min(band, column_tiles - first);
        const int within = index - first * stretches();
        const int row_tile = within / wide * stretch;
        return {first + within % wide, row_tile, min(row_tile + stretch, row_tiles)};
    }
};
