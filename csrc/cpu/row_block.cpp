#include "row_block.h"

#include <algorithm>
#include <limits>

namespace clipgap {
namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();
}

RowBlock::RowBlock(const Columns& columns, int64_t capacity)
    : terms(capacity),
      offset(capacity),
      low_offset(capacity),
      best(capacity),
      margin(capacity),
      best_column(capacity),
      witness(capacity),
      best_bound(capacity),
      margin_bound(capacity),
      columns_(columns),
      packed_((capacity + columns.kernels->tile_rows) * columns.lanes()),
      integers_(columns.kernels->tile_rows * columns.how.padded),
      scratch_(columns.how.padded) {}

int32_t RowBlock::rows_in_panel(int64_t i) const {
  const int64_t width = columns_.kernels->tile_rows;
  return int32_t(std::min(width, n_ - i * width));
}

void RowBlock::take(const uint16_t* rows, int64_t n) {
  const Kernels& kernels = *columns_.kernels;
  const int64_t width = kernels.tile_rows, padded = columns_.how.padded;
  n_ = n;
  for (int64_t p = 0; p < panels(); ++p) {
    const int32_t count = rows_in_panel(p);
    if (count < width) std::fill(integers_.begin(), integers_.end(), int16_t(0));
    for (int32_t r = 0; r < count; ++r) {
      const int64_t row = p * width + r;
      const uint16_t* half = rows + row * columns_.d;
      const Quantised q =
          kernels.quantise(columns_.how, half, &integers_[r * padded], scratch_.data());
      terms[row] = columns_.terms_of_row(half, q);
      offset[row] = bound_above((terms[row].shift + terms[row].slack) / columns_.unit);
      low_offset[row] = bound_below((terms[row].shift - terms[row].slack) / columns_.unit);
    }
    kernels.pack(integers_.data(), width, padded, width, kernels.row_bias,
                 &packed_[p * width * columns_.lanes()]);
  }
}

void RowBlock::begin_set(int64_t set) {
  const bool has_tau = columns_.has_tau[set];
  // A column with tau = -inf has an infinite margin whatever the score: the lowest one is the witness.
  const int32_t unbounded = columns_.first_unbounded[set];
  std::fill_n(best.begin(), n_, -kInfinity);
  std::fill_n(best_column.begin(), n_, 0);
  std::fill_n(best_bound.begin(), n_, kAlways);
  std::fill_n(margin.begin(), n_, unbounded >= 0 ? kInfinity : -kInfinity);
  std::fill_n(witness.begin(), n_, !has_tau ? -1 : unbounded >= 0 ? unbounded : 0);
  std::fill_n(margin_bound.begin(), n_,
              columns_.decides_margin[set] && unbounded < 0 ? kAlways : kNever);
}

void RowBlock::begin_search(double limit) {
  for (int64_t i = 0; i < n_; ++i) best_bound[i] = bound_of(i, limit);
  std::fill_n(margin_bound.begin(), n_, kNever);
}

void RowBlock::improve_best(int64_t row, double score, int32_t column) {
  if (score < best[row] || (score == best[row] && column >= best_column[row])) return;
  best[row] = score, best_column[row] = column;
  best_bound[row] = bound_of(row, score);
}

void RowBlock::improve_margin(int64_t row, double value, int32_t column) {
  if (value < margin[row] || (value == margin[row] && column >= witness[row])) return;
  margin[row] = value, witness[row] = column;
  if (margin_bound[row] != kNever && value > -kInfinity) margin_bound[row] = bound_of(row, value);
}

}  // namespace clipgap
