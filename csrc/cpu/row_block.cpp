#include "row_block.h"

#include <algorithm>
#include <limits>

namespace clipgap {
namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();
}

RowBlock::RowBlock(const Columns& columns, int64_t capacity)
    : full(capacity + columns.kernels->tile_rows),
      first(capacity + columns.kernels->tile_rows),
      low_offset(capacity),
      best(capacity),
      margin(capacity),
      best_column(capacity),
      witness(capacity),
      columns_(columns),
      packed_((capacity + columns.kernels->tile_rows) * columns.lanes()),
      integers_(columns.kernels->tile_rows * columns.how.padded),
      scratch_(columns.how.padded) {}

int32_t RowBlock::rows_in_panel(int64_t i) const {
  const int64_t width = columns_.kernels->tile_rows;
  return int32_t(std::min(width, n_ - i * width));
}

void RowBlock::take(const uint16_t* rows, int64_t n, const Head* head, bool tiles) {
  const Kernels& kernels = *columns_.kernels;
  const int64_t width = kernels.tile_rows, padded = columns_.how.padded, lanes = columns_.lanes();
  n_ = n;
  head_ = head;
  if (head) {
    head_packed_.resize(panels() * width * head_lanes());
    units_.resize(panels() * width * lanes);
  }
  for (int64_t p = 0; p < panels(); ++p) {
    const int32_t count = rows_in_panel(p);
    if (count < width) std::fill(integers_.begin(), integers_.end(), int16_t(0));
    for (int32_t r = 0; r < count; ++r) {
      const int64_t row = p * width + r;
      const uint16_t* half = rows + row * columns_.d;
      const Quantised q =
          kernels.quantise(columns_.how, half, &integers_[r * padded], scratch_.data());
      const RowTerms terms = columns_.terms_of_row(half, q);
      full.set_terms(row, terms, columns_.unit);
      low_offset[row] = bound_below((terms.shift - terms.slack) / columns_.unit);
    }
    if (tiles) {
      kernels.pack(integers_.data(), width, padded, width, kernels.row_bias,
                   &packed_[p * width * lanes]);
    }
    if (!head) continue;
    kernels.pack(integers_.data(), width, padded, 1, kernels.row_bias, &units_[p * width * lanes]);
    take_heads(rows, p, count);
  }
}

void RowBlock::take_columns(int64_t place, int64_t n) {
  const Kernels& kernels = *columns_.kernels;
  const int64_t height = kernels.tile_rows, width = kernels.tile_columns, lanes = columns_.lanes();
  // Adds the bias to each integer of a unit; nothing is carried from one to the next.
  const uint32_t high = kernels.group == 4 ? 0x80808080u : 0x80008000u;
  const uint32_t bias = uint32_t(kernels.row_bias) * (kernels.group == 4 ? 0x01010101u : 0x00010001u);
  n_ = n;
  head_ = nullptr;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t from = place + i;
    const int32_t* units = &columns_.packed[(from / width) * lanes * width + from % width];
    int32_t* to = &packed_[(i / height) * lanes * height + i % height];
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const uint32_t unit = uint32_t(units[lane * width]);
      to[lane * height] = int32_t(((unit & ~high) + (bias & ~high)) ^ ((unit ^ bias) & high));
    }
    full.set_terms(i, columns_.as_row[from], columns_.unit);
  }
}

void RowBlock::take_heads(const uint16_t* rows, int64_t p, int32_t count) {
  const Kernels& kernels = *columns_.kernels;
  const int64_t width = kernels.tile_rows, d = columns_.d;
  const int64_t directions = head_->directions, padded = head_->padded();
  centred_.resize(width * d);
  projected_.resize(width * directions);
  integers_.resize(std::max<size_t>(integers_.size(), width * padded));
  std::vector<float>& norm_sq = scratch_;
  for (int32_t r = 0; r < count; ++r) {
    norm_sq[r] = kernels.centred(rows + (p * width + r) * d, columns_.centre.data(), d,
                                 &centred_[r * d]);
  }
  kernels.project(centred_.data(), count, d, head_->packed_directions.data(), directions,
                  projected_.data());
  std::fill(integers_.begin(), integers_.begin() + width * padded, int16_t(0));
  for (int32_t r = 0; r < count; ++r) {
    const int64_t row = p * width + r;
    const Head::Taken taken = head_->take(kernels, &projected_[r * directions], norm_sq[r],
                                          &integers_[r * padded]);
    first.set_terms(row, {full.terms[row].shift, head_->slack_of_row(taken)}, head_->unit);
  }
  kernels.pack(integers_.data(), width, padded, width, kernels.row_bias,
               &head_packed_[p * width * head_lanes()]);
}

void RowBlock::begin_set(int64_t set) {
  const bool has_tau = columns_.has_tau[set];
  // A column with tau = -inf has an infinite margin whatever the score: the lowest one is the witness.
  const int32_t unbounded = columns_.first_unbounded[set];
  std::fill_n(best.begin(), n_, -kInfinity);
  std::fill_n(best_column.begin(), n_, 0);
  std::fill_n(full.best.begin(), n_, kAlways);
  std::fill_n(margin.begin(), n_, unbounded >= 0 ? kInfinity : -kInfinity);
  std::fill_n(witness.begin(), n_, !has_tau ? -1 : unbounded >= 0 ? unbounded : 0);
  std::fill_n(full.margin.begin(), n_,
              columns_.decides_margin[set] && unbounded < 0 ? kAlways : kNever);
  if (!head_) return;
  std::copy_n(full.best.begin(), n_, first.best.begin());
  std::copy_n(full.margin.begin(), n_, first.margin.begin());
}

void RowBlock::begin_search(double limit) {
  for (int64_t i = 0; i < n_; ++i) full.best[i] = full.bound_of(i, limit, columns_.unit);
  std::fill_n(full.margin.begin(), n_, kNever);
}

void RowBlock::improve_best(int64_t row, double score, int32_t column) {
  if (score < best[row] || (score == best[row] && column >= best_column[row])) return;
  best[row] = score, best_column[row] = column;
  full.best[row] = full.bound_of(row, score, columns_.unit);
  if (head_) first.best[row] = first.bound_of(row, score, head_->unit);
}

void RowBlock::improve_margin(int64_t row, double value, int32_t column) {
  if (value < margin[row] || (value == margin[row] && column >= witness[row])) return;
  margin[row] = value, witness[row] = column;
  if (full.margin[row] == kNever || value == -kInfinity) return;
  full.margin[row] = full.bound_of(row, value, columns_.unit);
  if (head_) first.margin[row] = first.bound_of(row, value, head_->unit);
}

}  // namespace clipgap
