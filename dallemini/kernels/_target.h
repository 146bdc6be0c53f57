/* What processors differ in: how wide their vectors of floats are, how bytes are multiplied, and how
   to ask for either. Included by _cpu.c for vectors of LANES floats: 16 (AVX-512), 8 (AVX2), or 4
   (NEON of 64-bit ARM). Vectors that the processor does not have would go through memory, which is
   slower than torch. They are an extension of GCC and Clang.

   WIDE marks functions that use the vectors, DOTS those that multiply bytes in one instruction,
   where `has_dots`. DOT_BYTES multiplies rows of BYTE, in which BYTE_ZERO stands for nothing, with
   signed bytes, and adds four products to each sum; DOT_WORDS multiplies 16 bits, and adds two.

   EACH_SUM goes over a tile of ROWS times OUTPUTS sums in the order in which GCC keeps all of it in
   registers: there are 32 of them, or 16. KEEP makes a vector or a number be computed there and then:
   GCC would add up several products first, in memory, or make a product a part of a sum. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define ROWS_FIRST(r, rows, o)                                                                     \
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < OUTPUTS; o++)
#define OUTPUTS_FIRST(r, rows, o)                                                                  \
    UNROLL for (int o = 0; o < OUTPUTS; o++) UNROLL for (int r = 0; r < rows; r++)
#define KEEP(v) __asm__("" : "+" REGISTER(v))
#define SIX_TILES TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
enum { OUTPUTS = 4 };

#if LANES == 4

#ifndef __aarch64__
#error "NEON is for 64-bit ARM"
#endif
#include <arm_neon.h>
#ifdef __linux__
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define WIDE
#define DOTS __attribute__((target("arch=armv8.2-a+dotprod")))
#define DOT_BYTES(sum, x, w) vdotq_s32(sum, vld1q_s8(x), vld1q_s8(w))
#define DOT_WORDS(sum, x, w) add_words(sum, vld1q_s16(x), vmovl_s8(vld1_s8(w)))
#define EACH_SUM ROWS_FIRST
#define TILES SIX_TILES
#define REGISTER "w"
enum { BYTE_ZERO = 0, ROWS = 6 };
typedef int8_t BYTE;
typedef int32x4_t vector;
typedef float32x4_t norm_lanes;

INLINE vector add_words(vector sum, int16x8_t x, int16x8_t w) {
    sum = vmlal_s16(sum, vget_low_s16(x), vget_low_s16(w));
    return vmlal_high_s16(sum, x, w);
}

INLINE norm_lanes fused(norm_lanes a, norm_lanes b, norm_lanes sum) { return vfmaq_f32(sum, a, b); }

INLINE int has_vectors(void) { return 1; }

INLINE int has_dots(void) {
#if defined(__linux__)
    return !!(getauxval(AT_HWCAP) & HWCAP_ASIMDDP);
#elif defined(__APPLE__) /* all of whose processors have them */
    return 1;
#else
    return 0;
#endif
}

INLINE void rest_a_moment(void) { __asm__ volatile("yield"); }

/* How floating-point numbers are rounded, and whether the smallest become 0. */
INLINE unsigned float_mode(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}

INLINE void set_float_mode(unsigned mode) {
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
}

#elif LANES == 8 || LANES == 16

#ifndef __x86_64__
#error "AVX is for x86-64"
#endif
#include <immintrin.h>

#if LANES == 16
#define ARCH "x86-64-v4"
#define DOTS_NAME "avx512vnni"
#define DOT_BYTES(sum, x, w) _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(x), _mm512_loadu_si512(w))
#define WORDS(w) _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)(w)))
#define DOT_WORDS(sum, x, w)                                                                       \
    _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_loadu_si512(x), WORDS(w)))
#define EACH_SUM ROWS_FIRST
#define TILES SIX_TILES
enum { ROWS = 6 };
typedef __m512i vector;
#else
#define ARCH "x86-64-v3"
#define DOTS_NAME "avxvnni"
#define LOAD(x) _mm256_loadu_si256((const void *)(x))
#define DOT_BYTES(sum, x, w) _mm256_dpbusd_avx_epi32(sum, LOAD(x), LOAD(w))
#define WORDS(w) _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(w)))
#define DOT_WORDS(sum, x, w) _mm256_add_epi32(sum, _mm256_madd_epi16(LOAD(x), WORDS(w)))
#define EACH_SUM OUTPUTS_FIRST
#define TILES TILE(1) TILE(2) TILE(3)
enum { ROWS = 3 };
typedef __m256i vector;
#endif

#define WIDE __attribute__((target("arch=" ARCH)))
#define DOTS __attribute__((target("arch=" ARCH "," DOTS_NAME)))
#define REGISTER "v"
enum { BYTE_ZERO = 128 };
typedef uint8_t BYTE;
typedef float norm_lanes __attribute__((vector_size(32)));

WIDE INLINE norm_lanes fused(norm_lanes a, norm_lanes b, norm_lanes sum) {
    return (norm_lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
}

/* Whether the processor has what ARCH and DOTS_NAME mean. Older Clangs know the parts only. */
#define HAS(name) !!__builtin_cpu_supports(name)
#ifndef __clang__
#define HAS_ARCH HAS(ARCH)
#define HAS_DOTS HAS(DOTS_NAME)
#elif LANES == 16
#define HAS_ARCH                                                                                   \
    (HAS("avx512f") && HAS("avx512bw") && HAS("avx512cd") && HAS("avx512dq") && HAS("avx512vl"))
#define HAS_DOTS HAS(DOTS_NAME)
#else
#define HAS_ARCH (HAS("avx2") && HAS("fma") && HAS("bmi2"))
#define HAS_DOTS 0
#endif

INLINE int has_vectors(void) {
    __builtin_cpu_init();
    return HAS_ARCH;
}

INLINE int has_dots(void) {
    __builtin_cpu_init();
    return HAS_DOTS;
}

INLINE void rest_a_moment(void) { _mm_pause(); }

/* How floating-point numbers are rounded, and whether the smallest become 0. */
INLINE unsigned float_mode(void) { return _mm_getcsr(); }

INLINE void set_float_mode(unsigned mode) { _mm_setcsr(mode); }

#else
#error "LANES must be 16, 8 or 4"
#endif
