// What the kernels ask of a GPU beyond CUDA C++: one function an instruction, no logic.
//
// Addresses of shared memory are 32-bit numbers, as the instructions take them. The tests give a
// header that does the same on a CPU (CLIPGAP_EMULATED), so that the kernels run there unchanged.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

constexpr u32 ALL_LANES = 0xffffffffu;

#ifndef CLIPGAP_EMULATED

#define CLIPGAP_KERNEL extern "C" __global__
#define CLIPGAP_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, on their own way until copy_wait.
__device__ __forceinline__ void copy_async(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most PENDING groups of this thread's copies are under way.
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// All `threads` threads that name this barrier meet; those that only arrive do not wait for the others.
__device__ __forceinline__ void meet(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Four 8 x 16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8 and gets four
// bytes of row l / 4 of each.
__device__ __forceinline__ void load_matrices(u32 (&into)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
                 : "r"(address)
                 : "memory");
}

// 16 x 8 sums of products of 32 bytes of depth: 32 integers, or 16 floats. A thread has two neighbours
// of row lane / 4 and of that plus 8.
__device__ __forceinline__ void multiply(int* upper, int* lower, const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(upper[0]), "+r"(upper[1]), "+r"(lower[0]), "+r"(lower[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply(float* upper, float* lower, const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(upper[0]), "+f"(upper[1]), "+f"(lower[0]), "+f"(lower[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ void signal_init(u32 signal, u32 arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(signal), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void signal_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// One arrival, and so many bytes more before the phase ends.
__device__ __forceinline__ void signal_expect(u32 signal, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(signal), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void signal_arrive(u32 signal) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(signal) : "memory");
}
// Until the phase of this parity has ended. Parity tells a phase from its neighbours only: whoever
// asks for a phase while the one before it still runs is let through at once. What came into this
// block's memory is seen from then on; `.acquire.cluster` would empty the first-level cache as well.
__device__ __forceinline__ void signal_wait(u32 signal, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(signal),
        "r"(parity)
        : "memory");
}

// A stretch of global memory into shared memory; its bytes count towards `signal`.
__device__ __forceinline__ void copy_bulk(u32 to, const void* from, u32 bytes, u32 signal) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(signal)
        : "memory");
}

template <int REGISTERS>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// Registers written before are seen by the products after.
__device__ __forceinline__ void products_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int PENDING>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// 64 x COLUMNS sums of products of 32 bytes of depth by four warps: warp w has rows 16 w to 16 w + 15,
// laid out as by `multiply`. Operands lie in shared memory, described by `operand_of`. What is in
// the brackets of an instruction are the sums, 4 for every 8 columns.
#define CLIPGAP_SUMS(kind, j) \
    kind(upper[2 * (j)]), kind(upper[2 * (j) + 1]), kind(lower[2 * (j)]), kind(lower[2 * (j) + 1])
#define CLIPGAP_SUMS_8(kind, j) \
    CLIPGAP_SUMS(kind, j), CLIPGAP_SUMS(kind, (j) + 1), CLIPGAP_SUMS(kind, (j) + 2), \
        CLIPGAP_SUMS(kind, (j) + 3), CLIPGAP_SUMS(kind, (j) + 4), CLIPGAP_SUMS(kind, (j) + 5), \
        CLIPGAP_SUMS(kind, (j) + 6), CLIPGAP_SUMS(kind, (j) + 7)
#define CLIPGAP_NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CLIPGAP_NAMES_64 \
    CLIPGAP_NAMES_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CLIPGAP_NAMES_128 \
    CLIPGAP_NAMES_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define CLIPGAP_INT(x) "+r"(x)
#define CLIPGAP_FLOAT(x) "+f"(x)
#define CLIPGAP_MULTIPLY(Sum, shape, rest, COLUMNS, NAMES, A, B, ...)                           \
    __device__ __forceinline__ void multiply_group(Sum (&upper)[COLUMNS / 4],                      \
                                                   Sum (&lower)[COLUMNS / 4], u64 a, u64 b) {      \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #COLUMNS shape " {" NAMES "}, " A ", " B  \
                     rest : __VA_ARGS__ : "l"(a), "l"(b));                                         \
    }
#define CLIPGAP_MULTIPLY_BOTH(COLUMNS, NAMES, A, B, SUMS)                                           \
    CLIPGAP_MULTIPLY(int, "k32.s32.s8.s8", ", 1;", COLUMNS, NAMES, A, B, SUMS(CLIPGAP_INT))      \
    CLIPGAP_MULTIPLY(float, "k16.f32.f16.f16", ", 1, 1, 1, 0, 0;", COLUMNS, NAMES, A, B,         \
                     SUMS(CLIPGAP_FLOAT))
#define CLIPGAP_SUMS_64(kind) CLIPGAP_SUMS_8(kind, 0)
#define CLIPGAP_SUMS_128(kind) CLIPGAP_SUMS_64(kind), CLIPGAP_SUMS_8(kind, 8)
#define CLIPGAP_SUMS_256(kind) \
    CLIPGAP_SUMS_128(kind), CLIPGAP_SUMS_8(kind, 16), CLIPGAP_SUMS_8(kind, 24)

CLIPGAP_MULTIPLY_BOTH(64, CLIPGAP_NAMES_32, "%32", "%33", CLIPGAP_SUMS_64)
CLIPGAP_MULTIPLY_BOTH(128, CLIPGAP_NAMES_64, "%64", "%65", CLIPGAP_SUMS_128)
CLIPGAP_MULTIPLY_BOTH(256, CLIPGAP_NAMES_128, "%128", "%129", CLIPGAP_SUMS_256)

#endif  // sm_90a
#endif  // not emulated
