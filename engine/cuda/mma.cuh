// Matrix instructions, asynchronous copies and packing: the device's by inline
// PTX, the host's by rendezvous of the 32 lanes. Nothing else in a kernel knows
// which of the two it runs on. Register layouts: PTX ISA, mma.m16n8k16.
//   lane = 4 g + t.  A (16x16, row): a0 (g, 2t..2t+1) a1 (g+8, ..) a2 (g, 2t+8..)
//   a3 (g+8, 2t+8..).  B (16x8, col): b0 (k 2t..2t+1, n g) b1 (k 2t+8.., n g).
//   C, D (16x8): c0 c1 (g, 2t..2t+1) c2 c3 (g+8, 2t..2t+1).
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

static __device__ __forceinline__ uint32_t pack_half2(float low, float high)
{
    __half2 h = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&h);
}

static __device__ __forceinline__ float2 unpack_half2(uint32_t v)
{
    return __half22float2(*reinterpret_cast<__half2 *>(&v));
}

#ifndef NOC_EMULATED
extern __shared__ __align__(128) unsigned char shared_bytes[];

static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// What is beyond the end of f16 becomes the end.
static __device__ __forceinline__ uint32_t pack_finite_half2(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

static __device__ __forceinline__ void mma_f16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
static __device__ __forceinline__ void load_matrix4(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ void load_matrix4_trans(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

// 16 bytes, global to shared; zeros where not valid, and then nothing is read, wherever `from` is.
static __device__ __forceinline__ void copy16_async(void *to, const void *from, bool valid)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    int size = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(size) : "memory");
}

static __device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int GROUPS_LEFT> static __device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
}

// blockIdx.x and threadIdx.x, of which the compiler does not know that they are: what is computed from them
// is computed again, rather than kept in registers.
static __device__ __forceinline__ unsigned block_again()
{
    unsigned x;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
    return x;
}

static __device__ __forceinline__ unsigned thread_again()
{
    unsigned x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

#else /* emulated */
extern __shared__ unsigned char shared_bytes[];

static inline float exp2_fast(float x)
{
    return exp2f(x);
}

static inline uint32_t pack_finite_half2(float low, float high)
{
    const float v[2] = {low, high};
    float end[2];
    for (int i = 0; i < 2; i++)
        end[i] = v[i] > 65504 ? 65504 : v[i] < -65504 ? -65504 : v[i];
    return pack_half2(end[0], end[1]);
}

float emu_half_value(uint16_t bits);

static inline float emu_bf16_value(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}

// Slot words: 0..3 a, 4..5 b, 6..9 c and then d.
template <float VALUE(uint16_t)> __attribute__((no_sanitize("thread"))) static void emu_mma(emu_slot *s)
{
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 8; i++) {
            uint16_t bits = s[lane].u[i / 2] >> 16 * (i % 2);
            a[g + i / 2 % 2 * 8][2 * t + i % 2 + i / 4 * 8] = VALUE(bits);
        }
        for (int i = 0; i < 4; i++) {
            uint16_t bits = s[lane].u[4 + i / 2] >> 16 * (i % 2);
            b[2 * t + i % 2 + i / 2 * 8][g] = VALUE(bits);
        }
        for (int i = 0; i < 4; i++)
            d[g + i / 2 * 8][2 * t + i % 2] = s[lane].f[6 + i];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++)
                d[row][n] += a[row][k] * b[k][n];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            s[lane].f[6 + i] = d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

static inline void emu_mma_call(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1,
                                void (*work)(emu_slot *), emu_site at)
{
    emu_slot mine = {{a[0], a[1], a[2], a[3], b0, b1}};
    memcpy(&mine.f[6], d, 16);
    emu_slot *s = emu_warp_meet(~0u, &mine, 40, work, false, at);
    memcpy(d, &s[emu_lane].f[6], 16);
}

static inline void mma_f16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, emu_site at = {})
{
    emu_mma_call(d, a, b0, b1, emu_mma<emu_half_value>, at);
}

static inline void mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, emu_site at = {})
{
    emu_mma_call(d, a, b0, b1, emu_mma<emu_bf16_value>, at);
}

static inline void load_matrix4(uint32_t r[4], const void *row, emu_site at = {})
{
    emu_slot *s = emu_warp_meet(~0u, &row, sizeof row, nullptr, false, at);
    unsigned lane = emu_lane;
    emu_count_ldmatrix(s, 4, at);
    for (int m = 0; m < 4; m++)
        r[m] = ((const uint32_t *)s[8 * m + lane / 4].p[0])[lane % 4];
}

static inline void load_matrix4_trans(uint32_t r[4], const void *row, emu_site at = {})
{
    emu_slot *s = emu_warp_meet(~0u, &row, sizeof row, nullptr, false, at);
    unsigned lane = emu_lane, column = lane / 4;
    emu_count_ldmatrix(s, 4, at);
    for (int m = 0; m < 4; m++) {
        emu_slot *rows = &s[8 * m + 2 * (lane % 4)];
        uint32_t low = ((const uint16_t *)rows[0].p[0])[column];
        r[m] = low | (uint32_t)((const uint16_t *)rows[1].p[0])[column] << 16;
    }
}

static inline unsigned block_again()
{
    return blockIdx.x;
}

static inline unsigned thread_again()
{
    return threadIdx.x;
}

static inline void copy16_async(void *to, const void *from, bool valid)
{
    emu_async_copy(to, from, 16, valid ? 16 : 0);
}

static inline void copy_commit()
{
    emu_async_commit();
}

template <int GROUPS_LEFT> static inline void copy_wait()
{
    emu_async_wait(GROUPS_LEFT);
}
#endif
