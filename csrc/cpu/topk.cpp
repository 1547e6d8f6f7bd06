#include "topk.h"

#include <algorithm>
#include <limits>

#include "columns.h"

namespace clipgap {

TopK::TopK(int64_t columns, int k, double unit)
    : k_(k),
      unit_(unit),
      scores_(columns * k, -std::numeric_limits<double>::infinity()),
      ids_(columns * k, -1),
      bounds_(columns),
      locks_(new std::atomic_flag[columns]) {
  for (int64_t i = 0; i < columns; ++i) bounds_[i] = k ? kAlways : kNever, locks_[i].clear();
}

void TopK::publish(int64_t column, int32_t bound) {
  if (bound > this->bound(column)) bounds_[column].store(bound, std::memory_order_relaxed);
}

void TopK::offer(int64_t column, double score, int64_t id) {
  // Most do not get in, and need not look at the list for that.
  if (!k_ || bound_above(score / unit_) < bound(column)) return;
  double* scores = &scores_[column * k_];
  int64_t* ids = &ids_[column * k_];
  const auto before = [&](int64_t slot) {  // does the held entry stay ahead of the new one?
    return scores[slot] > score || (scores[slot] == score && ids[slot] <= id);
  };
  while (locks_[column].test_and_set(std::memory_order_acquire)) {
  }
  if (!before(k_ - 1)) {
    int slot = k_ - 1;
    while (slot > 0 && !before(slot - 1)) --slot;
    if (slot == 0 || scores[slot - 1] != score || ids[slot - 1] != id) {
      std::copy_backward(scores + slot, scores + k_ - 1, scores + k_);
      std::copy_backward(ids + slot, ids + k_ - 1, ids + k_);
      scores[slot] = score, ids[slot] = id;
      publish(column, bound_below(scores[k_ - 1] / unit_));
    }
  }
  locks_[column].clear(std::memory_order_release);
}

void TopK::raise(int64_t column, int32_t bound) {
  publish(column, bound);
  filled_ |= bound > kAlways;
}

void TopK::raise(int64_t column, double score) { raise(column, bound_below(score / unit_)); }

void TopK::load(int64_t column, const double* scores, const int64_t* ids) {
  std::copy(scores, scores + k_, &scores_[column * k_]);
  std::copy(ids, ids + k_, &ids_[column * k_]);
  bounds_[column] = bound_below(scores_[column * k_ + k_ - 1] / unit_);
  filled_ = true;
}

}  // namespace clipgap
