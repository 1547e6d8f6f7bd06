// The first look of the filter. Rows and columns are projected onto a few directions in which columns
// differ most; what lies beyond is bounded by its length. Most pairs are out after a tenth of the work.
// docs/exactness.md derives the bound.

#pragma once

#include <cstdint>
#include <vector>

#include "columns.h"

namespace clipgap {

struct Head {
  int64_t d;
  int64_t directions;  // dimension of the projection
  int64_t slots;       // integers behind it, whose products bound that of the tails
  std::vector<float> packed_directions;
  float step, limit;
  double unit;            // value of one integer step of a dot product
  double usual_residual;  // as in Columns
  double norm_max;        // of the projected columns
  double tail_max;        // of what is left of them
  double skew;            // how far the directions are from orthonormal

  // By place among the panels that it was made for.
  std::vector<int32_t> start, tau_floor;
  HugeVector<int32_t> packed;
  HugeVector<int32_t> units;  // single columns at full depth, for the second look

  int64_t padded() const { return directions + slots; }
  // How far float32 can be off the true projection of a vector of this length.
  double projection_error(double norm) const;

  // From a projection: its integers, tail included, and what is needed for bounds.
  struct Taken {
    double norm, residual, integers;  // lengths
    double tail, tail_kept;           // its length, and how much of it the slots hold
  };
  Taken take(const Kernels&, const float* y, float norm_sq, int16_t* integers) const;
  // What the slots of a tail cannot hold is charged to the row.
  double slack_of_row(const Taken&) const;
};

// `directions` are rows (count, d), orthonormal as far as float32 goes, count a multiple of kDirections.
// Made for some panels of the columns, in this order.
Head make_head(const Columns&, const float* directions, int64_t count,
               const std::vector<int64_t>& panels);

}  // namespace clipgap
