// Where among the columns a row's best is likely to be. For the first look the columns of a set are put in
// an order in which neighbours lie near each other, so that some panels on end are a *cell*. The cell whose
// mean is nearest to a row has a column that gives the row a first bound near its last; docs/exactness.md
// says why bounds may come from anywhere. And what survives of a row lies in few panels, which find the
// row in the cache.

#pragma once

#include <cstdint>
#include <vector>

#include "columns.h"
#include "head.h"

namespace clipgap {

struct Cells {
  // By set; a small one has no cells, and keeps the order of the scan.
  std::vector<int64_t> first;   // (sets + 1), its first cell; whole panels of them
  std::vector<int64_t> panels;  // in each of its cells

  // By cell.
  std::vector<int32_t> start;  // makes the product of its mean with a row a closeness
  HugeVector<int32_t> packed;  // means, as Head::packed without what is behind the directions

  bool every_set_has_some() const {
    for (size_t set = 0; set < panels.size(); ++set) {
      if (first[set] == first[set + 1]) return false;
    }
    return true;
  }
};

// Columns by place, padding included (-1), in that order.
std::vector<int64_t> order_of_cells(const Columns&, const float* directions);
// For columns in that order.
Cells make_cells(const Columns&, const Head&, const Projected&);

}  // namespace clipgap
