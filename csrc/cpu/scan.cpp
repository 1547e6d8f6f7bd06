#include "scan.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <numeric>
#include <optional>

#include "floats.h"
#include "prefetch.h"
#include "row_block.h"
#include "threads.h"

namespace clipgap {
namespace {

constexpr int64_t kLargestBlock = 1536;
// Above this share of survivors a panel is decided densely; below it pairs are cheaper one by one.
constexpr double kFlood = 0.3;
constexpr int64_t kHeld = 256;  // survivors of a second look that are worth deciding
constexpr int64_t kAhead = 4;   // pairs whose vectors are on their way from memory
constexpr int64_t kCells = 4;   // in which a row's first column is looked for
constexpr int64_t kSampleRows = 2048;  // rows that give the column bounds a start
constexpr int64_t kTrialPanels = 64;   // panels on which heads are tried

// What a pair costs, in units of a lane of the tile loop; roughly the same for all instruction sets.
constexpr double kCheck = 12;      // to compare it with its bounds
constexpr double kLook = 600;      // to look at it again
constexpr double kProject = 0.9;   // to project a row: a number and direction
constexpr double kPrepare = 44;    // to pack it twice and find its place among the others: a number
constexpr double kWorthIt = 0.85;  // what a head must cost at most, as a share of one full look

int64_t rows_that_stay_in_cache(const Columns& columns) {
  const int64_t cache = std::max<int64_t>(cg_cache_bytes(2), 256 << 10);
  // Half the cache for packed rows; the other half for columns, survivors and the halves refined.
  return cache / 2 / (columns.lanes() * int64_t(sizeof(int32_t)));
}

int64_t whole_panels(int64_t rows, const Kernels& kernels) {
  return std::max<int64_t>(1, rows / kernels.tile_rows) * kernels.tile_rows;
}

}  // namespace

// One thread's way through its row blocks.
class Worker {
 public:
  Worker(const Columns& columns, const Head* head, const Cells* cells, TopK& topk,
         int64_t capacity)
      : columns_(columns),
        head_(head),
        cells_(cells),
        kernels_(*columns.kernels),
        topk_(topk),
        block_(columns, capacity),
        tile_(kernels_.tile_rows * kernels_.tile_columns),
        column_bounds_(kernels_.tile_columns, kNever),
        head_bounds_(kernels_.tile_columns, kNever),
        begun_(capacity),
        queue_((capacity + kernels_.tile_rows) * kernels_.tile_columns + kHeld),
        pairs_(head ? queue_.size() + kBeyond : 0) {}

  // `near` and `out` are those of all rows, of which these are n from the `first` on.
  void scan(const uint16_t* rows, const int64_t* ids, const int32_t* near, int64_t n, int64_t first,
            Results out) {
    rows_ = rows, ids_ = ids;
    block_.take(rows, n, head_, !head_ || !(near || cells_->every_set_has_some()));
    wide_rows_.clear();
    for (int64_t set = 0; set < columns_.sets; ++set) {
      block_.begin_set(set);
      std::fill(begun_.begin(), begun_.end(), -1);
      const bool bounded = near || (head_ && cells_->first[set] < cells_->first[set + 1]);
      if (near) {
        begin_near(near + first * columns_.sets, set);
      } else if (bounded) {
        begin_in_cells(set);
      }
      if (bounded) bound_rows(set);
      const int64_t first_panel = columns_.set_first_panel[set];
      for (int64_t p = first_panel; p < columns_.set_first_panel[set + 1]; ++p) {
        read_column_bounds(p);
        // In the first panel all may survive, for want of bounds, and the best of a row ends that.
        const bool twice = head_ && (bounded || p > first_panel);
        const int64_t held = found_;
        twice ? filter_twice(p) : filter(p, block_.panels());
        if (p > first_panel && double(found_ - held) > kFlood * double(n * kernels_.tile_columns)) {
          found_ = held;
          decide_densely(p, set);
        }
        // Where few survive, those of several panels hide better that their rows and columns are far away.
        if (!twice || found_ >= kHeld) settle(set);
      }
      settle(set);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t to = (first + i) * columns_.sets + set;
        out.sim[to] = block_.best[i], out.nn[to] = block_.best_column[i];
        out.margin[to] = block_.margin[i], out.witness[to] = block_.witness[i];
      }
    }
  }

  // The pairs of these rows with columns of one test set whose score exceeds `limit`.
  void pairs(const uint16_t* rows, int64_t n, int64_t first, int64_t set, double limit,
             std::vector<Pair>& found) {
    rows_ = rows;
    block_.take(rows, n);
    block_.begin_search(limit);
    found.clear();
    std::fill(column_bounds_.begin(), column_bounds_.end(), kNever);
    for (int64_t p = columns_.set_first_panel[set]; p < columns_.set_first_panel[set + 1]; ++p) {
      filter(p, block_.panels());
      take_found(limit, [&](int64_t row, int64_t place, double score) {
        found.push_back({int32_t(first + row), within(place, set), score});
      });
    }
  }

  // The pairs among the columns of one test set, those from place `first` on with all behind them.
  void pairs_among(int64_t first, int64_t n, int64_t set, double limit, std::vector<Pair>& found) {
    const int64_t height = kernels_.tile_rows, width = kernels_.tile_columns;
    rows_ = &columns_.halves[first * columns_.d];
    block_.take_columns(first, n);
    block_.begin_search(limit);
    found.clear();
    std::fill(column_bounds_.begin(), column_bounds_.end(), kNever);
    for (int64_t p = first / width; p < columns_.set_first_panel[set + 1]; ++p) {
      const int64_t before = (p + 1) * width - 1 - first;  // rows that some column of it is behind
      filter(p, std::min(block_.panels(), (before + height - 1) / height));
      take_found(limit, [&](int64_t row, int64_t place, double score) {
        if (place <= first + row) return;
        const auto [earlier, later] = std::minmax({within(first + row, set), within(place, set)});
        found.push_back({later, earlier, score});
      });
    }
  }

  // For each column of every panel, the largest lower bound among these rows.
  void lower_bounds(const uint16_t* rows, int64_t n, int32_t* best) {
    block_.take(rows, n);
    std::fill_n(best, columns_.places(), kPadding);
    for_each_tile([&](int64_t p, int64_t q) {
      kernels_.column_max(tile_.data(), &block_.low_offset[q * kernels_.tile_rows],
                          block_.rows_in_panel(q), best + p * kernels_.tile_columns);
    });
    for (int64_t place = 0; place < columns_.places(); ++place) best[place] -= columns_.width[place];
  }

  // As the first look sees them.
  void upper_bounds(const uint16_t* rows, int64_t n, double* bounds) {
    block_.take(rows, n, head_);
    const double unit = head_ ? head_->unit : columns_.unit;
    const RowBounds& of_rows = head_ ? block_.first : block_.full;
    for_each_tile([&](int64_t p, int64_t q) {
      if (head_) compute_head_tile(p, q);
      for (int32_t r = 0; r < block_.rows_in_panel(q); ++r) {
        for (int c = 0; c < kernels_.tile_columns; ++c) {
          const int64_t row = q * kernels_.tile_rows + r;
          const int64_t at = p * kernels_.tile_columns + c, place = head_ ? head_->column[at] : at;
          const int64_t given = place < 0 ? -1 : columns_.given[place];
          if (given < 0) continue;
          bounds[row * columns_.count + given] =
              unit * (double(tile_[r * kernels_.tile_columns + c]) + of_rows.offset[row]);
        }
      }
    });
  }

  // Of the pairs of these rows with some panels of columns, how many a head lets through, when the best
  // score and margin of each row are known.
  int64_t survivors_of(const Head& head, const uint16_t* rows, int64_t n, const Results& known) {
    const int64_t width = kernels_.tile_columns;
    head_ = &head;
    block_.take(rows, n, head_, false);
    pairs_.resize(queue_.size() + kBeyond);
    int64_t found = 0, set = -1;
    for (int64_t p = 0; p * width < int64_t(head.column.size()); ++p) {
      for (; set < 0 || head.column[p * width] >= columns_.set_first_panel[set + 1] * width;) {
        block_.begin_set(++set);
        for (int64_t i = 0; i < n; ++i) {
          const int64_t from = i * columns_.sets + set;
          block_.improve_best(i, known.sim[from], known.nn[from]);
          block_.improve_margin(i, known.margin[from], known.witness[from]);
        }
      }
      read_column_bounds(p);
      found += filter_heads(p);
    }
    return found;
  }

  int64_t full_depth = 0, survivors = 0, refined = 0;

 private:
  void compute_tile(int64_t p, int64_t q) {
    kernels_.tile(block_.panel(q), &columns_.packed[p * kernels_.tile_columns * columns_.lanes()],
                  columns_.lanes(), &columns_.start[p * kernels_.tile_columns], tile_.data());
  }

  void compute_head_tile(int64_t p, int64_t q) {
    const int64_t width = kernels_.tile_columns, lanes = head_->padded() / kernels_.group;
    kernels_.tile(block_.head_panel(q), &head_->packed[p * width * lanes], lanes,
                  &head_->start[p * width], tile_.data());
  }

  // What the columns of a panel ask of a row; with a head they are in its order.
  void read_column_bounds(int64_t p) {
    const int64_t width = kernels_.tile_columns;
    if (!head_) return topk_.read_bounds(p * width, column_bounds_);
    for (int64_t c = 0; c < width; ++c) {
      const int64_t place = head_->column[p * width + c];
      column_bounds_[c] = place < 0 ? kNever : topk_.bound(place);
    }
  }

  template <class Each>
  void for_each_tile(const Each& each) {
    for (int64_t p = 0; p < columns_.panels; ++p) {
      for (int64_t q = 0; q < block_.panels(); ++q) compute_tile(p, q), each(p, q);
    }
  }

  // A place as the number of a column in its test set.
  int32_t within(int64_t place, int64_t set) const {
    return int32_t(columns_.given[place] - columns_.set_first[set]);
  }

  // Empties the queue; take(row, place, score) for each pair whose score exceeds `limit`.
  template <class Take>
  void take_found(double limit, const Take& take) {
    const int64_t d = columns_.d;
    for (int64_t i = 0; i < found_; ++i) {
      if (i + kAhead < found_) prefetch(queue_[i + kAhead]);
      const int64_t row = queue_[i].row, place = queue_[i].column;
      const double score = kernels_.dot(rows_ + row * d, &columns_.halves[place * d], d);
      if (score > limit) take(row, place, score);
    }
    refined += found_;
    found_ = 0;
  }

  // One panel of columns, hot in the first-level cache, against the first panels of rows of the block.
  void filter(int64_t p, int64_t row_panels) {
    const int64_t place = p * kernels_.tile_columns, held = found_;
    for (int64_t q = 0; q < row_panels; ++q) {
      compute_tile(p, q);
      const int64_t row = q * kernels_.tile_rows;
      const TileBounds bounds{&block_.full.best[row], &block_.full.margin[row],
                              &block_.full.offset[row], column_bounds_.data(),
                              &columns_.tau_floor[place]};
      found_ += kernels_.survivors(tile_.data(), bounds, int32_t(row), int32_t(place),
                                   block_.rows_in_panel(q), &queue_[found_]);
    }
    survivors += found_ - held;
    const int32_t* start = &columns_.start[place];
    const int64_t rows = std::min(block_.size(), row_panels * kernels_.tile_rows);
    full_depth += rows * std::count_if(start, start + kernels_.tile_columns,
                                       [](int32_t at) { return at != kPadding; });
  }

  // The same with heads; returns how many pairs are left.
  int64_t filter_heads(int64_t p) {
    const int64_t width = kernels_.tile_columns, lanes = head_->padded() / kernels_.group;
    for (int64_t c = 0; c < width; ++c) {
      const int32_t bound = column_bounds_[c];
      head_bounds_[c] = bound == kAlways || bound == kNever
                            ? bound
                            : bound_below(double(bound) * (columns_.unit / head_->unit));
    }
    // What takes a division is found before the loop: a tile is over soon.
    const int64_t panels = block_.panels(), height = kernels_.tile_rows;
    const int32_t *rows = block_.head_panel(0), *columns = &head_->packed[p * width * lanes];
    const int32_t *start = &head_->start[p * width], *tau = &head_->tau_floor[p * width];
    Coming coming = columns_of_second_look(p, panels);
    int64_t left = 0;
    for (int64_t q = 0; q < panels; ++q, rows += height * lanes) {
      bring(coming);
      const int64_t row = q * height;
      const TileBounds bounds{&block_.first.best[row], &block_.first.margin[row],
                              &block_.first.offset[row], head_bounds_.data(), tau};
      left += kernels_.sift(rows, columns, lanes, start, bounds, int32_t(row),
                            block_.rows_in_panel(q), &pairs_[left]);
    }
    return left;
  }

  // What comes from memory for the second look of a panel while it takes its first, some at each panel of
  // rows. A head on trial has none.
  struct Coming {
    const int32_t *next, *end;
    int64_t each;
  };
  static constexpr int64_t kLine = 64 / sizeof(int32_t);

  Coming columns_of_second_look(int64_t p, int64_t row_panels) const {
    if (head_->units.empty()) return {};
    const int64_t size = kernels_.tile_columns * columns_.lanes();
    const int32_t* const panel = &head_->units[p * size];
    return {panel, panel + size, (size / kLine / row_panels + 1) * kLine};
  }

  static CG_PREFETCHING void bring(Coming& coming) {
    const int32_t* const end = std::min(coming.next + coming.each, coming.end);
    for (; coming.next < end; coming.next += kLine) __builtin_prefetch(coming.next, 0, 1);
  }

  // Heads first; whoever survives that is looked at in full.
  void filter_twice(int64_t p) {
    const int64_t at = p * kernels_.tile_columns;
    const int64_t left = filter_heads(p);
    full_depth += left;
    std::fill_n(&pairs_[left], kAtOnce, 0);
    const TileBounds bounds{block_.full.best.data(), block_.full.margin.data(),
                            block_.full.offset.data(), column_bounds_.data(),
                            &head_->full_tau_floor[at]};
    Survivor* const pairs = &queue_[found_];
    const int64_t alive = kernels_.look_again(block_.units(), &head_->units[at * columns_.lanes()],
                                              columns_.lanes(), &head_->full_start[at], bounds,
                                              pairs_.data(), left, pairs);
    for (int64_t i = 0; i < alive; ++i) pairs[i].column = int32_t(head_->column[at + pairs[i].column]);
    found_ += alive;
    survivors += alive;
  }

  // A first column for each row: the one that it is said to be near.
  void begin_near(const int32_t* near, int64_t set) {
    for (int64_t i = 0; i < block_.size(); ++i) {
      begun_[i] = int32_t(columns_.place[columns_.set_first[set] + near[i * columns_.sets + set]]);
    }
  }

  // The same: the most promising one of the nearest cells.
  void begin_in_cells(int64_t set) {
    const int64_t height = kernels_.tile_rows, width = kernels_.tile_columns;
    const int64_t lanes = head_->padded() / kernels_.group;
    const int64_t lanes_of_mean = head_->directions / kernels_.group;
    const int64_t first = cells_->first[set], each = cells_->panels[set];
    const int64_t groups = (cells_->first[set + 1] - first) / width;
    const int64_t some = std::min(groups, kCells);
    struct Cell {
      int32_t closeness;
      int64_t cell;
      bool operator<(const Cell& other) const { return closeness > other.closeness; }
    };
    std::vector<Cell> nearest(height * groups);  // of each panel of cells, for every row
    for (int64_t q = 0; q < block_.panels(); ++q) {
      const int32_t* rows = block_.head_panel(q);
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t cell = first + g * width;
        kernels_.tile(rows, &cells_->packed[cell * lanes_of_mean], lanes_of_mean,
                      &cells_->start[cell], tile_.data());
        for (int64_t r = 0; r < height; ++r) {
          const int64_t c = kernels_.largest(&tile_[r * width]);
          nearest[r * groups + g] = {tile_[r * width + c], g * width + c};
        }
      }
      for (int32_t r = 0; r < block_.rows_in_panel(q); ++r) {
        Cell* const cells = &nearest[r * groups];
        std::partial_sort(cells, cells + some, cells + groups);
        int32_t most = kPadding;
        for (int64_t i = 0; i < some; ++i) {
          const int64_t begin = columns_.set_first_panel[set] + cells[i].cell * each;
          const int64_t end = std::min(begin + each, columns_.set_first_panel[set + 1]);
          for (int64_t p = begin; p < end; ++p) {
            kernels_.tile_row(rows + r, &head_->packed[p * width * lanes], lanes,
                              &head_->start[p * width], tile_.data());
            const int64_t c = kernels_.largest(tile_.data());
            if (tile_[c] <= most) continue;
            most = tile_[c];
            begun_[q * height + r] = int32_t(head_->column[p * width + c]);
          }
        }
      }
    }
  }

  // Gives every row a bound: the score of the column that it begins with.
  void bound_rows(int64_t set) {
    const int32_t n = int32_t(block_.size());
    for (int32_t i = 0; i < n; ++i) {
      if (i + kAhead < n) prefetch({i + int32_t(kAhead), begun_[i + kAhead], kAlways});
      refine({i, begun_[i], kAlways}, set);
    }
    survivors += n;
  }

  // Decides the survivors row by row, the most promising of a row first: its exact score raises the
  // row's bound at once, and most of the others fall below it.
  void settle(int64_t set) {
    Survivor* const end = queue_.data() + found_;
    for (Survivor* run = queue_.data(); run != end;) {
      Survivor *after = run, *first = run;
      for (; after != end && after->row == run->row; ++after) {
        if (after->bound > first->bound) first = after;
      }
      std::swap(*run, *first);
      run = after;
    }
    for (const Survivor* pair = queue_.data(); pair != std::min(end, queue_.data() + kAhead); ++pair) {
      prefetch(*pair);
    }
    for (const Survivor* pair = queue_.data(); pair != end; ++pair) {
      if (pair + kAhead < end) prefetch(pair[kAhead]);
      if (pair->column != begun_[pair->row] && still_alive(*pair)) refine(*pair, set);
    }
    found_ = 0;
  }

  // Vectors to refine and lists to change lie anywhere in memory; asked for a few pairs ahead, they are
  // there in time.
  CG_PREFETCHING void prefetch(const Survivor& pair) const {
    const int64_t d = columns_.d;
    const uint16_t *row = rows_ + pair.row * d, *column = &columns_.halves[pair.column * d];
    for (int64_t i = 0; i < d; i += 32) __builtin_prefetch(row + i), __builtin_prefetch(column + i);
    __builtin_prefetch(&columns_.given[pair.column]), __builtin_prefetch(&columns_.tau[pair.column]);
    if (reaches_list(pair)) topk_.prefetch(pair.column);
  }

  bool reaches_list(const Survivor& pair) const {
    return pair.bound + block_.full.offset[pair.row] >= topk_.bound(pair.column);
  }

  bool still_alive(const Survivor& pair) const {
    return pair.bound >= block_.full.best[pair.row] || reaches_list(pair) ||
           pair.bound >= block_.full.margin[pair.row] + columns_.tau_floor[pair.column];
  }

  void refine(const Survivor& pair, int64_t set) {
    const int64_t d = columns_.d;
    decide(pair.row, pair.column, set,
           kernels_.dot(rows_ + pair.row * d, &columns_.halves[pair.column * d], d));
  }

  // All pairs of a panel of columns with all rows of the block.
  void decide_densely(int64_t p, int64_t set) {
    const int64_t d = columns_.d, first_place = p * kernels_.tile_columns, n = block_.size();
    const int64_t width =
        std::min<int64_t>(kernels_.tile_columns, columns_.set_end(set) - first_place);
    std::vector<int64_t> place(width);
    wide_columns_.resize(d * kernels_.tile_columns);
    for (int64_t c = 0; c < width; ++c) {
      place[c] = head_ ? head_->column[first_place + c] : first_place + c;
      kernels_.widen(&columns_.halves[place[c] * d], 1, d, kernels_.tile_columns, &wide_columns_[c]);
    }
    if (wide_rows_.empty()) {
      wide_rows_.resize(n * d);
      for (int64_t i = 0; i < n; ++i) kernels_.widen(rows_ + i * d, 1, d, 1, &wide_rows_[i * d]);
    }
    std::vector<double> scores(kExactRows * kernels_.tile_columns);
    for (int64_t first = 0; first < n; first += kExactRows) {
      const double* rows[kExactRows];
      for (int64_t r = 0; r < kExactRows; ++r) {
        // Missing rows repeat the last one; their scores are not looked at.
        rows[r] = &wide_rows_[std::min(first + r, n - 1) * d];
      }
      kernels_.exact(rows, wide_columns_.data(), d, scores.data());
      for (int64_t r = 0; r < std::min<int64_t>(kExactRows, n - first); ++r) {
        for (int64_t c = 0; c < width; ++c) {
          decide(first + r, place[c], set, scores[r * kernels_.tile_columns + c]);
        }
      }
    }
  }

  // What an exact score means for its row and its column.
  void decide(int64_t row, int64_t place, int64_t set, double score) {
    ++refined;
    const int32_t column = int32_t(columns_.given[place] - columns_.set_first[set]);
    block_.improve_best(row, score, column);
    if (columns_.has_tau[set]) block_.improve_margin(row, score - columns_.tau[place], column);
    topk_.offer(place, score, ids_[row]);
  }

  const Columns& columns_;
  const Head* head_;  // null: one look is enough
  const Cells* cells_;
  const Kernels& kernels_;
  TopK& topk_;
  RowBlock block_;
  std::vector<int32_t> tile_;
  std::vector<int32_t> column_bounds_, head_bounds_;  // of the panel at hand, at full depth and before
  std::vector<int32_t> begun_;  // by row, the column that it began with, or -1
  std::vector<Survivor> queue_;
  std::vector<int32_t> pairs_;  // that survive the first look
  int64_t found_ = 0;
  std::vector<double> wide_rows_;     // of this block, once it has met a flood
  std::vector<double> wide_columns_;  // of the flooded panel
  const uint16_t* rows_ = nullptr;
  const int64_t* ids_ = nullptr;
};

Scanner::Scanner(const Kernels* kernels, int threads, int64_t row_block, int64_t d, int sets,
                 const int64_t* sizes, const uint16_t* columns, const double* tau,
                 const uint8_t* has_tau, int k)
    : columns_([&] {
        const DefaultFloats floats;
        Columns prepared;
        prepare_columns(prepared, kernels, d, sets, sizes, columns, tau, has_tau);
        return prepared;
      }()),
      topk_(columns_.places(), k, columns_.unit),
      threads_(std::max(1, threads)) {
  const int64_t wanted =
      row_block > 0 ? row_block : std::min(rows_that_stay_in_cache(columns_), kLargestBlock);
  row_block_ = whole_panels(wanted, *kernels);
}

// Hands out blocks of rows, or whatever there are n of, to threads: task(worker, first, count). A worker
// has room for a block, or for `capacity` rows. A thread that finds too little memory leaves its block to
// this one, which has made its worker before the others could take any, and does it again when they are
// gone; a task may therefore come twice.
template <class Task>
void Scanner::run(int64_t n, int64_t block, const Task& task, int64_t capacity) {
  const int threads = int(std::min<int64_t>(threads_, (n + block - 1) / block));
  std::atomic<int64_t> next{0};
  std::mutex merging;
  std::vector<int64_t> left;
  left.reserve(threads_);
  const auto do_one = [&](Worker& worker, int64_t first) {
    task(worker, first, std::min(block, n - first));
  };
  const auto take_blocks = [&](Worker& worker) {
    int64_t first = 0;
    try {
      while ((first = next.fetch_add(block)) < n) do_one(worker, first);
    } catch (const std::bad_alloc&) {
      const std::lock_guard<std::mutex> lock(merging);
      left.push_back(first);
    }
    const std::lock_guard<std::mutex> lock(merging);
    counters.full_depth += worker.full_depth;
    counters.survivors += worker.survivors, counters.refined += worker.refined;
  };

  const DefaultFloats floats;
  if (!capacity) capacity = block;
  Worker mine(columns_, head(), &cells_, topk_, capacity);
  run_on_threads(threads, [&] { take_blocks(mine); }, [&] {
    const DefaultFloats floats_of_this_thread;
    std::optional<Worker> worker;
    try {
      worker.emplace(columns_, head(), &cells_, topk_, capacity);
    } catch (const std::bad_alloc&) {
      return;
    }
    take_blocks(*worker);
  });
  for (const int64_t first : left) do_one(mine, first);
}

// Before any score is known every pair could enter a top-k list. So look at a sample first: split into
// k groups, the least of the groups' best lower bounds is one that k rows reach.
void Scanner::raise_column_bounds(const uint16_t* rows, int64_t n) {
  const int k = topk_.k();
  if (k == 0) return;
  const int64_t group = std::min(n, kSampleRows) / k;
  if (group < 4) return;
  std::vector<int32_t> least(columns_.places(), kNever);
  std::mutex merging;
  run(group * k, group, [&](Worker& worker, int64_t first, int64_t count) {
    std::vector<int32_t> best(columns_.places());
    worker.lower_bounds(rows + first * columns_.d, count, best.data());
    const std::lock_guard<std::mutex> lock(merging);
    for (int64_t place = 0; place < columns_.places(); ++place) {
      least[place] = std::min(least[place], best[place]);
    }
  });
  for (int64_t place = 0; place < columns_.places(); ++place) topk_.raise(place, least[place]);
}

// Rows that a thread takes at a time: few enough for its cache, and for every thread to get as many as
// the others. Of 131,072 rows 64 threads would take 1,020 twice each, and wait for the one that has the
// last 512.
int64_t Scanner::share_of(int64_t n) const {
  const int64_t at_once = threads_ * row_block_;
  const int64_t turns = std::max<int64_t>(1, (n + at_once - 1) / at_once);
  const int64_t shared = (n + threads_ * turns - 1) / (threads_ * turns);
  return std::min(row_block_, whole_panels(shared + columns_.kernels->tile_rows - 1,
                                           *columns_.kernels));
}

// The number of directions that makes a pair cheapest, 0 for none.
int64_t Scanner::best_head(const float* directions, int64_t count, const uint16_t* rows, int64_t n,
                           const Results& known) {
  const Kernels& kernels = *columns_.kernels;
  const int64_t width = kernels.tile_columns;
  const int64_t step = (columns_.panels + kTrialPanels - 1) / kTrialPanels;
  std::vector<int64_t> sample;
  for (int64_t p = 0; p < columns_.panels; p += step) {
    for (int64_t place = p * width; place < (p + 1) * width; ++place) {
      sample.push_back(columns_.given[place] < 0 ? -1 : place);
    }
  }
  std::vector<int64_t> sizes;
  for (int64_t some = kDirections; some <= count; some += some < 128 ? kDirections : 64) {
    sizes.push_back(some);
  }
  std::vector<double> costs(sizes.size());
  const int64_t tried = int64_t(sizes.size());
  const double pairs = double(sample.size()) * double(n);
  const auto try_size = [&](Worker& worker, int64_t turn, int64_t) {
    const int64_t which = tried - 1 - turn;  // the largest takes longest
    const int64_t some = sizes[which];
    const Head head = make_head(columns_, project_columns(columns_, directions, some, sample));
    const double share = double(worker.survivors_of(head, rows, n, known)) / pairs;
    const double preparing =
        (kProject * double(some) + kPrepare) * double(columns_.d) / double(columns_.count);
    costs[which] = double(head.padded() / kernels.group) + kCheck + kLook * share + preparing;
  };
  run(tried, 1, try_size, n);
  const auto least = std::min_element(costs.begin(), costs.end());
  const double full_look = double(columns_.lanes()) + kCheck;
  return least == costs.end() || *least >= kWorthIt * full_look ? 0 : sizes[least - costs.begin()];
}

void Scanner::use_directions(const float* directions, int64_t count, const uint16_t* rows,
                             int64_t n, const Results& known) {
  const DefaultFloats floats;
  const int64_t best = n ? best_head(directions, count, rows, n, known) : count;
  if (!best) return head_.reset();
  if (head_ && head_->directions == best) return;  // the same as before
  head_.reset();
  const Projected projected =
      project_columns(columns_, directions, best, order_of_cells(columns_, directions));
  Head head = make_head(columns_, projected);
  cells_ = make_cells(columns_, head, projected);
  add_second_look(head, columns_);
  head_ = std::move(head);
}

void Scanner::scan(const uint16_t* rows, const int64_t* ids, const int32_t* near, int64_t n,
                   Results out) {
  if (topk_.empty()) raise_column_bounds(rows, n);
  run(n, share_of(n), [&](Worker& worker, int64_t first, int64_t count) {
    worker.scan(rows + first * columns_.d, ids + first, near, count, first, out);
  });
  counters.rows += n;
  counters.pairs += n * columns_.count;
}

std::vector<std::vector<Pair>> Scanner::pairs(const uint16_t* rows, int64_t n, int set,
                                              double limit) {
  const int64_t block = share_of(n);
  std::vector<std::vector<Pair>> found((n + block - 1) / block);
  run(n, block, [&](Worker& worker, int64_t first, int64_t count) {
    worker.pairs(rows + first * columns_.d, count, first, set, limit, found[first / block]);
  });
  return found;
}

std::vector<std::vector<Pair>> Scanner::pairs_among(int set, double limit) {
  const int64_t begin = columns_.set_first_panel[set] * columns_.kernels->tile_columns;
  const int64_t n = columns_.set_end(set) - begin, block = share_of(n);
  std::vector<std::vector<Pair>> found((n + block - 1) / block);
  run(n, block, [&](Worker& worker, int64_t first, int64_t count) {
    worker.pairs_among(begin + first, count, set, limit, found[first / block]);
  });
  return found;
}

void Scanner::upper_bounds(const uint16_t* rows, int64_t n, double* bounds) {
  run(n, row_block_, [&](Worker& worker, int64_t first, int64_t count) {
    worker.upper_bounds(rows + first * columns_.d, count, bounds + first * columns_.count);
  });
}

}  // namespace clipgap
