// CUDA C++ on a CPU, for tests: included before csrc/cuda/kernels.cu, which then compiles as C++.
//
// Every thread of a block is a fiber; they run in turn, and one that waits lets the others go on.
// Fragments of matrix instructions are laid out over the lanes as the PTX manual lays them out, so
// index arithmetic, permutations and barriers are what is tested. What a GPU does at some time
// between an order and its wait (copies, products) is done here as early or as late as can be, and
// copies that no thread waits for by itself land in one of several orders (`Landing`): a wait that is
// missing or too weak gives a wrong result in one of them. When no fiber can go on, the launch ends
// with an error instead of hanging.
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
#include <new>
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

constexpr size_t LARGEST = 32;  // bytes that a lane shows to the others

struct Warp {
    Barrier barrier;
    alignas(8) unsigned char shown[2][32 * LARGEST];
};

struct Block {
    int index;
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
    int thread;
    bool begun = false, done = false;
    std::deque<std::vector<Order>> copies{1}, products{1};  // by group; the last is still open
};

// When copies land: as soon as they are ordered, or as late as can be, and then in what order.
enum class Landing { at_once, in_order, in_reverse, at_random };

constexpr size_t STACK = 256 << 10;

struct Machine {
    Block block;  // blocks run one after the other
    std::vector<Fiber> fibers;
    std::deque<Order> bulk;  // copies that no thread waits for by itself
    Fiber* running = nullptr;
    jmp_buf scheduler;
    u64 progress = 0;
    const char* wrong = nullptr;
    std::vector<std::unique_ptr<char[]>> stacks;  // of the fibers, kept for the next launch
    Landing landing = Landing::at_once;
    u32 random = 1;
    int grid = 0, threads = 0;
    std::function<void()> kernel;
};

inline Machine machine;

inline bool late() { return machine.landing != Landing::at_once; }

inline size_t random_below(size_t limit) {
    machine.random = machine.random * 1664525u + 1013904223u;
    return (machine.random >> 8) % limit;
}

inline Fiber& me() { return *machine.running; }
inline int lane() { return me().thread & 31; }
inline Block& block() { return machine.block; }
inline Warp& warp() { return block().warps[me().thread >> 5]; }

inline void pause() {
    if (_setjmp(me().at) == 0) _longjmp(machine.scheduler, 1);
}

// What a GPU would not do, or not as it was meant: the launch ends.
inline void require(bool met, const char* otherwise) {
    if (met) return;
    machine.wrong = otherwise;
    while (true) pause();
}

template <typename Condition>
void wait_until(Condition condition) {
    while (!condition()) pause();
    ++machine.progress;
}

inline void arrive(Barrier& barrier, int threads) {
    ++machine.progress;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.round;
    }
}

inline void meet(Barrier& barrier, int threads) {
    const int round = barrier.round;
    arrive(barrier, threads);
    if (barrier.round == round) wait_until([&] { return barrier.round != round; });
}

// Every lane shows a value and sees those of all, until it shows the next: two sets take turns, so
// one meeting is enough.
template <typename Value>
const Value* exchange(const Value& mine) {
    static_assert(sizeof(Value) <= LARGEST);
    Warp& here = warp();
    Value* const shown = reinterpret_cast<Value*>(here.shown[here.barrier.round & 1]);
    new (shown + lane()) Value(mine);
    meet(here.barrier, 32);
    return shown;
}

inline unsigned char* memory_at(u32 address) { return block().shared + address; }
inline Signal& signal_at(u32 address) { return block().signals[address]; }

inline void run(Fiber* fiber) {
    machine.running = fiber;
    machine.kernel();
    machine.running->done = true;
    ++machine.progress;
    _longjmp(machine.scheduler, 1);
}

inline void enter() { run(machine.running); }

// Lets one of the bulk copies land that are under way: nothing says that they end in the order in
// which they began.
inline void land_one() {
    const size_t all = machine.bulk.size();
    size_t which = machine.landing == Landing::in_order ? 0 : all - 1;
    if (machine.landing == Landing::at_random) which = random_below(all);
    const Order order = std::move(machine.bulk[which]);
    machine.bulk.erase(machine.bulk.begin() + static_cast<std::ptrdiff_t>(which));
    order();
    ++machine.progress;
}

// Lets a fiber go on until it pauses or ends. A function of its own: what jumps back finds no local
// variable changed.
__attribute__((noinline)) inline void resume(Fiber* fiber) {
    machine.running = fiber;
    if (_setjmp(machine.scheduler)) return;
    if (fiber->begun) _longjmp(fiber->at, 1);
    fiber->begun = true;
    setcontext(&fiber->first);
}

__attribute__((noinline)) inline void prepare(Fiber* fiber, char* stack) {
    getcontext(&fiber->first);
    fiber->first.uc_stack.ss_sp = stack;
    fiber->first.uc_stack.ss_size = STACK;
    fiber->first.uc_link = nullptr;
    makecontext(&fiber->first, enter, 0);
}

// Returns what went wrong, or nothing.
inline const char* launch(int grid, int threads, int shared, std::function<void()> kernel) {
    machine.grid = grid, machine.threads = threads, machine.kernel = std::move(kernel);
    const char*& wrong = machine.wrong;
    wrong = nullptr;
    while (machine.stacks.size() < static_cast<size_t>(threads)) {
        machine.stacks.emplace_back(new char[STACK]);
    }
    for (int index = 0; index < grid && !wrong; ++index) {
        Block& block = machine.block;
        block = {};
        block.index = index;
        block.memory.assign(shared + 2048, 0xee);  // not zero: nobody may count on that
        block.shared = reinterpret_cast<unsigned char*>(
            (reinterpret_cast<u64>(block.memory.data()) + 1023) / 1024 * 1024);
        block.warps.resize((threads + 31) / 32);
        machine.fibers.clear();
        machine.fibers.resize(threads);
        for (int thread = 0; thread < threads; ++thread) {
            machine.fibers[thread].thread = thread;
            prepare(&machine.fibers[thread], machine.stacks[thread].get());
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
            if (!machine.bulk.empty()) land_one();
            idle = machine.progress == before ? idle + 1 : 0;
            if (!wrong && left && idle > 2) wrong = "no thread can go on";
        }
        if (!wrong && !machine.bulk.empty()) wrong = "a copy was never waited for";
        for (auto& [name, barrier] : block.barriers) {
            if (!wrong && barrier.arrived != 0) wrong = "threads arrived where none waits";
        }
        for (auto& [address, signal] : block.signals) {
            if (!wrong && signal.bytes != 0) wrong = "a signal waits for bytes that never came";
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

inline void require_aligned(u32 to, const void* from) {
    const bool aligned = to % 16 == 0 && reinterpret_cast<u64>(from) % 16 == 0;
    require(aligned, "a copy does not begin at 16 bytes");
}

inline void give(std::deque<std::vector<Order>>& groups, Order order) {
    if (late()) {
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
#define CLIPGAP_SHARED(name) unsigned char* const name = emulated::block().shared
#define threadIdx (emulated::Index{emulated::me().thread})
#define blockIdx (emulated::Index{emulated::block().index})
#define gridDim (emulated::Index{emulated::machine.grid})

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float max(float a, float b) { return a > b ? a : b; }
inline int __vimax3_s32(int a, int b, int c) { return max(max(a, b), c); }
inline int __viaddmax_s32(int a, int b, int c) { return max(a + b, c); }
inline int __viaddmin_s32(int a, int b, int c) { return min(a + b, c); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
template <typename Number>
Number __ldcg(const Number* p) {
    return *p;
}
inline int __float_as_int(float x) {
    int bits;
    std::memcpy(&bits, &x, 4);
    return bits;
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

inline void __syncthreads() { emulated::meet(emulated::block().barriers[0], emulated::machine.threads); }
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
    return static_cast<unsigned>(static_cast<const unsigned char*>(pointer) - emulated::block().shared);
}

inline void copy_async(unsigned to, const void* from) {
    emulated::require_aligned(to, from);
    emulated::give(emulated::me().copies, [=] { std::memcpy(emulated::memory_at(to), from, 16); });
}
inline void copy_commit() { emulated::me().copies.emplace_back(); }
template <int PENDING>
void copy_wait() {
    emulated::do_all(emulated::me().copies, PENDING);
}

inline void meet(int barrier, int threads) {
    emulated::meet(emulated::block().barriers[barrier], threads);
}
inline void arrive(int barrier, int threads) {
    emulated::arrive(emulated::block().barriers[barrier], threads);
}

inline void load_matrices(unsigned (&into)[4], unsigned address) {
    const unsigned* rows = emulated::exchange(address);
    const int lane = emulated::lane();
    for (int matrix = 0; matrix < 4; ++matrix) {
        // The eight rows of a matrix come from different banks, or it takes several turns.
        unsigned banks = 0;
        for (int i = 0; i < 8; ++i) banks |= 1u << (rows[8 * matrix + i] >> 4 & 7);
        emulated::require(banks == 0xff, "rows of a matrix come from the same bank");
        const unsigned row = rows[8 * matrix + lane / 4];
        emulated::require(row % 16 == 0, "a row of a matrix does not begin at 16 bytes");
        std::memcpy(&into[matrix], emulated::memory_at(row) + lane % 4 * 4, 4);
    }
}

namespace emulated {
// Bytes of depth of two operands, multiplied as sums of this type ask for it.
inline int product(const unsigned char* a, const unsigned char* b, int bytes, int) {
    int sum = 0;
    for (int k = 0; k < bytes; ++k) {
        sum += static_cast<signed char>(a[k]) * static_cast<signed char>(b[k]);
    }
    return sum;
}
inline float product(const unsigned char* a, const unsigned char* b, int bytes, float) {
    float sum = 0;
    for (int k = 0; k < bytes; k += 2) {
        _Float16 x, y;
        std::memcpy(&x, a + k, 2);
        std::memcpy(&y, b + k, 2);
        sum += static_cast<float>(x) * static_cast<float>(y);
    }
    return sum;
}

struct Fragment {
    unsigned char a[4][4], b[2][4];
};
}  // namespace emulated

template <typename Sum>
void multiply(Sum* upper, Sum* lower, const unsigned (&a)[4], unsigned b0, unsigned b1) {
    emulated::Fragment mine;
    std::memcpy(mine.a, a, 16);
    std::memcpy(mine.b[0], &b0, 4);
    std::memcpy(mine.b[1], &b1, 4);
    const emulated::Fragment* all = emulated::exchange(mine);
    const int group = emulated::lane() / 4, in_group = emulated::lane() % 4;
    // Register i of A holds row group (+ 8 for odd i), bytes 4 t to 4 t + 3 (+ 16 for i >= 2);
    // register i of B holds column group, bytes 4 t to 4 t + 3 (+ 16 for i = 1).
    for (int half = 0; half < 2; ++half) {
        for (int e = 0; e < 2; ++e) {
            Sum sum = 0;
            for (int part = 0; part < 8; ++part) {
                const int t = part % 4, high = part / 4;
                sum += emulated::product(all[4 * group + t].a[2 * high + half],
                                         all[4 * (2 * in_group + e) + t].b[high], 4, Sum());
            }
            (half ? lower : upper)[e] += sum;
        }
    }
}

inline void signal_init(unsigned signal, unsigned arrivals) {
    emulated::require(signal % 8 == 0, "a signal does not begin at 8 bytes");
    emulated::signal_at(signal) = {static_cast<int>(arrivals), 0, 0, 0};
}
inline void signal_fence() {}
inline void signal_arrive(unsigned signal) {
    emulated::Signal& s = emulated::signal_at(signal);
    emulated::require(++s.arrived <= s.expected, "more arrive at a signal than it expects");
    s.settle();
    ++emulated::machine.progress;
}
inline void signal_expect(unsigned signal, unsigned bytes) {
    emulated::signal_at(signal).bytes += static_cast<int>(bytes);
    signal_arrive(signal);
}
inline void signal_wait(unsigned signal, unsigned parity) {
    emulated::Signal& s = emulated::signal_at(signal);
    emulated::wait_until([&] { return (s.phase & 1) != static_cast<int>(parity); });
}

inline void copy_bulk(unsigned to, const void* from, unsigned bytes, unsigned signal) {
    emulated::require_aligned(to, from);
    emulated::require(bytes % 16 == 0, "a copy is not of whole 16 bytes");
    emulated::machine.bulk.push_back([=] {
        std::memcpy(emulated::memory_at(to), from, bytes);
        emulated::Signal& s = emulated::signal_at(signal);
        s.bytes -= static_cast<int>(bytes);
        s.settle();
    });
    if (!emulated::late()) emulated::land_one();
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
// 32 bytes of a row of an operand with 128-byte rows and permuted 16-byte chunks.
struct Part {
    unsigned char at[32];

    Part(u64 described, int row) {
        const u32 start = static_cast<u32>(described & 0x3fff) << 4;
        const u32 eighth = static_cast<u32>(described >> 32 & 0x3fff) << 4;
        require(described >> 62 == 1, "an operand is not permuted as its rows are");
        for (int chunk = 0; chunk < 2; ++chunk) {
            const u32 plain = start + row / 8 * eighth + row % 8 * 128 + 16 * chunk;
            const u32 place = plain ^ (plain >> 7 & 7) << 4;
            std::memcpy(at + 16 * chunk, block().shared + place, 16);
        }
    }
};
}  // namespace emulated

template <typename Sum, int COLUMNS>
void multiply_group(Sum (&upper)[COLUMNS], Sum (&lower)[COLUMNS], unsigned long long a, unsigned long long b) {
    const int lane = emulated::lane(), warp = emulated::me().thread % 128 / 32;
    emulated::give(emulated::me().products, [&upper, &lower, a, b, lane, warp] {
        const emulated::Part high(a, 16 * warp + lane / 4), low(a, 16 * warp + 8 + lane / 4);
        for (int i = 0; i < COLUMNS; ++i) {
            const emulated::Part column(b, i / 2 * 8 + lane % 4 * 2 + i % 2);
            upper[i] += emulated::product(high.at, column.at, 32, Sum());
            lower[i] += emulated::product(low.at, column.at, 32, Sum());
        }
    });
}
