#pragma once

// The instructions that C++ has no name for. What needs compute capability 9.0 compiles to a trap
// elsewhere; the host never launches it there.

#include <cuda_bf16.h>

#include <cstdint>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define MOESAIC_BULK 1  // bulk copies, mbarriers with transaction counts, dependent launch
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MOESAIC_WGMMA 1
#endif

namespace moesaic::backend::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- Programmatic dependent launch: both are no-ops in a kernel launched without it.

/// Waits until the kernels that this one depends on have ended and their writes can be seen.
__device__ __forceinline__ void wait_for_predecessor() {
#ifdef MOESAIC_BULK
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Lets the next kernel's blocks start as soon as every block of this one has said so.
__device__ __forceinline__ void release_successor() {
#ifdef MOESAIC_BULK
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- mbarriers.

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
#ifdef MOESAIC_BULK
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#endif
}
/// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
#ifdef MOESAIC_BULK
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
#ifdef MOESAIC_BULK
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
#ifdef MOESAIC_BULK
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
#ifdef MOESAIC_BULK
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}
/// Arrives once the cp.async of this thread so far have landed; counts as one expected arrival.
__device__ __forceinline__ void barrier_arrive_after_copies(uint32_t barrier) {
#ifdef MOESAIC_BULK
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}
/// Waits for the phase of `parity`. A wait that cannot end traps instead of hanging the device.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef MOESAIC_BULK
  for (uint32_t tries = 0;; ++tries) {
    uint32_t done;
    asm volatile(
        "{\n .reg .pred p;\n"
        " mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    if (done) return;
    if (tries > (1u << 26)) __trap();
  }
#endif
}

/// Orders what ordinary code and cp.async wrote to shared memory before what bulk copies and wgmma
/// do there.
__device__ __forceinline__ void proxy_fence() {
#ifdef MOESAIC_BULK
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// --- Copies into shared memory.

/// An L2 policy for bytes that will not be read again soon.
__device__ __forceinline__ uint64_t streaming_policy() {
  uint64_t policy = 0;
#ifdef MOESAIC_BULK
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}
__device__ __forceinline__ uint64_t plain_policy() {
  uint64_t policy = 0;
#ifdef MOESAIC_BULK
  asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}
/// `bytes` is a multiple of 16, both addresses are 16-byte aligned; completes on `barrier`.
__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes,
                                          uint32_t barrier) {
#ifdef MOESAIC_BULK
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
#endif
}
__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes,
                                          uint32_t barrier, uint64_t policy) {
#ifdef MOESAIC_BULK
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], "
      "%2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
#endif
}
/// A box of a tensor; `map` is the kernel parameter that describes it.
__device__ __forceinline__ void tensor_copy(uint32_t to, const void* map, int x, int y,
                                            uint32_t barrier, uint64_t policy) {
#ifdef MOESAIC_BULK
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
      : "memory");
#endif
}
/// The same box for both blocks of a cluster, at the same place of their shared memory; completes
/// on the barrier at the same place of each.
__device__ __forceinline__ void tensor_copy_to_both(uint32_t to, const void* map, int x, int y,
                                                    uint32_t barrier, uint64_t policy) {
#ifdef MOESAIC_BULK
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(static_cast<uint16_t>(3)), "l"(policy)
      : "memory");
#endif
}
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank = 0;
#ifdef MOESAIC_BULK
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
/// All threads of both blocks.
__device__ __forceinline__ void cluster_sync() {
#ifdef MOESAIC_BULK
  asm volatile("barrier.cluster.arrive.aligned;\n barrier.cluster.wait.aligned;" ::: "memory");
#endif
}
/// Arrives at the other block's barrier.
__device__ __forceinline__ void barrier_arrive_remote(uint32_t barrier, uint32_t rank) {
#ifdef MOESAIC_BULK
  asm volatile(
      "{\n .reg .b32 remote;\n"
      " mapa.shared::cluster.u32 remote, %0, %1;\n"
      " mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
#endif
}
__device__ __forceinline__ void prefetch_map(const void* map) {
#ifdef MOESAIC_BULK
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}
/// Copies `bytes` of 16 and writes zeros for the rest.
__device__ __forceinline__ void async_copy16(uint32_t to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void async_copy16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
               : "memory");
}
__device__ __forceinline__ void async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- Fragments.

__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ uint32_t transpose_matrix(uint32_t r) {
  uint32_t t;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(r));
  return t;
}
/// d += a b for 16 outputs, 8 rows and 16 inputs.
__device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

}  // namespace moesaic::backend::cuda
