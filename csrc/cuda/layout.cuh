// How operands and work are laid out, the same for the kernels that write and those that read.
#pragma once

#include "device.cuh"

constexpr int TILE = 128;  // rows of a tile
constexpr int BLOCK = 128;  // coordinates of a Hadamard transform; depths are multiples of it

// An operand lies in global memory as it will lie in shared memory, so that a copy is a copy: tiles
// of 128 rows, each a sequence of slices of SLICE bytes of depth, each slice row by row. Within a
// row the 16-byte chunks are permuted, so that eight rows' chunks of the same depth lie in
// different banks.
template <int SLICE>
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
    int row_tiles, column_tiles;  // column_tiles is a multiple of what a block or cluster takes
    int band;  // column tiles of a band
    int stretch;  // row tiles of a piece

    struct Piece {
        int column_tile, first_row_tile, last_row_tile;
    };

    __device__ __forceinline__ int stretches() const { return (row_tiles + stretch - 1) / stretch; }

    // `together` neighbouring column tiles, with the same rows, make one piece.
    __device__ __forceinline__ int pieces(int together) const {
        return stretches() * (column_tiles / together);
    }

    __device__ __forceinline__ Piece piece(int index, int together) const {
        const int first = index / (stretches() * (band / together)) * band;
        const int wide = min(band, column_tiles - first) / together;
        const int within = index - first / together * stretches();
        const int row_tile = within / wide * stretch;
        return {first + within % wide * together, row_tile, min(row_tile + stretch, row_tiles)};
    }
};
