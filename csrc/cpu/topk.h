// The k best rows of every column, shared by all threads. A list is kept sorted: score descending, then
// id ascending, which is a total order, so its content does not depend on who comes first.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "prefetch.h"

namespace clipgap {

class TopK {
 public:
  TopK(int64_t columns, int k, double unit);

  // Offers a row to a column; an id that is already there counts once.
  void offer(int64_t column, double score, int64_t id);

  // What the filter compares with: below this no row can enter. Read while others write: a value that
  // is a moment old is lower, and lets more through, never less.
  int32_t bound(int64_t column) const { return bounds_[column].load(std::memory_order_relaxed); }
  // Those of the columns from `first` on, as many as `bounds` holds.
  void read_bounds(int64_t first, std::vector<int32_t>& bounds) const {
    for (size_t i = 0; i < bounds.size(); ++i) bounds[i] = bound(first + int64_t(i));
  }

  // Asks for a column's list, a while before a row is offered to it.
  CG_PREFETCHING void prefetch(int64_t column) const {
    for (int i = 0; i < k_; i += 8) {
      __builtin_prefetch(&scores_[column * k_ + i]), __builtin_prefetch(&ids_[column * k_ + i]);
    }
    __builtin_prefetch(&locks_[column]);
  }

  // Raises a column's bound, for what is known from elsewhere: that k rows reach `bound`, or `score`. Rows
  // below it are then missing from the list, however few it holds.
  void raise(int64_t column, int32_t bound);
  void raise(int64_t column, double score);

  void load(int64_t column, const double* scores, const int64_t* ids);
  const double* scores(int64_t column) const { return &scores_[column * k_]; }
  const int64_t* ids(int64_t column) const { return &ids_[column * k_]; }
  bool empty() const { return !filled_; }
  int k() const { return k_; }

 private:
  void publish(int64_t column, int32_t bound);

  int k_;
  double unit_;
  bool filled_ = false;
  std::vector<double> scores_;
  std::vector<int64_t> ids_;
  std::vector<std::atomic<int32_t>> bounds_;
  std::unique_ptr<std::atomic_flag[]> locks_;
};

}  // namespace clipgap
