#include "cells.h"

#include <algorithm>

namespace clipgap {
namespace {

constexpr int64_t kSmallestSet = 4096;  // below, finding a row's cell takes longer than it saves
constexpr int64_t kMostCells = 1024;

// Halves columns by the coordinate in which they differ most, and the halves again, down to panels.
void halve(const std::vector<float>& y, int64_t width, int64_t* begin, int64_t* end) {
  const int64_t n = end - begin;
  if (n <= width) return;
  double sum[kDirections] = {}, squares[kDirections] = {};
  for (const int64_t* i = begin; i != end; ++i) {
    for (int j = 0; j < kDirections; ++j) {
      const double value = y[*i * kDirections + j];
      sum[j] += value, squares[j] += value * value;
    }
  }
  int widest = 0;
  double most = -1;
  for (int j = 0; j < kDirections; ++j) {
    const double spread = squares[j] - sum[j] * sum[j] / double(n);
    if (spread > most) most = spread, widest = j;
  }
  int64_t* const middle = begin + (n / 2 + width - 1) / width * width;
  std::nth_element(begin, middle, end, [&](int64_t a, int64_t b) {
    const float x = y[a * kDirections + widest], z = y[b * kDirections + widest];
    return x < z || (x == z && a < b);
  });
  halve(y, width, begin, middle);
  halve(y, width, middle, end);
}

}  // namespace

std::vector<int64_t> order_of_cells(const Columns& columns, const float* directions) {
  const int64_t width = columns.kernels->tile_columns;
  std::vector<int64_t> order(columns.places());
  for (int64_t place = 0; place < columns.places(); ++place) {
    order[place] = columns.given[place] < 0 ? -1 : place;
  }
  std::vector<float> y;
  for (int64_t set = 0; set < columns.sets; ++set) {
    int64_t* const first = &order[columns.set_first_panel[set] * width];
    int64_t* const end = &order[0] + columns.set_end(set);
    if (end - first < kSmallestSet) continue;
    // The strongest directions tell enough.
    if (y.empty()) y = project_columns(columns, directions, kDirections, order).y;
    halve(y, width, first, end);
  }
  return order;
}

Cells make_cells(const Columns& columns, const Head& head, const Projected& projected) {
  const Kernels& kernels = *columns.kernels;
  const int64_t width = kernels.tile_columns, count = head.directions;
  const int64_t lanes = count / kernels.group;
  Cells cells;
  cells.first.assign(1, 0);
  std::vector<int16_t> integers(width * count);
  std::vector<float> mean(count);
  for (int64_t set = 0; set < columns.sets; ++set) {
    const int64_t begin = columns.set_first_panel[set] * width, end = columns.set_end(set);
    const int64_t panels = columns.set_first_panel[set + 1] - columns.set_first_panel[set];
    const int64_t each = (panels + kMostCells - 1) / kMostCells, size = each * width;
    const int64_t some = end - begin < kSmallestSet ? 0 : (panels + each - 1) / each;
    cells.panels.push_back(each);
    for (int64_t cell = 0; cell < some; ++cell) {
      const int64_t from = begin + cell * size, to = std::min(from + size, end);
      std::fill(mean.begin(), mean.end(), 0.0f);
      for (int64_t at = from; at < to; ++at) {
        for (int64_t j = 0; j < count; ++j) mean[j] += projected.y[at * count + j];
      }
      double square = 0;
      for (float& m : mean) m /= float(to - from), square += double(m) * m;
      int16_t* q = &integers[cell % width * count];
      kernels.round(mean.data(), count, head.step, head.limit, q);
      int64_t bias = 0;
      for (int64_t j = 0; j < count; ++j) bias += q[j];
      // Nearest is whose product less half the square of its length is largest.
      cells.start.push_back(int32_t(-square / 2 / head.unit) - kernels.row_bias * int32_t(bias));
      if (cell % width < width - 1 && cell < some - 1) continue;
      cells.packed.resize(cells.packed.size() + lanes * width);
      kernels.pack(integers.data(), width, count, int(width), 0,
                   &cells.packed[cells.packed.size() - lanes * width]);
    }
    cells.start.resize((cells.start.size() + width - 1) / width * width, kPadding);
    cells.first.push_back(int64_t(cells.start.size()));
  }
  return cells;
}

}  // namespace clipgap
