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
// coordinate about the same share of it, so that one step suits all.
std::vector<float> mixed(const float* directions, int64_t count, int64_t d) {
  std::vector<float> out(directions, directions + count * d);
  const int64_t block = count & -count;
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

// The largest eigenvalue of (directions * transposed - 1), from above.
double skew_of(const std::vector<float>& directions, int64_t count, int64_t d) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double product = i == j ? -1.0 : 0.0;
      const float *a = &directions[i * d], *b = &directions[j * d];
      for (int64_t k = 0; k < d; ++k) product += double(a[k]) * b[k];
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

double squares(const float* y, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(y[i]) * y[i];
  return sum;
}

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
  const double share = std::sqrt(double(slots)) * step;
  const double slot = std::min(double(limit), std::ceil(taken.tail / share));
  taken.tail_kept = slot * share;
  std::fill_n(integers + directions, slots, int16_t(slot));
  return taken;
}

double Head::slack_of_row(const Taken& row) const {
  return row.integers * usual_residual + norm_max * std::max(0.0, row.residual - usual_residual) +
         tail_max * std::max(0.0, row.tail - row.tail_kept);
}

Head make_head(const Columns& columns, const float* directions, int64_t count,
               const std::vector<int64_t>& panels) {
  const Kernels& kernels = *columns.kernels;
  const int64_t d = columns.d, width = kernels.tile_columns;
  Head head;
  head.directions = count;
  const std::vector<float> basis = mixed(directions, count, d);
  head.skew = skew_of(basis, count, d);
  head.packed_directions = packed(basis, count, d);
  head.d = d;
  const auto place_of = [&](int64_t at) { return panels[at / width] * width + at % width; };
  const int64_t places = int64_t(panels.size()) * width;

  std::vector<float> y(places * count), norm_sq(places, 0.0f), vector(d);
  for (int64_t at = 0; at < places; ++at) {
    const int64_t place = place_of(at);
    if (columns.given[place] < 0) continue;
    norm_sq[at] =
        kernels.centred(&columns.halves[place * d], columns.centre.data(), d, vector.data());
    kernels.project(vector.data(), 1, d, head.packed_directions.data(), count, &y[at * count]);
  }

  std::vector<int64_t> real;
  for (int64_t at = 0; at < places; ++at) {
    if (columns.given[place_of(at)] >= 0) real.push_back(at);
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
    const double rest = double(norm_sq[at]) - squares(&y[at * count], count);
    tails.push_back(std::sqrt(std::max(0.0, rest)));
  }
  const auto most = tails.begin() + (tails.size() - 1) * 99 / 100;
  std::nth_element(tails.begin(), most, tails.end());
  while (head.slots < kMostSlots &&
         std::sqrt(double(head.slots)) * head.step * head.limit < *most * 1.1) {
    head.slots += kSlotsAtOnce;
  }

  const int64_t padded = head.padded(), lanes = padded / kernels.group;
  std::vector<Head::Taken> taken(places);
  std::vector<double> bias(places, 0.0), residuals;
  std::vector<int16_t> integers(width * padded);
  head.packed.resize(panels.size() * lanes * width);
  head.norm_max = head.tail_max = 0;
  for (size_t p = 0; p < panels.size(); ++p) {
    std::fill(integers.begin(), integers.end(), int16_t(0));
    for (int64_t c = 0; c < width; ++c) {
      const int64_t at = int64_t(p) * width + c;
      if (columns.given[place_of(at)] < 0) continue;
      int16_t* q = &integers[c * padded];
      taken[at] = head.take(kernels, &y[at * count], norm_sq[at], q);
      for (int64_t j = 0; j < padded; ++j) bias[at] += q[j];
      head.norm_max = std::max(head.norm_max, taken[at].norm);
      head.tail_max = std::max(head.tail_max, taken[at].tail);
      residuals.push_back(taken[at].residual);
    }
    kernels.pack(integers.data(), width, padded, int(width), 0, &head.packed[p * lanes * width]);
  }
  const auto usual = residuals.begin() + (residuals.size() - 1) * 9 / 10;
  std::nth_element(residuals.begin(), usual, residuals.end());
  head.usual_residual = *usual;

  const double longest_row =
      kLongest + 0.5 * head.step * std::sqrt(double(count)) + head.projection_error(kLongest);
  head.start.assign(places, kPadding);
  head.tau_floor.assign(places, 1 << 29);
  for (const int64_t at : real) {
    const int64_t place = place_of(at);
    const Head::Taken& column = taken[at];
    const double shift =
        kernels.dot(&columns.halves[place * d], columns.centre_halves.data(), d);
    const double slack =
        column.norm * head.usual_residual +
        longest_row * std::max(0.0, column.residual - head.usual_residual) +
        // What the slots cannot hold of this column's tail, whatever the row's.
        kLongest * 1.01 * std::max(0.0, column.tail - column.tail_kept) +
        head.skew * kLongest * kLongest;
    head.start[at] = bound_above((shift + slack) / head.unit) - kernels.row_bias * int32_t(bias[at]);
    if (columns.tau_floor[place] < 1 << 29) {
      head.tau_floor[at] =
          std::clamp(bound_below(columns.tau[place] / head.unit), -(1 << 29), 1 << 29);
    }
  }
  return head;
}

}  // namespace clipgap
