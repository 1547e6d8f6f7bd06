#include "head.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace clipgap {
namespace {

constexpr int64_t kSlotsAtOnce = 8;  // what all instruction sets can add to a vector
constexpr int64_t kMostSlots = 32;
// One float32 multiplication and addition, relatively.
constexpr double kStepError = 0x1p-23;
// Tails add to what kSmallestUnit allows for.
constexpr double kSmallestHeadUnit = 4 * kSmallestUnit;
constexpr double kLongest = 2.02;  // of a vector less the centre

// Directions may be mixed at will within the space that they span: a Hadamard transform gives every
// coordinate about the same share of it, so that one step suits all. Where it takes several blocks, each
// has strong and weak directions.
std::vector<float> mixed(const float* directions, int64_t count, int64_t d) {
  const int64_t block = count & -count, blocks = count / block;
  std::vector<float> out(count * d);
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(directions + (i % block * blocks + i / block) * d, d, &out[i * d]);
  }
  const float scale = float(1.0 / std::sqrt(double(block)));
  for (int64_t base = 0; base < count; base += block) {
    for (int64_t h = 1; h < block; h *= 2) {
      for (int64_t i = base; i < base + block; ++i) {
        if ((i - base) & h) continue;
        float *a = &out[i * d], *b = &out[(i + h) * d];
        for (int64_t j = 0; j < d; ++j) {
          const float x = a[j], y = b[j];
          a[j] = x + y, b[j] = x - y;
        }
      }
    }
  }
  for (float& x : out) x *= scale;
  return out;
}

// In sums that do not wait for each other.
double product_of(const float* a, const float* b, int64_t d) {
  constexpr int64_t kSums = 8;
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= d; i += kSums) {
    for (int64_t j = 0; j < kSums; ++j) sums[j] += double(a[i + j]) * b[i + j];
  }
  for (; i < d; ++i) sums[0] += double(a[i]) * b[i];
  return std::accumulate(sums, sums + kSums, 0.0);
}

// The largest eigenvalue of (directions * transposed - 1), from above.
double skew_of(const std::vector<float>& directions, int64_t count, int64_t d) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      const double product = product_of(&directions[i * d], &directions[j * d], d) - (i == j);
      total += (i == j ? 1 : 2) * product * product;
    }
  }
  return std::sqrt(total) + 1e-9;
}

std::vector<float> packed(const std::vector<float>& directions, int64_t count, int64_t d) {
  std::vector<float> out(count * d);
  for (int64_t i = 0; i < count; ++i) {
    float* to = &out[(i / kDirections) * d * kDirections + i % kDirections];
    for (int64_t j = 0; j < d; ++j) to[j * kDirections] = directions[i * d + j];
  }
  return out;
}

double squares(const float* y, int64_t n) { return product_of(y, y, n); }

}  // namespace

double Head::projection_error(double norm) const {
  // Sums of kPartial products, then a sum of those sums; and the centring.
  const double steps = double(kPartial) + double(d) / kPartial + 4;
  return std::sqrt(double(directions)) * steps * kStepError * 1.01 * norm;
}

Head::Taken Head::take(const Kernels& kernels, const float* y, float norm_sq,
                       int16_t* integers) const {
  const Rounded rounded = kernels.round(y, directions, step, limit, integers);
  const double error = projection_error(length(norm_sq));
  Taken taken;
  taken.norm = std::sqrt(squares(y, directions)) + error;
  taken.residual = length(rounded.residual_sq) + error;
  taken.integers = step * length(rounded.integer_sq);
  const double whole = double(norm_sq) * (1 + kSumError);
  const double head = std::max(0.0, taken.norm - 2 * error);
  taken.tail = std::sqrt(std::max(0.0, whole - head * head) + skew * whole) * (1 + 1e-12);
  const double slot = std::min(double(limit), std::nearbyint(taken.tail / share));
  taken.kept = slot * share;
  std::fill_n(integers + directions, slots, int16_t(slot));
  return taken;
}

double Head::slack_of_row(const Taken& row) const {
  const double rest = row.tail - row.kept;
  // The rest of a tail that is too long for its slots may be anything.
  const double of_rest = rest > share ? rest * tail_max : row_rest.of_row(rest);
  return row_residual.of_row(row.residual) + column_residual.of_row(row.integers) + of_rest +
         column_rest.of_row(row.kept);
}

Projected project_columns(const Columns& columns, const float* directions, int64_t count,
                          std::vector<int64_t> column) {
  const Kernels& kernels = *columns.kernels;
  const int64_t d = columns.d, width = kernels.tile_columns, places = int64_t(column.size());
  Projected out;
  out.directions = count;
  out.basis = mixed(directions, count, d);
  out.packed_basis = packed(out.basis, count, d);
  out.y.resize(places * count);
  out.norm_sq.assign(places, 0.0f);
  std::vector<float> centred(width * d);
  for (int64_t first = 0; first < places; first += width) {
    for (int64_t at = first; at < first + width; ++at) {
      if (column[at] < 0) continue;
      out.norm_sq[at] = kernels.centred(&columns.halves[column[at] * d], columns.centre.data(), d,
                                        &centred[(at - first) * d]);
    }
    kernels.project(centred.data(), width, d, out.packed_basis.data(), count, &out.y[first * count]);
  }
  out.column = std::move(column);
  return out;
}

Head make_head(const Columns& columns, const Projected& projected) {
  const Kernels& kernels = *columns.kernels;
  const int64_t d = columns.d, width = kernels.tile_columns, count = projected.directions;
  const int64_t places = int64_t(projected.column.size());
  const float* y = projected.y.data();
  Head head;
  head.d = d;
  head.directions = count;
  head.column = projected.column;
  head.packed_directions = projected.packed_basis;
  head.skew = skew_of(projected.basis, count, d);

  std::vector<int64_t> real;
  for (int64_t at = 0; at < places; ++at) {
    if (head.column[at] >= 0) real.push_back(at);
  }
  const int64_t every = std::max<int64_t>(1, int64_t(real.size()) / 1024);
  double mean_sq = 0;
  int64_t seen = 0;
  for (size_t i = 0; i < real.size(); i += every, ++seen) mean_sq += squares(&y[real[i] * count], count);
  mean_sq /= double(seen);
  std::vector<int16_t> scratch(count);
  const Grid grid = choose_grid(
      kernels.max_limit, std::sqrt(std::max(mean_sq, 1e-6) / double(count)), std::sqrt(kSmallestHeadUnit),
      [&](float step, float limit) {
        double total = 0;
        for (size_t i = 0; i < real.size(); i += every) {
          const Rounded r = kernels.round(&y[real[i] * count], count, step, limit, scratch.data());
          total += std::sqrt(double(r.residual_sq));
        }
        return total;
      });
  head.step = grid.step, head.limit = grid.limit;
  head.unit = double(grid.step) * double(grid.step);

  // As many slots as hold the tails of nearly all columns.
  head.slots = kSlotsAtOnce;
  std::vector<double> tails;
  for (const int64_t at : real) {
    const double rest = double(projected.norm_sq[at]) - squares(&y[at * count], count);
    tails.push_back(std::sqrt(std::max(0.0, rest)));
  }
  const auto most = tails.begin() + (tails.size() - 1) * 99 / 100;
  std::nth_element(tails.begin(), most, tails.end());
  while (head.slots < kMostSlots &&
         std::sqrt(double(head.slots)) * head.step * head.limit < *most * 1.1) {
    head.slots += kSlotsAtOnce;
  }
  head.share = std::sqrt(double(head.slots)) * head.step;

  const int64_t padded = head.padded(), lanes = padded / kernels.group;
  std::vector<double> norm, residual, lengths, tail, kept, rest, bias;  // by real column
  std::vector<int16_t> integers(width * padded);
  head.packed.resize(places * lanes);
  for (int64_t first = 0; first < places; first += width) {
    std::fill(integers.begin(), integers.end(), int16_t(0));
    for (int64_t at = first; at < first + width; ++at) {
      if (head.column[at] < 0) continue;
      int16_t* q = &integers[(at - first) * padded];
      const Head::Taken taken = head.take(kernels, &y[at * count], projected.norm_sq[at], q);
      norm.push_back(taken.norm), residual.push_back(taken.residual);
      lengths.push_back(taken.integers), tail.push_back(taken.tail), kept.push_back(taken.kept);
      rest.push_back(taken.tail - taken.kept);
      bias.push_back(std::accumulate(q, q + padded, 0.0));
    }
    kernels.pack(integers.data(), width, padded, int(width), 0, &head.packed[first * lanes]);
  }

  const double longest = 1.01 * (kLongest + 0.5 * head.step * std::sqrt(double(count)) +
                                 head.projection_error(kLongest));
  head.row_residual = split_of(mean_of(residual), norm, 1, longest);
  head.column_residual = split_of(mean_of(lengths), residual, kUsualShare, longest);
  head.row_rest = split_of(0, tail, kUsualShare, head.share);
  head.column_rest = {mean_of(kept), 0, head.share / 2, longest};
  head.tail_max = *std::max_element(tail.begin(), tail.end());

  head.start.assign(places, kPadding);
  head.tau_floor.assign(places, 1 << 29);
  for (size_t i = 0; i < real.size(); ++i) {
    const int64_t at = real[i], place = head.column[at];
    const double shift =
        kernels.dot(&columns.halves[place * d], columns.centre_halves.data(), d);
    const double slack = head.row_residual.of_column(norm[i]) +
                         head.column_residual.of_column(residual[i]) +
                         head.row_rest.of_column(tail[i]) + head.column_rest.of_column(rest[i]) +
                         head.skew * kLongest * kLongest;
    head.start[at] = bound_above((shift + slack) / head.unit) - kernels.row_bias * int32_t(bias[i]);
    if (columns.tau_floor[place] < 1 << 29) {
      head.tau_floor[at] =
          std::clamp(bound_below(columns.tau[place] / head.unit), -(1 << 29), 1 << 29);
    }
  }
  return head;
}

void add_second_look(Head& head, const Columns& columns) {
  const int64_t lanes = columns.lanes(), width = columns.kernels->tile_columns;
  const int64_t places = int64_t(head.column.size());
  head.units.resize(places * lanes);
  head.full_start.assign(places, kPadding);
  head.full_tau_floor.assign(places, 1 << 29);
  for (int64_t at = 0; at < places; ++at) {
    const int64_t place = head.column[at];
    if (place < 0) continue;
    const int32_t* from = &columns.packed[place / width * width * lanes + place % width];
    for (int64_t lane = 0; lane < lanes; ++lane) head.units[at * lanes + lane] = from[lane * width];
    head.full_start[at] = columns.start[place];
    head.full_tau_floor[at] = columns.tau_floor[place];
  }
}

}  // namespace clipgap
