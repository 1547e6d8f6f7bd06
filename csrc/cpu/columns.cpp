#include "columns.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace clipgap {
namespace {

constexpr double kStoredNormMax = 1.01;
// Rotation and residual are computed in float32: at most 17 roundings of 2^-24 each, on vectors no
// longer than 2.02, come to 2.1e-6.
constexpr double kRotationError = 4e-6;
// The rotation leaves out its factor 1/sqrt(block); lengths behind it take that in here.
double rotated_length(float sum_of_squares, int64_t block) {
  return length(sum_of_squares) / std::sqrt(double(block));
}

// One step through all residues of m, far from regular: neighbours in the file, often of one class,
// are spread over the scan, so that the first few columns already represent the whole set.
int64_t spreading_stride(int64_t m) {
  int64_t stride = std::max<int64_t>(1, int64_t(double(m) * 0.6180339887498949));
  while (std::gcd(stride, m) != 1) ++stride;
  return stride;
}

uint16_t half_of(double x) {  // round to nearest even; |x| < 2
  const double a = std::fabs(x);
  int exponent = a < 0x1p-14 ? -14 : std::ilogb(a);
  const double steps = std::nearbyint(std::ldexp(a, 10 - exponent));
  uint32_t bits = uint32_t(steps) + (uint32_t(exponent + 14) << 10);
  return uint16_t(bits | (std::signbit(x) ? 0x8000u : 0u));
}

double value_of(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const double fraction = half & 1023;
  const double a = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return half & 0x8000 ? -a : a;
}

void choose_rotation(Columns& columns, int64_t d, const uint16_t* rows) {
  Quantiser& how = columns.how;
  how.d = d;
  how.padded = (d + 63) / 64 * 64;
  how.block = std::min<int64_t>(how.padded & -how.padded, 1024);

  columns.centre.assign(how.padded, 0.0f);
  columns.centre_halves.assign(d, 0);
  columns.signs.resize(how.padded);
  std::vector<double> sum(d, 0.0), row(d);
  // Some columns tell the mean well enough: any centre is correct.
  const int64_t every =
      std::max<int64_t>(1, columns.count / std::clamp<int64_t>(columns.count / 4, 64, 4096));
  int64_t seen = 0;
  for (int64_t i = 0; i < columns.count; i += every, ++seen) {
    columns.kernels->widen(rows + i * d, 1, d, 1, row.data());
    for (int64_t j = 0; j < d; ++j) sum[j] += row[j];
  }
  columns.centre_sq = 0;
  for (int64_t j = 0; j < d; ++j) {
    columns.centre_halves[j] = half_of(sum[j] / double(seen));
    const double c = value_of(columns.centre_halves[j]);
    columns.centre[j] = float(c);
    columns.centre_sq += c * c;
  }
  uint32_t state = 0x9E3779B9u;
  for (float& sign : columns.signs) {  // xorshift: fixed, so that every run makes the same integers
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    sign = state & 0x10000u ? -1.0f : 1.0f;
  }
  how.centre = columns.centre.data();
  how.signs = columns.signs.data();
}

// The step that leaves the smallest residual on a sample: small steps clip, large ones round.
void choose_step(Columns& columns, const uint16_t* rows) {
  Quantiser& how = columns.how;
  const Kernels& kernels = *columns.kernels;
  std::vector<int16_t> integers(how.padded);
  // Fewer of few columns, lest choosing take longer than all that is done with them.
  const int64_t sampled = std::clamp<int64_t>(columns.count * columns.count / 8192, 16, 1024);
  const int64_t every = std::max<int64_t>(1, columns.count / sampled);
  const int64_t seen = (columns.count + every - 1) / every;
  std::vector<float> rotated(seen * how.padded);
  how.step = how.limit = 1.0f;
  double norm_sq = 0;
  for (int64_t i = 0; i < seen; ++i) {
    norm_sq += kernels.quantise(how, rows + i * every * how.d, integers.data(),
                                &rotated[i * how.padded]).norm_sq;
  }
  norm_sq /= double(seen);
  // Usual size of one coordinate behind the rotation; columns may all be equal, so not quite zero.
  const double spread =
      std::sqrt(std::max(norm_sq, 1e-6) * double(how.block) / double(how.padded));
  const Grid grid = choose_grid(
      kernels.max_limit, spread, std::sqrt(double(how.block) * kSmallestUnit),
      [&](float step, float limit) {
        double total = 0;
        for (int64_t i = 0; i < seen; ++i) {
          const float* y = &rotated[i * how.padded];
          total += std::sqrt(double(
              kernels.round(y, how.padded, step, limit, integers.data()).residual_sq));
        }
        return total;
      });
  how.step = grid.step, how.limit = grid.limit;
  columns.unit = double(grid.step) * double(grid.step) / double(how.block);
}

}  // namespace

Grid choose_grid(float max_limit, double spread, double smallest,
                 const std::function<double(float, float)>& residual_at) {
  double best = std::numeric_limits<double>::infinity();
  Grid chosen{};
  for (const double reach : {2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0, 12.0, 24.0}) {
    const float step = float(std::max(reach * spread / max_limit, smallest));
    const float limit =
        std::max(float(std::floor(std::min<double>(reach * spread / step, max_limit))), 1.0f);
    const double residual = residual_at(step, limit);
    if (residual < best) best = residual, chosen = {step, limit};
  }
  return chosen;
}

double mean_of(const std::vector<double>& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), 0.0) / double(numbers.size());
}

Split split_of(double u, std::vector<double> y, double share, double reach) {
  const double v = mean_of(y);
  for (double& x : y) x = std::fabs(x - v);
  const auto far = y.begin() + int64_t(double(y.size() - 1) * share);
  std::nth_element(y.begin(), far, y.end());
  return {u, v, *far, reach};
}

int32_t bound_below(double x) {
  if (!(x > double(kAlways))) return kAlways;
  if (x >= double(kNever)) return kNever;
  return int32_t(std::floor(x)) - 1;
}

int32_t bound_above(double x) { return -bound_below(-x); }

// docs/exactness.md: with residuals r and centred lengths n, |score - estimate| is at most
//   r_row * n_column + m_row * r_column,   m = length of the row's integers.
RowTerms Columns::terms_of_row(const uint16_t* row, const Quantised& q) const {
  return terms_of(kernels->dot(row, centre_halves.data(), d),
                  rotated_length(q.residual_sq, how.block) + kRotationError,
                  how.step * rotated_length(q.integer_sq, how.block));
}

RowTerms Columns::terms_of(double shift, double residual, double integers) const {
  return {shift - centre_sq, row_residual.of_row(residual) + column_residual.of_row(integers)};
}

void prepare_columns(Columns& columns, const Kernels* kernels, int64_t d, int sets,
                     const int64_t* sizes, const uint16_t* rows, const double* tau,
                     const uint8_t* has_tau) {
  columns.kernels = kernels;
  columns.d = d;
  columns.sets = sets;
  columns.has_tau.assign(has_tau, has_tau + sets);
  columns.decides_margin.assign(sets, 0);
  columns.first_unbounded.assign(sets, -1);
  columns.set_first.assign(1, 0);
  columns.set_first_panel.assign(1, 0);
  const int width = kernels->tile_columns;
  for (int set = 0; set < sets; ++set) {
    const int64_t first = columns.set_first.back(), size = sizes[set];
    const int64_t stride = spreading_stride(size);
    const int64_t panels = (size + width - 1) / width;
    for (int64_t place = 0; place < panels * width; ++place) {
      // i * stride mod size, without overflow for any size below 2^31.
      columns.given.push_back(place < size ? first + int64_t(uint64_t(place) * stride % size) : -1);
    }
    columns.set_first.push_back(first + size);
    columns.set_first_panel.push_back(columns.set_first_panel.back() + panels);
  }
  columns.count = columns.set_first.back();
  columns.panels = columns.set_first_panel.back();
  columns.place.resize(columns.count);
  for (int64_t place = 0; place < columns.places(); ++place) {
    if (columns.given[place] >= 0) columns.place[columns.given[place]] = place;
  }

  choose_rotation(columns, d, rows);
  choose_step(columns, rows);

  const int64_t places = columns.places(), padded = columns.how.padded, lanes = columns.lanes();
  columns.start.assign(places, kPadding);
  columns.width.assign(places, 0);
  columns.as_row.resize(places);
  columns.tau_floor.assign(places, 1 << 29);
  columns.tau.assign(places, std::numeric_limits<double>::infinity());
  columns.halves.assign(places * d, 0);
  columns.packed.resize(columns.panels * lanes * width);

  std::vector<double> residual(places, 0.0), norm(places, 0.0), shift(places, 0.0);
  std::vector<double> length_of_integers(places, 0.0);
  std::vector<int32_t> bias(places, 0);
  std::vector<int16_t> integers(width * padded);
  std::vector<float> scratch(padded);
  for (int64_t panel = 0; panel < columns.panels; ++panel) {
    std::fill(integers.begin(), integers.end(), int16_t(0));
    for (int c = 0; c < width; ++c) {
      const int64_t place = panel * width + c, from = columns.given[place];
      if (from < 0) continue;
      uint16_t* half = &columns.halves[place * d];
      std::memcpy(half, rows + from * d, d * sizeof(uint16_t));
      int16_t* q = &integers[c * padded];
      const Quantised found = kernels->quantise(columns.how, half, q, scratch.data());
      residual[place] = rotated_length(found.residual_sq, columns.how.block) + kRotationError;
      norm[place] = length(found.norm_sq) + kRotationError;
      shift[place] = kernels->dot(half, columns.centre_halves.data(), d);
      length_of_integers[place] =
          columns.how.step * rotated_length(found.integer_sq, columns.how.block);
      bias[place] = std::accumulate(q, q + padded, int32_t{0});
    }
    kernels->pack(integers.data(), width, padded, width, 0, &columns.packed[panel * lanes * width]);
  }

  const auto of_columns = [&](const std::vector<double>& by_place) {
    std::vector<double> some;
    for (int64_t place = 0; place < places; ++place) {
      if (columns.given[place] >= 0) some.push_back(by_place[place]);
    }
    return some;
  };
  const double step = columns.how.step / std::sqrt(double(columns.how.block));
  const double longest_row = 1.01 * (kStoredNormMax + std::sqrt(columns.centre_sq) +
                                     0.5 * step * std::sqrt(double(padded)) + kRotationError);
  columns.row_residual =
      split_of(mean_of(of_columns(residual)), of_columns(norm), 1, longest_row);
  columns.column_residual = split_of(mean_of(of_columns(length_of_integers)), of_columns(residual),
                                     kUsualShare, longest_row);

  for (int set = 0; set < sets; ++set) {
    for (int64_t place = columns.set_first_panel[set] * width;
         place < columns.set_first_panel[set + 1] * width; ++place) {
      const int64_t from = columns.given[place];
      if (from < 0) continue;
      const double slack = columns.row_residual.of_column(norm[place]) +
                           columns.column_residual.of_column(residual[place]);
      columns.start[place] = bound_above((shift[place] + slack) / columns.unit) -
                             kernels->row_bias * bias[place];
      columns.width[place] = bound_above(2.0 * slack / columns.unit) + 2;
      columns.as_row[place] =
          columns.terms_of(shift[place], residual[place], length_of_integers[place]);
      if (!columns.has_tau[set]) continue;
      const double t = tau[from];
      columns.tau[place] = t;
      if (t < std::numeric_limits<double>::infinity()) columns.decides_margin[set] = 1;
      columns.tau_floor[place] =
          std::clamp(bound_below(t / columns.unit), -(1 << 29), 1 << 29);
      int32_t& first = columns.first_unbounded[set];
      const int32_t within = int32_t(from - columns.set_first[set]);
      if (t == -std::numeric_limits<double>::infinity() && (first < 0 || within < first)) {
        first = within;
      }
    }
  }
}

}  // namespace clipgap
