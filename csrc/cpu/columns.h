// The test side of a scan, prepared once: columns in scan order, quantised and packed, with everything
// that the filter's bound takes from a column folded into one start value.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "huge_pages.h"
#include "kernels.h"

namespace clipgap {

// Integer bounds are compared as sums of two or three of these, so they stay well inside 32 bits.
constexpr int32_t kNever = 1 << 30;      // a bound that nothing reaches
constexpr int32_t kAlways = -(1 << 30);  // a bound that everything reaches
constexpr int32_t kPadding = kAlways - (1 << 29);  // start value of a column that is not there

// A float32 sum of up to 8192 squares in 8 lanes is off by less than this, relatively.
constexpr double kSumError = 1e-4;
// What a row or a column adds to a bound stays below 32: its share of the centring is at most 2.05, its
// slack four products of two lengths, none longer than 2.03. In units no smaller than this that is below
// 2^29, and no sum of bounds leaves 32 bits.
constexpr double kSmallestUnit = 0x1p-24;
constexpr double kUsualShare = 0.998;  // of columns whose residuals are not outliers

inline double length(float sum_of_squares) {
  return std::sqrt(double(sum_of_squares)) * (1.0 + kSumError);
}

// The step that leaves the smallest residual on a sample, and the largest integer: small steps clip,
// large ones round. `spread` is the usual size of a coordinate, `smallest` the smallest step.
struct Grid {
  float step, limit;
};
Grid choose_grid(float max_limit, double spread, double smallest,
                 const std::function<double(float step, float limit)>& residual_at);

// A product x * y of a number of the row and one of the column, from above and taken apart: what is usual
// of either is told from columns, rows resemble them. With these u and v,
//   x * y = x * v + u * (y - v) + (x - u) * (y - v),
// and the last is small. The row pays for it by how far y usually is from v; columns further away
// than that pay themselves, as if x were `reach` from u.
struct Split {
  double u, v, far, reach;

  double of_row(double x) const { return x * v + std::fabs(x - u) * far; }
  double of_column(double y) const {
    const double away = std::fabs(y - v);
    return u * (y - v) + reach * std::max(0.0, away - far);
  }
};
// `share` of the columns' numbers y are no further from their mean than `far`.
Split split_of(double u, std::vector<double> y, double share, double reach);
double mean_of(const std::vector<double>&);

// Largest integer <= x - 1, or smallest >= x + 1: the step aside covers the rounding of x itself.
int32_t bound_below(double x);
int32_t bound_above(double x);

// What the filter knows of a row besides its integers.
struct RowTerms {
  double shift;  // real score = (integer dot) * unit + shift of the row + shift of the column
  double slack;  // how far the row's rounding can move any score
};

struct Columns {
  const Kernels* kernels;
  int64_t d, count, sets;
  std::vector<int64_t> set_first_panel;  // (sets + 1)
  std::vector<int64_t> set_first;        // (sets + 1), first column of a set in the order given
  int64_t panels;
  std::vector<int64_t> place;  // in scan order, of each column in the order given

  // By place in scan order, padding included.
  std::vector<int64_t> given;    // column in the order given, -1 for padding
  std::vector<int32_t> start;    // initial value of the integer dot product
  std::vector<int32_t> width;    // twice the column's slack, in units
  std::vector<int32_t> tau_floor;
  std::vector<double> tau;
  HugeVector<uint16_t> halves;  // (places, d)
  HugeVector<int32_t> packed;
  std::vector<RowTerms> as_row;  // what the filter knows of it where it is compared as a row
  std::vector<uint8_t> has_tau;         // per set
  std::vector<uint8_t> decides_margin;  // per set: some tau below +inf, so that scores matter
  std::vector<int32_t> first_unbounded;  // per set: lowest column with tau = -inf, or -1

  // The common quantisation.
  std::vector<float> centre, signs;
  std::vector<uint16_t> centre_halves;
  double centre_sq;
  Quantiser how;
  double unit;           // value of one integer step of a dot product
  // How far a score can be from its estimate.
  Split row_residual;     // times the column's length
  Split column_residual;  // of the column, times the length of the row's integers

  // The place behind the last column of a set; what follows is padding.
  int64_t set_end(int64_t set) const {
    return set_first_panel[set] * kernels->tile_columns + set_first[set + 1] - set_first[set];
  }
  int64_t places() const { return panels * kernels->tile_columns; }
  int64_t lanes() const { return how.padded / kernels->group; }
  RowTerms terms_of_row(const uint16_t* row, const Quantised&) const;
  RowTerms terms_of(double shift, double residual, double integers) const;
};

void prepare_columns(Columns&, const Kernels*, int64_t d, int sets, const int64_t* sizes,
                     const uint16_t* rows, const double* tau, const uint8_t* has_tau);

}  // namespace clipgap
