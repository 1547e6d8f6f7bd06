// CUDA C++ on a CPU, for tests: included before csrc/cuda/kernels.cu, which then compiles as C++.
//
// Every thread of a cluster is a fiber; they run in turn, and one that waits lets the others go on.
// Fragments of matrix instructions are laid out over the lanes as the PTX manual lays them out, so
// index arithmetic, permutations and barriers are what is tested. What a GPU does at some time
// between an order and its wait (copies, products) is done here as early or as late as can be
// (`late`): a wait that is missing or too weak gives a wrong result in one of the two. When no fiber
// can go on, the launch ends with an error instead of hanging.
#pragma once
#define CLIPGAP_EMULATED

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace emulated {

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

struct Index {
    int x;
};

struct Barrier {
    int arrived = 0, round = 0;
};

struct Signal {
    int expected = 0, arrived = 0, bytes = 0, phase = 0;
    void settle() {
        if (arrived == expected && bytes == 0) arrived = 0, ++phase;
    }
};

struct Warp {
    Barrier barrier;
    u64 slots[2][32][8];
};

struct Block {
    int index, rank;
    std::vector<unsigned char> memory;
    unsigned char* shared;
    std::map<int, Barrier> barriers;
    std::map<u32, Signal> signals;
    std::vector<Warp> warps;
};

using Order = std::function<void()>;

struct Fiber {
    ucontext_t first;
    jmp_buf at;
    std::unique_ptr<char[]> stack;
    Block* block;
    int thread;
    bool begun = false, done = false;
    std::deque<std::vector<Order>> copies{1}, products{1};  // by group; the last is still open
};

constexpr size_t STACK = 256 << 10;

struct Machine {
    std::vector<Block> blocks;
    std::vector<Fiber> fibers;
    Barrier cluster;
    std::deque<Order> bulk;  // copies that no thread waits for by itself
    Fiber* running = nullptr;
    jmp_buf scheduler;
    u64 progress = 0;
    bool late = false;
    int grid = 0, threads = 0;
    std::function<void()> kernel;
};

inline Machine machine;

inline Fiber& me() { return *machine.running; }
inline int lane() { return me().thread & 31; }
inline Warp& warp() { return me().block->warps[me().thread >> 5]; }

inline void pause() {
    if (_setjmp(me().at) == 0) _longjmp(machine.scheduler, 1);
}

template <typename Condition>
void wait_until(Condition condition) {
    while (!condition()) pause();
    ++machine.progress;
}

inline void meet(Barrier& barrier, int threads) {
    ++machine.progress;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.round;
        return;
    }
    const int round = barrier.round;
    wait_until([&] { return barrier.round != round; });
}

// Every lane gives a value and gets at those of all: two sets of slots take turns, so one meeting
// is enough.
template <typename Value>
const Value* exchange(const Value& mine) {
    static_assert(sizeof(Value) <= sizeof(u64) * 8);
    auto& slots = warp().slots[warp().barrier.round & 1];
    static thread_local std::vector<Value> all(32);
    std::memcpy(slots[lane()], &mine, sizeof mine);
    meet(warp().barrier, 32);
    for (int i = 0; i < 32; ++i) std::memcpy(&all[i], slots[i], sizeof mine);
    return all.data();
}

// Shared memory by 32-bit address: the block's rank in its cluster, then the place.
inline unsigned char* memory_at(u32 address) {
    return machine.blocks[address >> 24].shared + (address & 0xffffff);
}
inline Signal& signal_at(u32 address) { return machine.blocks[address >> 24].signals[address]; }

inline void run(Fiber* fiber) {
    machine.running = fiber;
    machine.kernel();
    machine.running->done = true;
    ++machine.progress;
    _longjmp(machine.scheduler, 1);
}

inline void enter() { run(machine.running); }

// Lets a fiber go on until it pauses or ends. A function of its own: what jumps back finds no local
// variable changed.
__attribute__((noinline)) inline void resume(Fiber* fiber) {
    machine.running = fiber;
    if (_setjmp(machine.scheduler)) return;
    if (fiber->begun) _longjmp(fiber->at, 1);
    fiber->begun = true;
    setcontext(&fiber->first);
}

__attribute__((noinline)) inline void prepare(Fiber* fiber) {
    fiber->stack.reset(new char[STACK]);
    getcontext(&fiber->first);
    fiber->first.uc_stack.ss_sp = fiber->stack.get();
    fiber->first.uc_stack.ss_size = STACK;
    fiber->first.uc_link = nullptr;
    makecontext(&fiber->first, enter, 0);
}

// Returns what went wrong, or nothing.
inline const char* launch(int grid, int threads, int cluster, int shared, std::function<void()> kernel) {
    machine.grid = grid, machine.threads = threads, machine.kernel = std::move(kernel);
    const char* wrong = nullptr;
    for (int first = 0; first < grid && !wrong; first += cluster) {
        machine.blocks.clear();
        machine.blocks.resize(cluster);
        machine.fibers.clear();
        machine.fibers.resize(static_cast<size_t>(cluster) * threads);
        machine.cluster = {};
        for (int rank = 0; rank < cluster; ++rank) {
            Block& block = machine.blocks[rank];
            block.index = first + rank, block.rank = rank;
            block.memory.assign(shared + 2048, 0xee);  // not zero: nobody may count on that
            block.shared = reinterpret_cast<unsigned char*>(
                (reinterpret_cast<u64>(block.memory.data()) + 1023) / 1024 * 1024);
            block.warps.resize((threads + 31) / 32);
            for (int thread = 0; thread < threads; ++thread) {
                Fiber& fiber = machine.fibers[rank * threads + thread];
                fiber.block = &block, fiber.thread = thread;
                prepare(&fiber);
            }
        }
        int idle = 0;
        for (bool left = true; left && !wrong;) {
            const u64 before = machine.progress;
            left = false;
            for (Fiber& fiber : machine.fibers) {
                if (fiber.done) continue;
                left = true;
                resume(&fiber);
            }
            if (!machine.bulk.empty()) {
                // The newest first: nothing says that copies end in the order they began.
                Order order = std::move(machine.bulk.back());
                machine.bulk.pop_back();
                order();
                ++machine.progress;
            }
            idle = machine.progress == before ? idle + 1 : 0;
            if (left && idle > 2) wrong = "no thread can go on";
        }
        if (!wrong && !machine.bulk.empty()) wrong = "a copy was never waited for";
        for (Block& block : machine.blocks) {
            for (auto& [address, signal] : block.signals) {
                if (!wrong && signal.bytes != 0) wrong = "a signal waits for bytes that never came";
            }
        }
        machine.bulk.clear();
    }
    return wrong;
}

inline void do_all(std::deque<std::vector<Order>>& groups, size_t pending) {
    // The last group is open: it holds what no commit has closed.
    while (groups.size() > pending + 1) {
        for (Order& order : groups.front()) order();
        groups.pop_front();
    }
}

inline void give(std::deque<std::vector<Order>>& groups, Order order) {
    if (machine.late) {
        groups.back().push_back(std::move(order));
    } else {
        order();
    }
}

}  // namespace emulated

// CUDA C++.

#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define CLIPGAP_KERNEL static
#define CLIPGAP_CLUSTER(size)
#define CLIPGAP_SHARED(name) unsigned char* const name = emulated::me().block->shared
#define threadIdx (emulated::Index{emulated::me().thread})
#define blockIdx (emulated::Index{emulated::me().block->index})
#define gridDim (emulated::Index{emulated::machine.grid})

struct uint4 {
    unsigned x, y, z, w;
};

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int __vimax3_s32(int a, int b, int c) { return max(max(a, b), c); }
inline int __viaddmax_s32(int a, int b, int c) { return max(a + b, c); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __ldcg(const int* p) { return *p; }
inline long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, 8);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}

template <typename Number, typename Other>
Number atomicAdd(Number* to, Other value) {
    const Number before = *to;
    *to = static_cast<Number>(before + value);
    return before;
}
template <typename Number, typename Other>
Number atomicMax(Number* to, Other value) {
    const Number before = *to;
    if (value > before) *to = value;
    return before;
}
template <typename Number, typename Other>
Number atomicMin(Number* to, Other value) {
    const Number before = *to;
    if (value < before) *to = value;
    return before;
}

inline void __syncthreads() { emulated::meet(emulated::me().block->barriers[0], emulated::machine.threads); }
inline void __syncwarp() { emulated::meet(emulated::warp().barrier, 32); }

template <typename Value>
Value __shfl_sync(unsigned, Value value, int from) {
    return emulated::exchange(value)[from & 31];
}
template <typename Value>
Value __shfl_xor_sync(unsigned, Value value, int step) {
    return emulated::exchange(value)[emulated::lane() ^ step];
}
template <typename Value>
Value __shfl_up_sync(unsigned, Value value, int step) {
    const int lane = emulated::lane();
    return emulated::exchange(value)[lane >= step ? lane - step : lane];
}
inline unsigned __ballot_sync(unsigned, bool mine) {
    const int* all = emulated::exchange(static_cast<int>(mine));
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(all[i]) << i;
    return bits;
}
inline bool __any_sync(unsigned mask, bool mine) { return __ballot_sync(mask, mine) != 0; }

// csrc/cuda/device.cuh.

inline unsigned shared_address(const void* pointer) {
    const emulated::Block& block = *emulated::me().block;
    return static_cast<unsigned>(block.rank) << 24 |
        static_cast<unsigned>(static_cast<const unsigned char*>(pointer) - block.shared);
}

inline float half_to_float(unsigned short bits) {
    _Float16 value;
    std::memcpy(&value, &bits, 2);
    return static_cast<float>(value);
}

inline void copy_async(unsigned to, const void* from) {
    if (to % 16 || reinterpret_cast<unsigned long long>(from) % 16) std::abort();
    emulated::give(emulated::me().copies, [=] { std::memcpy(emulated::memory_at(to), from, 16); });
}
inline void copy_commit() { emulated::me().copies.emplace_back(); }
template <int PENDING>
void copy_wait() {
    emulated::do_all(emulated::me().copies, PENDING);
}

inline void meet(int barrier, int threads) {
    emulated::meet(emulated::me().block->barriers[barrier], threads);
}

inline void load_matrices(unsigned (&into)[4], unsigned address) {
    const unsigned* rows = emulated::exchange(address);
    const int lane = emulated::lane();
    for (int matrix = 0; matrix < 4; ++matrix) {
        // The eight rows of a matrix come from different banks, or it takes several turns.
        unsigned banks = 0;
        for (int i = 0; i < 8; ++i) banks |= 1u << (rows[8 * matrix + i] >> 4 & 7);
        if (banks != 0xff) std::abort();
        const unsigned row = rows[8 * matrix + lane / 4];
        if (row % 16) std::abort();
        std::memcpy(&into[matrix], emulated::memory_at(row) + lane % 4 * 4, 4);
    }
}

namespace emulated {
struct Fragment {
    signed char a[4][4], b[2][4];
};
}  // namespace emulated

inline void multiply(int* upper, int* lower, const unsigned (&a)[4], unsigned b0, unsigned b1) {
    emulated::Fragment mine;
    std::memcpy(mine.a, a, 16);
    std::memcpy(mine.b[0], &b0, 4);
    std::memcpy(mine.b[1], &b1, 4);
    const emulated::Fragment* all = emulated::exchange(mine);
    const int group = emulated::lane() / 4, in_group = emulated::lane() % 4;
    // Register i of A holds row group (+ 8 for odd i), depths 4 t to 4 t + 3 (+ 16 for i >= 2);
    // register i of B holds column group, depths 4 t to 4 t + 3 (+ 16 for i = 1).
    for (int half = 0; half < 2; ++half) {
        for (int e = 0; e < 2; ++e) {
            int sum = 0;
            for (int k = 0; k < 32; ++k) {
                const int t = k % 16 / 4, high = k / 16;
                sum += all[4 * group + t].a[2 * high + half][k % 4] *
                    all[4 * (2 * in_group + e) + t].b[high][k % 4];
            }
            (half ? lower : upper)[e] += sum;
        }
    }
}

inline unsigned cluster_rank() { return static_cast<unsigned>(emulated::me().block->rank); }
inline void cluster_meet() {
    emulated::meet(emulated::machine.cluster, static_cast<int>(emulated::machine.fibers.size()));
}

inline void signal_init(unsigned signal, unsigned arrivals) {
    if (signal % 8) std::abort();
    emulated::signal_at(signal) = {static_cast<int>(arrivals), 0, 0, 0};
}
inline void signal_fence() {}
inline void signal_arrive(unsigned signal) {
    emulated::Signal& s = emulated::signal_at(signal);
    if (++s.arrived > s.expected) std::abort();
    s.settle();
    ++emulated::machine.progress;
}
inline void signal_expect(unsigned signal, unsigned bytes) {
    emulated::signal_at(signal).bytes += static_cast<int>(bytes);
    signal_arrive(signal);
}
inline void signal_arrive_at(unsigned signal, unsigned rank) {
    signal_arrive((signal & 0xffffff) | rank << 24);
}
inline void signal_wait(unsigned signal, unsigned parity) {
    emulated::Signal& s = emulated::signal_at(signal);
    emulated::wait_until([&] { return (s.phase & 1) != static_cast<int>(parity); });
}

inline void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned signal) {
    if (to % 16 || bytes % 16 || reinterpret_cast<unsigned long long>(from) % 16) std::abort();
    emulated::machine.bulk.push_back([=] {
        std::memcpy(emulated::memory_at(to), from, bytes);
        emulated::Signal& s = emulated::signal_at(signal);
        s.bytes -= static_cast<int>(bytes);
        s.settle();
    });
    if (!emulated::machine.late) {
        emulated::Order order = std::move(emulated::machine.bulk.back());
        emulated::machine.bulk.pop_back();
        order();
    }
}
inline void copy_bulk_to(unsigned to, const void* from, unsigned bytes, unsigned signal, unsigned short blocks) {
    for (unsigned rank = 0; rank < 16; ++rank) {
        if (blocks >> rank & 1) {
            const unsigned there = rank << 24;
            copy_bulk((to & 0xffffff) | there, from, bytes, (signal & 0xffffff) | there);
        }
    }
}

template <int REGISTERS>
void give_registers() {}
template <int REGISTERS>
void take_registers() {}

// Instructions that are `aligned`: all lanes come to them together.
inline void products_fence() { __syncwarp(); }
inline void products_commit() { emulated::me().products.emplace_back(); }
template <int PENDING>
void products_wait() {
    __syncwarp();
    emulated::do_all(emulated::me().products, PENDING);
}

namespace emulated {
// The byte of an operand with 128-byte rows and permuted chunks.
inline signed char operand(u64 described, int row, int depth) {
    const u32 start = static_cast<u32>(described & 0x3fff) << 4;
    const u32 eighth = static_cast<u32>(described >> 32 & 0x3fff) << 4;
    if (described >> 62 != 1) std::abort();
    const u32 plain = start + row / 8 * eighth + row % 8 * 128 + depth;
    const u32 place = plain ^ (plain >> 7 & 7) << 4;
    return static_cast<signed char>(me().block->shared[place]);
}
}  // namespace emulated

template <int COLUMNS>
void multiply_group(int (&upper)[COLUMNS], int (&lower)[COLUMNS], unsigned long long a, unsigned long long b) {
    const int lane = emulated::lane(), warp = emulated::me().thread % 128 / 32;
    emulated::give(emulated::me().products, [&upper, &lower, a, b, lane, warp] {
        for (int half = 0; half < 2; ++half) {
            signed char row[32];
            for (int k = 0; k < 32; ++k) {
                row[k] = emulated::operand(a, 16 * warp + 8 * half + lane / 4, k);
            }
            for (int i = 0; i < COLUMNS; ++i) {
                const int column = i / 2 * 8 + lane % 4 * 2 + i % 2;
                int sum = 0;
                for (int k = 0; k < 32; ++k) sum += row[k] * emulated::operand(b, column, k);
                (half ? lower : upper)[i] += sum;
            }
        }
    });
}
