#pragma once

// wgmma: 64 outputs times N rows, sums in registers. Compute capability 9.0 only; elsewhere these
// compile to nothing, and no kernel that uses them is launched.
//
// A thread's accumulators are those of mma.sync repeated over N: d[4 j + i] is what c[i] of a
// 16 x 8 fragment would be, for the warp's 16 outputs and rows 8 j to 8 j + 7.

#include <cstdint>

#include "backend/cuda/products/ptx.cuh"

namespace moesaic::backend::cuda {

/// Describes an operand in shared memory: rows of 128 bytes with the 128-byte swizzle, 8 rows to
/// 1024 bytes. K advances by adding bytes / 16.
__device__ __forceinline__ uint64_t swizzled_operand(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kStride = uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kStride | uint64_t{1} << 16 | (address & 0x3ffff) >> 4;
}

__device__ __forceinline__ void wgmma_begin() {
#ifdef MOESAIC_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wgmma_commit() {
#ifdef MOESAIC_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
#ifdef MOESAIC_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}
/// Keeps the compiler from moving uses of the accumulators across a wait.
template <int kCount>
__device__ __forceinline__ void wgmma_pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kSteps>
__device__ __forceinline__ void wgmma_pin(uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(a[i][j])::"memory");
  }
}

// clang-format off
#define MOESAIC_R32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MOESAIC_R64 MOESAIC_R32 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MOESAIC_R128 MOESAIC_R64 ", " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MOESAIC_D8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
  "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define MOESAIC_D32(d, i) MOESAIC_D8(d, i), MOESAIC_D8(d, i + 8), MOESAIC_D8(d, i + 16), \
  MOESAIC_D8(d, i + 24)
#define MOESAIC_D64(d, i) MOESAIC_D32(d, i), MOESAIC_D32(d, i + 32)
#define MOESAIC_D128(d, i) MOESAIC_D64(d, i), MOESAIC_D64(d, i + 64)
// clang-format on

/// The instructions for N rows.
template <int kRows>
struct Wgmma;

#ifdef MOESAIC_WGMMA
#define MOESAIC_WGMMA_SHAPE(N, REGISTERS, OUTPUTS, O0, O1, O2, O3, O4)                             \
  template <>                                                                                      \
  struct Wgmma<N> {                                                                                \
    /* d += A B, both in shared memory; 16 inputs of bf16. */                                      \
    __device__ static __forceinline__ void bf16(float (&d)[N / 2], uint64_t a, uint64_t b) {       \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS "}, " O0 \
                   ", " O1 ", 1, 1, 1, 0, 0;"                                                      \
                   : OUTPUTS(d, 0)                                                                 \
                   : "l"(a), "l"(b));                                                              \
    }                                                                                              \
    /* The same with A in registers. */                                                            \
    __device__ static __forceinline__ void bf16(float (&d)[N / 2], const uint32_t (&a)[4],         \
                                                uint64_t b) {                                      \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS          \
                   "}, {" O0 ", " O1 ", " O2 ", " O3 "}, " O4 ", 1, 1, 1, 0;"                      \
                   : OUTPUTS(d, 0)                                                                 \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                          \
    }                                                                                              \
    /* Both in shared memory; 32 inputs of e4m3. The first forgets what d was. */                  \
    __device__ static __forceinline__ void e4m3_first(float (&d)[N / 2], uint64_t a, uint64_t b) { \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" REGISTERS "}, " O0 \
                   ", " O1 ", 0, 1, 1;"                                                            \
                   : OUTPUTS(d, 0)                                                                 \
                   : "l"(a), "l"(b));                                                              \
    }                                                                                              \
    __device__ static __forceinline__ void e4m3(float (&d)[N / 2], uint64_t a, uint64_t b) {       \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" REGISTERS "}, " O0 \
                   ", " O1 ", 1, 1, 1;"                                                            \
                   : OUTPUTS(d, 0)                                                                 \
                   : "l"(a), "l"(b));                                                              \
    }                                                                                              \
  }
MOESAIC_WGMMA_SHAPE(64, MOESAIC_R32, MOESAIC_D32, "%32", "%33", "%34", "%35", "%36");
MOESAIC_WGMMA_SHAPE(128, MOESAIC_R64, MOESAIC_D64, "%64", "%65", "%66", "%67", "%68");
MOESAIC_WGMMA_SHAPE(256, MOESAIC_R128, MOESAIC_D128, "%128", "%129", "%130", "%131", "%132");
#undef MOESAIC_WGMMA_SHAPE
#endif
#undef MOESAIC_R32
#undef MOESAIC_R64
#undef MOESAIC_R128
#undef MOESAIC_D8
#undef MOESAIC_D32
#undef MOESAIC_D64
#undef MOESAIC_D128

}  // namespace moesaic::backend::cuda
