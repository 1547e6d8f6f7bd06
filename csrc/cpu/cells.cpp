#include "cells.h"

#include <algorithm>

namespace clipgap {
namespace {

constexpr int64_t kSmallestSet = 4096;  // below, finding a row's cell takes longer than it saves
constexpr int64_t kCellSize = 32;       // of columns, about
constexpr int64_t kMostRepresentatives = 1024;
constexpr int64_t kMostPanels = 8;  // of a cell; of thousands of copies any will do

// Projects columns onto the directions of the first look.
class Heads {
 public:
  Heads(const Columns& columns, const Head& head)
      : columns_(columns), head_(head), vector_(columns.d) {}

  float project(int64_t place, float* y) {
    const Kernels& kernels = *columns_.kernels;
    const int64_t d = columns_.d;
    const float norm_sq = kernels.centred(&columns_.halves[place * d], columns_.centre.data(), d,
                                          vector_.data());
    kernels.project(vector_.data(), 1, d, head_.packed_directions.data(), head_.directions, y);
    return norm_sq;
  }

 private:
  const Columns& columns_;
  const Head& head_;
  std::vector<float> vector_;
};

}  // namespace

Cells make_cells(const Columns& columns, const Head& head) {
  const Kernels& kernels = *columns.kernels;
  const int64_t width = kernels.tile_columns, count = head.directions;
  const int64_t lanes = head.padded() / kernels.group;
  Cells cells;
  cells.panels_of_set.assign(columns.sets, 0);
  cells.first_of_set.assign(columns.sets, 0);
  cells.first_panel.assign(1, 0);
  Heads heads(columns, head);
  std::vector<int16_t> integers(width * head.padded());
  std::vector<float> y(width * count);

  for (int64_t set = 0; set < columns.sets; ++set) {
    cells.first_of_set[set] = int64_t(cells.start.size());
    const int64_t first = columns.set_first_panel[set] * width, end = columns.set_end(set);
    const int64_t size = end - first;
    if (size < kSmallestSet) continue;
    const int64_t panels = std::min(size / kCellSize, kMostRepresentatives) / width;
    const int64_t some = panels * width;
    cells.panels_of_set[set] = panels;

    // Nearest is whose product less half the square of its length is largest. That square is one more
    // direction, on which every column has -1/2.
    const int64_t rows = count + 1, groups = (some + kDirections - 1) / kDirections;
    std::vector<float> packed(groups * rows * kDirections, 0.0f);
    for (int64_t i = 0; i < some; ++i) {
      const float norm_sq = heads.project(first + i, y.data());
      head.take(kernels, y.data(), norm_sq, integers.data());
      float* to = &packed[(i / kDirections) * rows * kDirections + i % kDirections];
      double square = 0, bias = 0;
      for (int64_t j = 0; j < count; ++j) {
        to[j * kDirections] = y[j];
        square += double(y[j]) * y[j];
        bias += integers[j];
      }
      to[count * kDirections] = float(square);
      cells.start.push_back(int32_t(-square / 2 / head.unit) - kernels.row_bias * int32_t(bias));
    }
    std::vector<std::vector<int32_t>> members(some);
    std::vector<float> closeness(groups * kDirections), with_half(rows, -0.5f);
    for (int64_t place = first; place < end; ++place) {
      heads.project(place, with_half.data());
      kernels.project(with_half.data(), 1, rows, packed.data(), groups * kDirections, closeness.data());
      const auto nearest = std::max_element(closeness.begin(), closeness.begin() + some);
      std::vector<int32_t>& cell = members[nearest - closeness.begin()];
      if (int64_t(cell.size()) < kMostPanels * width) cell.push_back(int32_t(place));
    }
    for (const std::vector<int32_t>& cell : members) {
      const int64_t cell_panels = (int64_t(cell.size()) + width - 1) / width;
      cells.column.insert(cells.column.end(), cell.begin(), cell.end());
      cells.first_panel.push_back(cells.first_panel.back() + cell_panels);
      cells.column.resize(cells.first_panel.back() * width, -1);
    }
  }

  cells.packed.resize(cells.column.size() * lanes);
  cells.bound.resize(cells.column.size(), kPadding);
  for (int64_t panel = 0; panel < cells.first_panel.back(); ++panel) {
    std::fill(integers.begin(), integers.end(), int16_t(0));
    for (int64_t c = 0; c < width; ++c) {
      const int64_t at = panel * width + c, place = cells.column[at];
      if (place < 0) continue;
      const float norm_sq = heads.project(place, y.data());
      head.take(kernels, y.data(), norm_sq, &integers[c * head.padded()]);
      cells.bound[at] = head.start[place];
    }
    kernels.pack(integers.data(), width, head.padded(), int(width), 0,
                 &cells.packed[panel * lanes * width]);
  }
  return cells;
}

}  // namespace clipgap
