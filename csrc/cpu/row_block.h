// A few hundred rows on their way through the filter: packed integers that stay in the second-level
// cache, and what is known of each row so far.

#pragma once

#include <cstdint>
#include <vector>

#include "columns.h"
#include "head.h"

namespace clipgap {

// What one level of the filter compares the rows of a block with, in its own units.
struct RowBounds {
  explicit RowBounds(int64_t capacity)
      : terms(capacity), offset(capacity), best(capacity), margin(capacity) {}

  int32_t bound_of(int64_t row, double value, double unit) const {
    return bound_below((value - terms[row].shift - terms[row].slack) / unit);
  }
  void set_terms(int64_t row, const RowTerms& of_row, double unit) {
    terms[row] = of_row;
    offset[row] = bound_above((of_row.shift + of_row.slack) / unit);
  }

  std::vector<RowTerms> terms;
  std::vector<int32_t> offset;        // upper bound of what the row adds
  std::vector<int32_t> best, margin;  // of the current test set
};

class RowBlock {
 public:
  RowBlock(const Columns&, int64_t capacity);

  // Quantises and packs `n` rows; with a head, for both looks, and for tiles at full depth if need be.
  void take(const uint16_t* rows, int64_t n, const Head* head = nullptr, bool tiles = true);
  // Takes columns in the place of rows: `n` of them from this place on.
  void take_columns(int64_t place, int64_t n);
  // Puts every row back to "nothing known" for a test set.
  void begin_set(int64_t set);
  // Lets the filter drop every pair whose score cannot exceed `limit`.
  void begin_search(double limit);

  int64_t panels() const { return (n_ + columns_.kernels->tile_rows - 1) / columns_.kernels->tile_rows; }
  int64_t size() const { return n_; }
  const int32_t* panel(int64_t i) const { return &packed_[i * columns_.kernels->tile_rows * columns_.lanes()]; }
  const int32_t* head_panel(int64_t i) const { return &head_packed_[i * columns_.kernels->tile_rows * head_lanes()]; }
  const int32_t* units() const { return units_.data(); }  // single rows at full depth
  const Head* head() const { return head_; }
  int32_t rows_in_panel(int64_t i) const;

  RowBounds full, first;            // at full depth, and at the head
  std::vector<int32_t> low_offset;  // lower bound of what the row adds, at full depth

  // Of the current test set.
  std::vector<double> best, margin;
  std::vector<int32_t> best_column, witness;  // rows of the test set

  void improve_best(int64_t row, double score, int32_t column);
  void improve_margin(int64_t row, double margin, int32_t column);

 private:
  int64_t head_lanes() const { return head_->padded() / columns_.kernels->group; }
  void take_heads(const uint16_t* rows, int64_t p, int32_t count);

  const Columns& columns_;
  const Head* head_ = nullptr;
  int64_t n_ = 0;
  HugeVector<int32_t> packed_, head_packed_, units_;
  std::vector<int16_t> integers_;
  std::vector<float> scratch_, centred_, projected_;
};

}  // namespace clipgap
