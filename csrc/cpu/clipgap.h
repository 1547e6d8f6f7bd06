// The C ABI of the CPU kernels. Python binds it with ctypes (clipgap/kernels/cpu.py); nothing here
// allocates for the caller, throws, or keeps a pointer beyond the call unless it says so.
//
// Words: a *row* is a training vector, a *column* a test vector; columns come grouped in test sets.
// All vectors are float16 with norm <= 1.01, as admission leaves them.

#pragma once

#include <cstdint>

#define CG_API extern "C" __attribute__((visibility("default")))

// --- capabilities -----------------------------------------------------------------------------
// The kernels compiled into this library, fastest first; `cg_isa_name` is null past the last.
CG_API const char* cg_isa_name(int index);
CG_API int cg_isa_supported(int index);  // 1 if this processor can run it
CG_API int64_t cg_cache_bytes(int level);  // data cache of one core (1, 2) or shared (3); 0 unknown

// --- admission --------------------------------------------------------------------------------
// status: 0 ok, 1 normalised, 2 zero, 3 not finite. `bytes` a float: 2, 4 or 8. `rows` gets the
// float16 rows (bad ones zero), or is null: then rows are judged, not written.
CG_API void cg_admit(const void* raw, int bytes, int64_t n, int64_t d, uint16_t* rows,
                     uint8_t* status, double* norm);

// --- scanning ---------------------------------------------------------------------------------
struct cg_scanner;

struct cg_counters {
  int64_t rows, pairs, full_depth, survivors, refined;
};

// `sizes` gives the columns of each of `sets` test sets, `columns` their rows one after another,
// `tau` one threshold a column, read only where `has_tau[set]`: infinite, or what a score can be.
// Lists of the `k` best rows a column are kept, none if it is 0. `row_block` 0 means: from the caches.
// Returns null when memory runs out.
CG_API cg_scanner* cg_scanner_new(int isa, int threads, int64_t row_block, int64_t d, int sets,
                                  const int64_t* sizes, const uint16_t* columns, const double* tau,
                                  const uint8_t* has_tau, int k);
CG_API void cg_scanner_free(cg_scanner*);

// Row results are (n, sets), row-major. `ids` ascend. `near` is null, or (n, sets) columns to begin with,
// of each set one that is thought to be near the row: a matter of speed alone. Returns 0, or 1 when memory
// runs out.
CG_API int cg_scan_block(cg_scanner*, const uint16_t* rows, const int64_t* ids, const int32_t* near, int64_t n,
                   double* sim, int32_t* nn, double* margin, int32_t* witness);

// Lets the filter look first at projections onto some of these directions (count, d): orthonormal, in the
// order of what they tell of the columns, `count` a multiple of 32. How many, or none, follows from a trial
// on n rows whose results are known; without rows all are used. Results do not depend on it. Returns how
// many are in use; 0 also when memory runs out.
CG_API int64_t cg_use_directions(cg_scanner*, const float* directions, int64_t count,
                                 const uint16_t* rows, int64_t n, const double* sim,
                                 const int32_t* nn, const double* margin, const int32_t* witness);

// (columns, k) in the order the columns were given; unfilled slots are -inf and -1.
CG_API void cg_topk_get(const cg_scanner*, double* sim, int64_t* ids);
CG_API void cg_topk_set(cg_scanner*, const double* sim, const int64_t* ids);
// A score for each column that k rows of the pass reach, here or elsewhere, or -inf. What is lower may be
// missing from the lists from now on; what is equal is not.
CG_API void cg_topk_raise(cg_scanner*, const double* kth);
CG_API cg_counters cg_counters_get(const cg_scanner*);
CG_API int64_t cg_row_block(const cg_scanner*);

// Every pair of a row and a column of one test set whose score exceeds `limit`, in no
// particular order; both count from 0 within what was given. The arrays have room for n pairs a column
// of that set. Returns how many there are, or -1 when memory runs out.
CG_API int64_t cg_pairs(cg_scanner*, const uint16_t* rows, int64_t n, int set, double limit,
                        int32_t* row, int32_t* column, double* score);

// Every pair of columns of one test set whose score exceeds `limit`, once, the later one as its row. The
// arrays have room for all pairs there are. Returns how many are found, or -1 when memory runs out.
CG_API int64_t cg_pairs_among(cg_scanner*, int set, double limit, int32_t* row, int32_t* column,
                              double* score);

// --- sums -------------------------------------------------------------------------------------
// Adds each row to the sum (groups, d) of its group; `order` are the rows, group after group. Float16
// values are multiples of 2^-24, so sums of fewer than 2^28 rows are exact, whatever the order.
CG_API void cg_sum_groups(int threads, const uint16_t* rows, const int32_t* group_of,
                          const int64_t* order, int64_t n, int64_t d, double* sums);

// Of each row of `width` bytes, its words of 64 bits (the last one filled up with zeros), each with its upper
// half folded into the lower and multiplied by its factor, added up modulo 2^64.
CG_API void cg_sums_of_words(int isa, const void* rows, int64_t n, int64_t width,
                             const uint64_t* factors, uint64_t* sums);

// --- linear heads -----------------------------------------------------------------------------
// Scalar products of rows (n, d) with weights (heads, d): (n, heads). Exact where every partial sum fits
// into float64, as those of clipgap/heads do.
CG_API void cg_weigh(int isa, int threads, const uint16_t* rows, int64_t n, int64_t d,
                     const double* weights, int64_t heads, double* sums);

// --- threads ----------------------------------------------------------------------------------
// Where the system refuses a thread, a call goes on with fewer. The most that any call so far lacked.
CG_API int cg_missing_threads();

// --- single steps, for tests ------------------------------------------------------------------
// Upper bounds of all scores (n, columns) as the filter's first look sees them; never below the exact score.
CG_API int cg_upper_bounds(cg_scanner*, const uint16_t* rows, int64_t n, double* bounds);
// Exact scores of pairs (rows[i], columns[i]).
CG_API void cg_refine(int isa, int64_t d, int64_t n, const uint16_t* rows, const uint16_t* columns,
                      double* scores);

// --- peaks, for benchmarks: operations a second (a multiply-add counts two) -------------------
CG_API double cg_peak_fma(int threads, double seconds);
CG_API double cg_peak_int8(int threads, double seconds);
