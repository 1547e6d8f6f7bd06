// The C ABI over the classes. No exception passes this line; all that can be thrown here is for want of
// memory.

#include "clipgap.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <vector>

#include "floats.h"
#include "prefetch.h"
#include "scan.h"
#include "threads.h"

#ifdef __linux__
#include <unistd.h>
#endif
#ifndef CLIPGAP_PORTABLE_ONLY
#include <cpuid.h>
#endif

using clipgap::Columns;
using clipgap::Kernels;
using clipgap::Scanner;

namespace {

const Kernels* const kKernels[] = {
#ifndef CLIPGAP_PORTABLE_ONLY
    &clipgap::kernels_avx512vnni,
    &clipgap::kernels_avx2,
#endif
    &clipgap::kernels_portable,
};
constexpr int kKernelCount = sizeof kKernels / sizeof *kKernels;
constexpr int64_t kRowsAhead = 2;  // that come from memory while one is added to a sum

const Kernels* fastest() {
  for (int i = 0; i < kKernelCount; ++i) {
    if (cg_isa_supported(i)) return kKernels[i];
  }
  return kKernels[kKernelCount - 1];
}

#ifndef CLIPGAP_PORTABLE_ONLY
// Asked of the processor itself: not every compiler's __builtin_cpu_supports knows it. And asked once: in a
// virtual machine each answer takes tens of microseconds.
bool has_f16c() {
  static const bool found = [] {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
  }();
  return found;
}
#endif

double peak(int threads, double seconds, double (*burn)(int64_t)) {
  using Clock = std::chrono::steady_clock;
  std::atomic<double> total{0};
  const auto begin = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  const auto work = [&] {
    double done = 0;
    while (elapsed() < seconds) done += burn(100'000);
    for (double seen = total; !total.compare_exchange_weak(seen, seen + done);) {
    }
  };
  clipgap::run_on_threads(threads, work, work);
  return total / elapsed();
}

// A row that is needed soon.
CG_PREFETCHING void prefetch(const uint16_t* row, int64_t d) {
  for (int64_t i = 0; i < d; i += 32) __builtin_prefetch(row + i);
}

int64_t give(const std::vector<std::vector<clipgap::Pair>>& parts, int32_t* row, int32_t* column,
             double* score) {
  int64_t count = 0;
  for (const auto& part : parts) {
    for (const clipgap::Pair& pair : part) {
      row[count] = pair.row, column[count] = pair.column, score[count] = pair.score;
      ++count;
    }
  }
  return count;
}

}  // namespace

struct cg_scanner {
  Scanner scanner;
};

const char* cg_isa_name(int index) {
  return index >= 0 && index < kKernelCount ? kKernels[index]->name : nullptr;
}

int cg_isa_supported(int index) {
  if (index < 0 || index >= kKernelCount) return 0;
#ifndef CLIPGAP_PORTABLE_ONLY
  const Kernels* kernels = kKernels[index];
  if (kernels == &clipgap::kernels_avx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           has_f16c() && __builtin_cpu_supports("bmi2");
  }
  if (kernels == &clipgap::kernels_avx512vnni) {
#ifdef CLIPGAP_EMULATED_AVX512  // tests run this unit on machines without it
    return 1;
#endif
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && has_f16c() && __builtin_cpu_supports("bmi2");
  }
#endif
  return 1;
}

int64_t cg_cache_bytes(int level) {
#if defined(__linux__) && defined(_SC_LEVEL1_DCACHE_SIZE)
  const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
  if (level >= 1 && level <= 3) return sysconf(names[level - 1]) > 0 ? sysconf(names[level - 1]) : 0;
#else
  (void)level;
#endif
  return 0;
}

void cg_admit(const void* raw, int bytes, int64_t n, int64_t d, uint16_t* rows, uint8_t* status,
              double* norm) {
  const clipgap::DefaultFloats floats;
  fastest()->admit(raw, bytes, n, d, rows, status, norm);
}

cg_scanner* cg_scanner_new(int isa, int threads, int64_t row_block, int64_t d, int sets,
                           const int64_t* sizes, const uint16_t* columns, const double* tau,
                           const uint8_t* has_tau, int k) {
  try {
    return new cg_scanner{
        {kKernels[isa], threads, row_block, d, sets, sizes, columns, tau, has_tau, k}};
  } catch (const std::exception&) {
    return nullptr;
  }
}

void cg_scanner_free(cg_scanner* self) { delete self; }

int cg_scan_block(cg_scanner* self, const uint16_t* rows, const int64_t* ids, const int32_t* near, int64_t n,
            double* sim, int32_t* nn, double* margin, int32_t* witness) {
  try {
    self->scanner.scan(rows, ids, near, n, {sim, nn, margin, witness});
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

int64_t cg_use_directions(cg_scanner* self, const float* directions, int64_t count,
                          const uint16_t* rows, int64_t n, const double* sim, const int32_t* nn,
                          const double* margin, const int32_t* witness) {
  try {
    self->scanner.use_directions(directions, count, rows, n,
                                 {const_cast<double*>(sim), const_cast<int32_t*>(nn),
                                  const_cast<double*>(margin), const_cast<int32_t*>(witness)});
    const clipgap::Head* head = self->scanner.head();
    return head ? head->directions : 0;
  } catch (const std::exception&) {
    return 0;  // one look is enough
  }
}

void cg_topk_get(const cg_scanner* self, double* sim, int64_t* ids) {
  const Columns& columns = self->scanner.columns();
  const auto& topk = self->scanner.topk();
  for (int64_t place = 0; place < columns.places(); ++place) {
    if (columns.given[place] < 0) continue;
    for (int i = 0; i < topk.k(); ++i) {
      sim[columns.given[place] * topk.k() + i] = topk.scores(place)[i];
      ids[columns.given[place] * topk.k() + i] = topk.ids(place)[i];
    }
  }
}

void cg_topk_set(cg_scanner* self, const double* sim, const int64_t* ids) {
  const Columns& columns = self->scanner.columns();
  auto& topk = self->scanner.topk();
  for (int64_t place = 0; place < columns.places(); ++place) {
    const int64_t from = columns.given[place] * topk.k();
    if (from >= 0) topk.load(place, sim + from, ids + from);
  }
}

void cg_topk_raise(cg_scanner* self, const double* kth) {
  const Columns& columns = self->scanner.columns();
  auto& topk = self->scanner.topk();
  for (int64_t place = 0; place < columns.places(); ++place) {
    if (columns.given[place] >= 0) topk.raise(place, kth[columns.given[place]]);
  }
}

int cg_missing_threads() { return clipgap::missing_threads; }

cg_counters cg_counters_get(const cg_scanner* self) { return self->scanner.counters; }
int64_t cg_row_block(const cg_scanner* self) { return self->scanner.row_block(); }

int64_t cg_pairs(cg_scanner* self, const uint16_t* rows, int64_t n, int set, double limit,
                 int32_t* row, int32_t* column, double* score) {
  try {
    return give(self->scanner.pairs(rows, n, set, limit), row, column, score);
  } catch (const std::exception&) {
    return -1;
  }
}

int64_t cg_pairs_among(cg_scanner* self, int set, double limit, int32_t* row, int32_t* column,
                       double* score) {
  try {
    return give(self->scanner.pairs_among(set, limit), row, column, score);
  } catch (const std::exception&) {
    return -1;
  }
}

void cg_sum_groups(int threads, const uint16_t* rows, const int32_t* group_of,
                   const int64_t* order, int64_t n, int64_t d, double* sums) {
  const Kernels& kernels = *fastest();
  // Each part has groups of its own, so no two threads add to the same sum.
  const int parts = 4 * threads;
  const auto begin_of = [&](int part) {
    int64_t i = n * part / parts;
    while (i && i < n && group_of[order[i]] == group_of[order[i - 1]]) ++i;
    return i;
  };
  std::atomic<int> next{0};
  const auto work = [&] {
    const clipgap::DefaultFloats floats;
    for (int part; (part = next++) < parts;) {
      const int64_t end = begin_of(part + 1);
      for (int64_t i = begin_of(part); i < end; ++i) {
        if (i + kRowsAhead < end) prefetch(rows + order[i + kRowsAhead] * d, d);
        kernels.add_to(rows + order[i] * d, d, sums + group_of[order[i]] * d);
      }
    }
  };
  clipgap::run_on_threads(threads, work, work);
}

void cg_sums_of_words(int isa, const void* rows, int64_t n, int64_t width,
                      const uint64_t* factors, uint64_t* sums) {
  kKernels[isa]->sums_of_words(rows, n, width, factors, sums);
}

void cg_weigh(int isa, int threads, const uint16_t* rows, int64_t n, int64_t d,
              const double* weights, int64_t heads, double* sums) {
  constexpr int64_t at_once = 256;
  const int64_t parts = (n + at_once - 1) / at_once;
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    const clipgap::DefaultFloats floats;
    for (int64_t first; (first = next++ * at_once) < n;) {
      const int64_t count = n - first < at_once ? n - first : at_once;
      kKernels[isa]->weigh(rows + first * d, count, d, weights, heads, sums + first * heads);
    }
  };
  clipgap::run_on_threads(parts < threads ? int(parts) : threads, work, work);
}

int cg_upper_bounds(cg_scanner* self, const uint16_t* rows, int64_t n, double* bounds) {
  try {
    self->scanner.upper_bounds(rows, n, bounds);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

void cg_refine(int isa, int64_t d, int64_t n, const uint16_t* rows, const uint16_t* columns,
               double* scores) {
  for (int64_t i = 0; i < n; ++i) scores[i] = kKernels[isa]->dot(rows + i * d, columns + i * d, d);
}

double cg_peak_fma(int threads, double seconds) {
  return peak(threads, seconds, fastest()->burn_fma);
}
double cg_peak_int8(int threads, double seconds) {
  return peak(threads, seconds, fastest()->burn_integer);
}
