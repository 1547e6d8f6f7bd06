// The first look of the filter. Rows and columns are projected onto a few directions in which columns
// differ most; what lies beyond is bounded by its length. Most pairs are out after a tenth of the work.
// docs/exactness.md derives the bound.

#pragma once

#include <cstdint>
#include <vector>

#include "columns.h"

namespace clipgap {

// Columns, in some order, as some directions see them.
struct Projected {
  std::vector<int64_t> column;  // in scan order, or -1: padding; whole panels
  int64_t directions;
  std::vector<float> basis;  // (directions, d): those given, mixed
  std::vector<float> packed_basis;
  std::vector<float> y, norm_sq;  // projections, and the columns' own lengths
};

// `directions` are rows (count, d), orthonormal as far as float32 goes, count a multiple of kDirections.
Projected project_columns(const Columns&, const float* directions, int64_t count,
                          std::vector<int64_t> column);

struct Head {
  int64_t d;
  int64_t directions;  // dimension of the projection
  int64_t slots;       // integers behind it, whose products are those of the tails, about
  std::vector<float> packed_directions;
  float step, limit;
  double unit;   // value of one integer step of a dot product
  double share;  // of a tail that one step of all its slots stands for
  // How far the first look can be from what it bounds; as in Columns.
  Split row_residual, column_residual;
  Split row_rest, column_rest;  // what the slots leave of a tail, times the other one
  double tail_max;              // of columns
  double skew;                  // how far the directions are from orthonormal

  // By place among the panels that it was made for.
  std::vector<int64_t> column;  // as in Projected
  std::vector<int32_t> start, tau_floor;
  HugeVector<int32_t> packed;

  // For the second look: single columns at full depth, and the same for them.
  HugeVector<int32_t> units;
  std::vector<int32_t> full_start, full_tau_floor;

  int64_t padded() const { return directions + slots; }
  // How far float32 can be off the true projection of a vector of this length.
  double projection_error(double norm) const;

  // From a projection: its integers, tail included, and what is needed for bounds.
  struct Taken {
    double norm, residual, integers;  // lengths
    double tail, kept;                // its length, and what the slots make of it
  };
  Taken take(const Kernels&, const float* y, float norm_sq, int16_t* integers) const;
  double slack_of_row(const Taken&) const;
};

Head make_head(const Columns&, const Projected&);
void add_second_look(Head&, const Columns&);

}  // namespace clipgap
