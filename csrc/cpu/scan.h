// The one pass over a block of rows: quantise, filter, refine, decide. See docs/exactness.md.

#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "clipgap.h"
#include "cells.h"
#include "columns.h"
#include "head.h"
#include "topk.h"

namespace clipgap {

class Worker;

struct Results {  // (n, sets), row-major
  double* sim;
  int32_t* nn;
  double* margin;
  int32_t* witness;
};

struct Pair {
  int32_t row, column;  // within the rows and the test set they were looked for in
  double score;
};

class Scanner {
 public:
  Scanner(const Kernels*, int threads, int64_t row_block, int64_t d, int sets, const int64_t* sizes,
          const uint16_t* columns, const double* tau, const uint8_t* has_tau, int k);

  void scan(const uint16_t* rows, const int64_t* ids, const int32_t* near, int64_t n, Results);
  // See cg_use_directions.
  void use_directions(const float* directions, int64_t count, const uint16_t* rows, int64_t n,
                      const Results& known);
  std::vector<std::vector<Pair>> pairs(const uint16_t* rows, int64_t n, int set, double limit);
  std::vector<std::vector<Pair>> pairs_among(int set, double limit);
  void upper_bounds(const uint16_t* rows, int64_t n, double* bounds);

  const Head* head() const { return head_ ? &*head_ : nullptr; }
  const Columns& columns() const { return columns_; }
  TopK& topk() { return topk_; }
  const TopK& topk() const { return topk_; }
  int64_t row_block() const { return row_block_; }
  cg_counters counters{};

 private:
  template <class Task>
  void run(int64_t n, int64_t block, const Task& task, int64_t capacity = 0);
  int64_t share_of(int64_t n) const;
  void raise_column_bounds(const uint16_t* rows, int64_t n);
  int64_t best_head(const float* directions, int64_t count, const uint16_t* rows, int64_t n,
                    const Results& known);

  Columns columns_;
  std::optional<Head> head_;
  Cells cells_;  // for the head
  TopK topk_;
  int threads_;
  int64_t row_block_;
};

}  // namespace clipgap
