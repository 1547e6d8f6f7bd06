// A few hundred rows on their way through the filter: packed integers that stay in the second-level
// cache, and what is known of each row so far.

#pragma once

#include <cstdint>
#include <vector>

#include "columns.h"

namespace clipgap {

class RowBlock {
 public:
  RowBlock(const Columns&, int64_t capacity);

  // Quantises and packs `n` rows.
  void take(const uint16_t* rows, int64_t n);
  // Puts every row back to "nothing known" for a test set.
  void begin_set(int64_t set);
  // Lets the filter drop every pair whose score cannot exceed `limit`.
  void begin_search(double limit);

  int64_t panels() const { return (n_ + columns_.kernels->tile_rows - 1) / columns_.kernels->tile_rows; }
  int64_t size() const { return n_; }
  const int32_t* panel(int64_t i) const { return &packed_[i * columns_.kernels->tile_rows * columns_.lanes()]; }
  int32_t rows_in_panel(int64_t i) const;

  // Fixed while the block lives.
  std::vector<RowTerms> terms;
  std::vector<int32_t> offset;     // upper bound of what the row adds, in units
  std::vector<int32_t> low_offset; // lower bound of it

  // Of the current test set.
  std::vector<double> best, margin;
  std::vector<int32_t> best_column, witness;  // rows of the test set
  std::vector<int32_t> best_bound, margin_bound;

  void improve_best(int64_t row, double score, int32_t column);
  void improve_margin(int64_t row, double margin, int32_t column);

 private:
  int32_t bound_of(int64_t row, double value) const {
    return bound_below((value - terms[row].shift - terms[row].slack) / columns_.unit);
  }

  const Columns& columns_;
  int64_t n_ = 0;
  HugeVector<int32_t> packed_;
  std::vector<int16_t> integers_;
  std::vector<float> scratch_;
};

}  // namespace clipgap
