/* Vectors of the instruction set that a kernel file is compiled for, in GCC's vector extensions: the Makefile
 * compiles each kernels*.c once for each of NOC_ISA_*, with -ffp-contract=fast so that a product and a sum
 * become one instruction where there is one. Nothing here may have external linkage: of two copies of an
 * inline function the linker could keep the one with the wider instructions. KERNEL(name) is a kernel's name
 * in its instruction set. */
#ifndef NOC_CPU_VECTOR_H
#define NOC_CPU_VECTOR_H

#include "engine/cpu/kernels.h"

#include <math.h>
#include <string.h>

#if defined(NOC_ISA_AMX) /* AVX-512 with tiles of bf16 */
#define NOC_ISA_AVX512
#define KERNEL(name) noc_cpu_amx_##name
#define ISA "amx"
#elif defined(NOC_ISA_AVX512)
#define KERNEL(name) noc_cpu_avx512_##name
#define ISA "avx512"
#endif

#if defined(NOC_ISA_AVX512)
#include <immintrin.h>
enum { LANES = 16, ROWS = 14 };
#elif defined(NOC_ISA_AVX2)
#include <immintrin.h>
enum { LANES = 8, ROWS = 6 };
#define KERNEL(name) noc_cpu_avx2_##name
#define ISA "avx2"
#else
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
enum { LANES = 4, ROWS = 4 };
#define KERNEL(name) noc_cpu_portable_##name
#define ISA "portable"
#endif

enum { COLUMNS = 2 * LANES, BLOCK_ROWS = 8 * ROWS, DEPTH_RUN = 256 };

/* Kernels in files of their own; kernels.c has the others and the table. */
size_t KERNEL(packed_floats)(int columns, int runs, int padded_run);
void KERNEL(pack)(const double *weight, int columns, int runs, int run, int padded_run, float *panels);
size_t KERNEL(head_floats)(const noc_cpu_heads *heads);
size_t KERNEL(score_floats)(const noc_cpu_heads *heads);
void KERNEL(pack_keys)(const noc_cpu_heads *heads, const float *kv, int first, int rows, float scale,
                       float *packed);
size_t KERNEL(conv_line_floats)(const noc_cpu_conv *conv);
void KERNEL(conv_fill)(const noc_cpu_conv *conv, int d, int h);
void KERNEL(product)(const noc_cpu_product *product);
void KERNEL(attention)(const noc_cpu_attention *attention);
void KERNEL(conv)(const noc_cpu_conv *conv, int line, int first, int last);
void KERNEL(expand)(const noc_cpu_mixffn *mixffn, const float *in, int rows, int slot, int token);
void KERNEL(mix_strip)(const noc_cpu_mixffn *mixffn, const noc_cpu_strip *strip, const float *residual,
                       float *out);
void KERNEL(mix)(const noc_cpu_mix *mix);
size_t KERNEL(decoder_floats)(const noc_cpu_decoder *decoder);
void KERNEL(decode)(const noc_cpu_decoder *decoder, int d, int h_from, int h_to, float *room);
void KERNEL(spread)(const noc_cpu_spread *spread);
void KERNEL(divide)(float *sums, size_t step, const float *weights, int classes, int count);
void KERNEL(argmax)(const float *sums, size_t step, int classes, int count, uint32_t *labels, float *best);
void KERNEL(threshold)(const float *sums, size_t step, int classes, int count, float limit, uint32_t *bits);
double KERNEL(peak_products)(int rounds, float *sink);
double KERNEL(peak_vectors)(int rounds, float *sink);

/* Where the line (d, h) of the input lies among the filled ones. */
static inline size_t conv_line(const noc_cpu_conv *c, int d, int h)
{
    return (size_t)(d % c->planes) * (size_t)c->ring_lines + (size_t)(h - c->first_line);
}

/* Most lines of a term that a call of a decoder reads. */
static inline int term_lines(const noc_cpu_decoder *d, const noc_cpu_term *term)
{
    int lines = d->lines * term->grid[1] / d->grid[1] + 3;
    return lines < term->grid[1] ? lines : term->grid[1];
}

#define LOG2_E 1.44269504f
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef float vec_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t bits_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p)
{
    return *(const vec_memory *)p;
}

INLINE void store(float *p, vec v)
{
    *(vec_memory *)p = v;
}

INLINE vec splat(float x)
{
    return (vec){0} + x;
}

/* The first n lanes, zeros behind them. */
#if defined(NOC_ISA_AVX512)
INLINE vec load_part(const float *p, int n)
{
    return n == LANES ? load(p) : (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

INLINE void store_part(float *p, vec v, int n)
{
    if (n == LANES)
        store(p, v);
    else
        _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#else
INLINE vec load_part(const float *p, int n)
{
    if (n == LANES)
        return load(p);
    vec v = {0};
    for (int i = 0; i < n; i++)
        v[i] = p[i];
    return v;
}

INLINE void store_part(float *p, vec v, int n)
{
    if (n == LANES)
        store(p, v);
    else
        for (int i = 0; i < n; i++)
            p[i] = v[i];
}
#endif

INLINE int least(int a, int b)
{
    return a < b ? a : b;
}

/* The larger; b where one is not a number (on x86). */
INLINE vec larger(vec a, vec b)
{
#if defined(NOC_ISA_AVX512)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(NOC_ISA_AVX2)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vec)_mm_max_ps((__m128)a, (__m128)b);
#else
    bits is_a = (bits)(a > b);
    return (vec)(((bits)a & is_a) | ((bits)b & ~is_a));
#endif
}

INLINE vec smaller(vec a, vec b)
{
#if defined(NOC_ISA_AVX512)
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(NOC_ISA_AVX2)
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return -larger(-a, -b);
#endif
}

/* x is loaded once, not again by each instruction that uses it: where those are many, the loads decide. */
#if defined(NOC_ISA_AVX512)
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#elif defined(NOC_ISA_AVX2)
#define IN_REGISTER(x) __asm__("" : "+x"(x))
#else
#define IN_REGISTER(x) (void)0
#endif

/* `rows` rows of sums into the columns from c on (of `columns`) of out; residual is laid out as out, or NULL.
 */
INLINE void store_sums(float (*y)[COLUMNS], int rows, int c, int columns, const float *residual, float *out,
                       size_t step)
{
    for (int r = 0; r < rows; r++)
        for (int i = 0, at = c; i < COLUMNS && at < columns; i += LANES, at += LANES) {
            int n = least(LANES, columns - at);
            size_t to = (size_t)r * step + (size_t)at;
            vec v = load(&y[r][i]);
            if (residual)
                v += load_part(residual + to, n);
            store_part(out + to, v, n);
        }
}

#if defined(NOC_ISA_AVX512)
#define SWAP_8(v) __builtin_shuffle(v, (bits){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7})
#define SWAP_4(v) __builtin_shuffle(v, (bits){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11})
#define SWAP_2(v) __builtin_shuffle(v, (bits){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13})
#define SWAP_1(v) __builtin_shuffle(v, (bits){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14})
#elif defined(NOC_ISA_AVX2)
#define SWAP_4(v) __builtin_shuffle(v, (bits){4, 5, 6, 7, 0, 1, 2, 3})
#define SWAP_2(v) __builtin_shuffle(v, (bits){2, 3, 0, 1, 6, 7, 4, 5})
#define SWAP_1(v) __builtin_shuffle(v, (bits){1, 0, 3, 2, 5, 4, 7, 6})
#else
#define SWAP_2(v) __builtin_shuffle(v, (bits){2, 3, 0, 1})
#define SWAP_1(v) __builtin_shuffle(v, (bits){1, 0, 3, 2})
#endif

INLINE float lanes_sum(vec v)
{
#if defined(NOC_ISA_AVX512)
    v += SWAP_8(v);
#endif
#if defined(NOC_ISA_AVX512) || defined(NOC_ISA_AVX2)
    v += SWAP_4(v);
#endif
    v += SWAP_2(v);
    v += SWAP_1(v);
    return v[0];
}

INLINE float lanes_max(vec v)
{
#if defined(NOC_ISA_AVX512)
    v = larger(v, SWAP_8(v));
#endif
#if defined(NOC_ISA_AVX512) || defined(NOC_ISA_AVX2)
    v = larger(v, SWAP_4(v));
#endif
    v = larger(v, SWAP_2(v));
    v = larger(v, SWAP_1(v));
    return v[0];
}

/* Of each group of n lanes of two vectors: their low halves side by side, and their high halves. LANE counts.
 */
#if defined(NOC_ISA_AVX512)
#define LOW_16                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23                                               \
    }
#define HIGH_16                                                                                              \
    (bits)                                                                                                   \
    {                                                                                                        \
        8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31                                         \
    }
#define LOW_8                                                                                                \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27                                             \
    }
#define HIGH_8                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31                                           \
    }
#define LOW_4                                                                                                \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29                                             \
    }
#define HIGH_4                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31                                           \
    }
#define LOW_2                                                                                                \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30                                            \
    }
#define HIGH_2                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31                                            \
    }
#define LANE                                                                                                 \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15                                                 \
    }
#elif defined(NOC_ISA_AVX2)
#define LOW_8                                                                                                \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 2, 3, 8, 9, 10, 11                                                                             \
    }
#define HIGH_8                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        4, 5, 6, 7, 12, 13, 14, 15                                                                           \
    }
#define LOW_4                                                                                                \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 8, 9, 4, 5, 12, 13                                                                             \
    }
#define HIGH_4                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        2, 3, 10, 11, 6, 7, 14, 15                                                                           \
    }
#define LOW_2                                                                                                \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 8, 2, 10, 4, 12, 6, 14                                                                            \
    }
#define HIGH_2                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        1, 9, 3, 11, 5, 13, 7, 15                                                                            \
    }
#define LANE                                                                                                 \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 2, 3, 4, 5, 6, 7                                                                               \
    }
#else
#define LOW_4                                                                                                \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 4, 5                                                                                           \
    }
#define HIGH_4                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        2, 3, 6, 7                                                                                           \
    }
#define LOW_2                                                                                                \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 4, 2, 6                                                                                           \
    }
#define HIGH_2                                                                                               \
    (bits)                                                                                                   \
    {                                                                                                        \
        1, 5, 3, 7                                                                                           \
    }
#define LANE                                                                                                 \
    (bits)                                                                                                   \
    {                                                                                                        \
        0, 1, 2, 3                                                                                           \
    }
#endif

/* v[i] and v[i + n / 2] -> v[i] for i < n / 2: both folded once. */
#define FOLD(n, op)                                                                                          \
    _Pragma("GCC unroll 8") for (int i = 0; i < n / 2; i++) v[i] =                                           \
        op(__builtin_shuffle(v[i], v[i + n / 2], LOW_##n), __builtin_shuffle(v[i], v[i + n / 2], HIGH_##n))

INLINE vec sum_of(vec a, vec b)
{
    return a + b;
}

/* Lane i of the result: the sum of all lanes of v[i]. v is used up. The halves are added first, then their
 * halves: the same bits as lanes_sum. */
INLINE vec lanes_sums(vec v[LANES])
{
#if defined(NOC_ISA_AVX512)
    FOLD(16, sum_of);
#endif
#if defined(NOC_ISA_AVX512) || defined(NOC_ISA_AVX2)
    FOLD(8, sum_of);
#endif
    FOLD(4, sum_of);
    FOLD(2, sum_of);
    return v[0];
}

/* The same for the largest lanes. */
INLINE vec lanes_maxima(vec v[LANES])
{
#if defined(NOC_ISA_AVX512)
    FOLD(16, larger);
#endif
#if defined(NOC_ISA_AVX512) || defined(NOC_ISA_AVX2)
    FOLD(8, larger);
#endif
    FOLD(4, larger);
    FOLD(2, larger);
    return v[0];
}

/* 2^x for x <= 0, to 1.2e-7 relative. */
#if defined(NOC_ISA_AVX512)
/* The fraction and the power of two are the hardware's: vreduceps, vscalefps. */
INLINE vec exp2_of(vec x)
{
    static const float c[6] = {0.99999994f,  0.693153073f,   0.240153617f,
                               0.055826318f, 0.00898933969f, 0.00187757667f};
    vec f = (vec)_mm512_reduce_ps((__m512)x, 0x09), p = splat(c[5]);
#pragma GCC unroll 5
    for (int i = 4; i >= 0; i--)
        p = p * f + c[i];
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)x);
}
#else
/* Below 2^-126 it stays there. */
INLINE vec exp2_of(vec x)
{
    static const float c[7] = {1.0f,           0.693147182f,   0.240226462f,   0.0555032864f,
                               0.00961848907f, 0.00133999309f, 0.000153458124f};
    x = larger(splat(-126.0f), x);
    vec shifted = x + 12582912.0f; /* 1.5 * 2^23: the low bits are now x rounded to an integer */
    vec f = x - (shifted - 12582912.0f), p = splat(c[6]);
#pragma GCC unroll 6
    for (int i = 5; i >= 0; i--)
        p = p * f + c[i];
    return (vec)((bits)p + ((bits)shifted << 23));
}
#endif

/* x Phi(x) to 8e-7 absolute: Phi(x) - 1/2 is x times a polynomial of x^2 up to 5.5; beyond it is 0 or x to
 * f32. */
INLINE vec gelu_of(vec x)
{
    static const float c[15] = {0.128551945f,   -0.0641723722f,  0.0477367155f,  -0.0387908146f,
                                0.0320880823f,  -0.0260776971f,  0.0202361774f,  -0.0148146069f,
                                0.0106612826f,  -0.00739237247f, 0.00388049101f, -0.00149289717f,
                                0.00134165934f, -0.00127530703f, 0.000428809552f};
    x = larger(splat(-5.5f), x);
    vec u = smaller(x, splat(5.5f));
    vec t = u * (2 / (5.5f * 5.5f)) * u - 1.0f, p = splat(c[14]);
#pragma GCC unroll 14
    for (int i = 13; i >= 0; i--)
        p = p * t + c[i];
    return x * (u * p + 0.5f);
}

INLINE vec activated(vec x, noc_activation activation)
{
    if (activation == NOC_ACTIVATION_GELU)
        return gelu_of(x);
    return activation == NOC_ACTIVATION_RELU ? larger((vec){0}, x) : x;
}

#endif
