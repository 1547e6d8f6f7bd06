// Where among the columns a row's best is likely to be. A few columns stand for all others, each for a
// *cell* of those that lie nearest to it; of the cell whose representative is nearest to a row, one column
// gives the row a first bound that is near its last. docs/exactness.md says why bounds may come from anywhere.

#pragma once

#include <cstdint>
#include <vector>

#include "columns.h"
#include "head.h"

namespace clipgap {

struct Cells {
  // Representatives are the columns of the first panels of a set; a small set has none.
  std::vector<int64_t> panels_of_set;
  std::vector<int64_t> first_of_set;  // (sets), its first representative
  std::vector<int32_t> start;         // by representative: makes its product with a row a closeness
  std::vector<int64_t> first_panel;   // by representative, and one more: its cell's panels

  // By place among the panels of cells.
  std::vector<int32_t> column;  // in scan order
  std::vector<int32_t> bound;   // as Head::start
  HugeVector<int32_t> packed;   // as Head::packed
};

Cells make_cells(const Columns&, const Head&);

}  // namespace clipgap
