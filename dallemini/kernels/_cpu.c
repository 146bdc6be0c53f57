/* Products of few rows with many weights, and attention of one query: what decoding consists of.

   A general matrix product is made for many rows. With the few of a decoding step every weight is
   read for a handful of multiplications, and the speed of the memory is the limit, unless the time
   is lost elsewhere. Weights stay as they lie in the checkpoint, [outputs, inputs], mapped or not:
   nothing is packed or copied.

   Every output is summed up in an order that depends on the number of inputs alone, so that a row
   gives the same bits in any batch and with any number of threads.

   The vectors of 512 bits are an extension of GCC and Clang, and only for processors that have
   them: halves would go through memory, which is slower than torch. OpenMP is the one that torch
   has loaded: there is no other to link with. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float floats __attribute__((vector_size(64), aligned(4)));
typedef int32_t ints __attribute__((vector_size(64), aligned(4)));
typedef float float_group __attribute__((vector_size(16), aligned(4)));
typedef int32_t int_group __attribute__((vector_size(16), aligned(4)));

#define INLINE static inline __attribute__((always_inline))
#define WIDE __attribute__((target("arch=x86-64-v4")))
#define VNNI __attribute__((target("arch=x86-64-v4,avx512vnni")))
#define UNROLL _Pragma("GCC unroll 8")
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

enum { LANES = 16, BYTES = 64, OUTPUTS = 4, FLOAT_ROWS = 6, BYTE_ROWS = 5, LEVELS = 127 };
enum { HAS_FLOATS = 1, HAS_INT8 = 2 };

/* To be raised, here and in __init__.py, with every change of what the functions take: a library
   that was left over from before is then not called. */
int dallemini_interface(void) { return 1; }

/* Which of the functions below the processor can run. */
int dallemini_supports(void) {
    __builtin_cpu_init();
    int wide = __builtin_cpu_supports("x86-64-v4"), vnni = __builtin_cpu_supports("avx512vnni");
    return (wide ? HAS_FLOATS : 0) | (wide && vnni ? HAS_INT8 : 0);
}

/* The first output of a part of a thread; parts are multiples of OUTPUTS. */
INLINE long part(long outputs, long thread, long threads) {
    long groups = (outputs + OUTPUTS - 1) / OUTPUTS;
    return MIN(outputs, groups * thread / threads * OUTPUTS);
}

/* Sum up the lanes of four vectors: [a, b, c, d]. */
#define UNPACK(v, w, i, j)                                                                         \
    __builtin_shufflevector(v, w, i, 16 + i, j, 16 + j, 4 + i, 20 + i, 4 + j, 20 + j, 8 + i,       \
                            24 + i, 8 + j, 24 + j, 12 + i, 28 + i, 12 + j, 28 + j)
#define PAIRS(v, w, i, j)                                                                          \
    __builtin_shufflevector(v, w, i, j, 16 + i, 16 + j, 4 + i, 4 + j, 20 + i, 20 + j, 8 + i,       \
                            8 + j, 24 + i, 24 + j, 12 + i, 12 + j, 28 + i, 28 + j)
#define DEFINE_SUM(name, wide, narrow)                                                             \
    INLINE void name(wide a, wide b, wide c, wide d, narrow *total) {                              \
        wide ab = UNPACK(a, b, 0, 1) + UNPACK(a, b, 2, 3);                                         \
        wide cd = UNPACK(c, d, 0, 1) + UNPACK(c, d, 2, 3);                                         \
        wide all = PAIRS(ab, cd, 0, 1) + PAIRS(ab, cd, 2, 3);                                      \
        *total = __builtin_shufflevector(all, all, 0, 1, 2, 3) +                                   \
                 __builtin_shufflevector(all, all, 4, 5, 6, 7) +                                   \
                 (__builtin_shufflevector(all, all, 8, 9, 10, 11) +                                \
                  __builtin_shufflevector(all, all, 12, 13, 14, 15));                              \
    }
DEFINE_SUM(sum_floats, floats, float_group)
DEFINE_SUM(sum_ints, ints, int_group)

/* ---- float32 ---- */

/* The last vector of a row overlaps the one before it; lanes that were counted there are 0 here. */
INLINE floats last_floats(const float *row, long inputs) {
    float lanes[LANES] = {0};
    long rest = inputs % LANES;
    memcpy(lanes + LANES - rest, row + inputs - rest, rest * sizeof(float));
    return *(const floats *)lanes;
}

/* Some rows times OUTPUTS outputs; the compiler knows how many rows. */
INLINE void float_tile(const float *x, const float *w, float *y, long inputs, long outputs,
                       int rows) {
    floats sums[FLOAT_ROWS][OUTPUTS] = {{{0}}};
    for (long i = 0; i + LANES <= inputs; i += LANES) {
        UNROLL
        for (int o = 0; o < OUTPUTS; o++) __builtin_prefetch(w + (OUTPUTS + o) * inputs + i);
        UNROLL
        for (int r = 0; r < rows; r++)
        UNROLL
            for (int o = 0; o < OUTPUTS; o++)
                sums[r][o] += *(const floats *)(x + r * inputs + i) *
                              *(const floats *)(w + o * inputs + i);
    }
    if (inputs % LANES)
        UNROLL
        for (int r = 0; r < rows; r++) {
            floats last = last_floats(x + r * inputs, inputs);
            UNROLL
            for (int o = 0; o < OUTPUTS; o++)
                sums[r][o] += last * *(const floats *)(w + (o + 1) * inputs - LANES);
        }
    UNROLL
    for (int r = 0; r < rows; r++)
        sum_floats(sums[r][0], sums[r][1], sums[r][2], sums[r][3],
                   (float_group *)(y + r * outputs));
}

WIDE static void float_part(const float *x, const float *w, float *y, long rows, long inputs,
                            long outputs, long from, long to) {
#define TILE(n)                                                                                    \
    case n:                                                                                        \
        float_tile(x + r * inputs, w + o * inputs, y + r * outputs + o, inputs, outputs, n);       \
        break;
    for (long first = from; first < to; first += OUTPUTS) {
        long o = MIN(first, outputs - OUTPUTS); /* the last ones may be computed twice */
        for (long r = 0; r < rows; r += FLOAT_ROWS) switch (MIN(rows - r, FLOAT_ROWS)) {
                TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
            }
    }
#undef TILE
}

/* y[rows, outputs] = x[rows, inputs] w[outputs, inputs]^T; inputs >= 16, outputs >= 4. */
void dallemini_linear_float(const float *x, const float *w, float *y, long rows, long inputs,
                            long outputs, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++)
        float_part(x, w, y, rows, inputs, outputs, part(outputs, t, threads),
                   part(outputs, t + 1, threads));
}

/* ---- attention ---- */

/* e to the power of numbers up to 0: a power of 2 times a Taylor series around 0. */
INLINE floats exp_floats(floats v) {
    ints doublings = __builtin_convertvector(v * 1.44269504f - 0.5f, ints);
    floats n = __builtin_convertvector(doublings, floats);
    floats x = v - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts */
    floats series = 1 + x * (1 + x * (1 / 2.0f + x * (1 / 6.0f + x * (1 / 24.0f + x * (1 / 120.0f + x / 720)))));
    floats power = (floats)((doublings + 127) << 23);
    return (floats)((ints)(series * power) & ~(v <= -87.0f)); /* what is smaller is 0 */
}

/* Scores of the first `count` keys, divided by their norm's usual size, where the mask allows;
   minus infinity elsewhere, up to a multiple of LANES. Returns the largest. */
INLINE float score_keys(const float *query, const float *keys, const uint8_t *mask, float *scores,
                        long count, long size) {
    float scale = 1 / sqrtf((float)size), most = -INFINITY;
    for (long t = 0; t < count; t += 4) {
        const float *key[4];
        floats sums[4] = {{0}};
        for (int k = 0; k < 4; k++) key[k] = keys + MIN(t + k, count - 1) * size;
        for (long d = 0; d < size; d += LANES)
            UNROLL
            for (int k = 0; k < 4; k++) sums[k] += *(const floats *)(query + d) * *(const floats *)(key[k] + d);
        sum_floats(sums[0], sums[1], sums[2], sums[3], (float_group *)(scores + t));
    }
    for (long t = 0; t < (count + LANES - 1) / LANES * LANES; t++) {
        scores[t] = t < count && (!mask || mask[t]) ? scores[t] * scale : -INFINITY;
        most = MAX(most, scores[t]);
    }
    return most;
}

/* The sum of weighted values, of `width` vectors of each. */
INLINE void weigh_values(const float *values, const float *weights, float *out, long count,
                         long size, float scale, int width) {
    floats sums[4] = {{0}};
    for (long t = 0; t < count; t++)
        UNROLL
        for (int i = 0; i < width; i++)
            sums[i] += weights[t] * *(const floats *)(values + t * size + i * LANES);
    UNROLL
    for (int i = 0; i < width; i++) *(floats *)(out + i * LANES) = sums[i] * scale;
}

/* One head of one row: softmax of the scores, times the values; zeros where nothing is seen. */
INLINE void attend_head(const float *query, const float *keys, const float *values,
                        const uint8_t *mask, float *scores, float *out, long count, long size) {
    float most = score_keys(query, keys, mask, scores, count, size), total = 0;
    if (most == -INFINITY) most = 0;
    for (long t = 0; t < count; t += LANES)
        *(floats *)(scores + t) = exp_floats(*(floats *)(scores + t) - most);
    for (long t = 0; t < count; t++) total += scores[t];
    float scale = total == 0 ? 0 : 1 / total;
    long d = 0;
    for (; d + 4 * LANES <= size; d += 4 * LANES)
        weigh_values(values + d, scores, out + d, count, size, scale, 4);
    for (; d < size; d += LANES)
        weigh_values(values + d, scores, out + d, count, size, scale, 1);
}

typedef struct {
    const float *query, *key, *value; /* of the present position; the last two may be NULL */
    float *keys, *values;
    const uint8_t *mask;
    float *out;
    long stride, heads, count, capacity, size;
} Attention;

WIDE static void attend_heads(const Attention *a, long from, long to) {
    float scores[a->count + LANES];
    for (long i = from; i < to; i++) {
        long row = i / a->heads, present = row * a->stride + i % a->heads * a->size;
        float *keys = a->keys + i * a->capacity * a->size;
        float *values = a->values + i * a->capacity * a->size;
        if (a->key) {
            memcpy(keys + (a->count - 1) * a->size, a->key + present, a->size * sizeof(float));
            memcpy(values + (a->count - 1) * a->size, a->value + present, a->size * sizeof(float));
        }
        attend_head(a->query + present, keys, values, a->mask ? a->mask + row * a->count : NULL,
                    scores, a->out + i * a->size, a->count, a->size);
    }
}

/* out[rows, heads, size] for one query [rows, heads, size] a row; rows lie `stride` apart. Keys and
   values [rows, heads, capacity, size], `count` of them filled: the last by this call, from `key`
   and `value`, where these are given. mask [rows, count] or NULL; `size` is a multiple of 16. */
void dallemini_attend(const float *query, const float *key, const float *value, float *keys,
                      float *values, const uint8_t *mask, float *out, long rows, long stride,
                      long heads, long count, long capacity, long size, int threads) {
    Attention a = {query, key, value, keys, values, mask, out, stride, heads, count, capacity, size};
    long all = rows * heads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) attend_heads(&a, all * t / threads, all * (t + 1) / threads);
}

/* ---- int8 ---- */

/* Round LANES numbers, or fewer, to bytes around 128, `scale` of them to 1; what is left over of
   each goes, enlarged, to `rest` where there is one. */
VNNI INLINE void round_lanes(const float *x, long count, __m512 scale, uint8_t *bytes,
                             uint8_t *rest) {
    __mmask16 mask = count < LANES ? (__mmask16)((1u << count) - 1) : 0xffff;
    __m512 exact = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x), scale);
    __m512i rounded = _mm512_cvtps_epi32(exact), middle = _mm512_set1_epi32(128);
    _mm512_mask_cvtepi32_storeu_epi8(bytes, mask, _mm512_add_epi32(rounded, middle));
    if (!rest) return;
    __m512 left = _mm512_sub_ps(exact, _mm512_cvtepi32_ps(rounded));
    rounded = _mm512_cvtps_epi32(_mm512_mul_ps(left, _mm512_set1_ps(2 * LEVELS)));
    _mm512_mask_cvtepi32_storeu_epi8(rest, mask, _mm512_add_epi32(rounded, middle));
}

/* Round a row and return its largest absolute value. As with floats, the last vector overlaps the
   one before it; bytes that were counted there are 0 here. */
VNNI static float round_row(const float *x, long inputs, uint8_t *bytes, uint8_t *rest) {
    long tail = inputs % BYTES, whole = inputs - tail;
    __m512i most = _mm512_setzero_si512(); /* as bits, among which what is no number is largest */
    for (long i = 0; i < inputs; i += LANES) {
        __mmask16 mask = inputs - i < LANES ? (__mmask16)((1u << (inputs - i)) - 1) : 0xffff;
        __m512 size = _mm512_abs_ps(_mm512_maskz_loadu_ps(mask, x + i));
        most = _mm512_max_epi32(most, _mm512_castps_si512(size));
    }
    int32_t bits = _mm512_reduce_max_epi32(most);
    float norm;
    memcpy(&norm, &bits, sizeof norm);
    if (norm < 1e-30f) norm = 1e-30f;
    __m512 scale = _mm512_set1_ps(LEVELS / norm);
    if (tail) memset(bytes + whole, 0, BYTES);
    if (tail && rest) memset(rest + whole, 0, BYTES);
    for (long i = 0; i < inputs; i += LANES) {
        long place = i < whole ? i : i + BYTES - tail;
        round_lanes(x + i, inputs - i, scale, bytes + place, rest ? rest + place : NULL);
    }
    return norm;
}

/* Integer sums of some rows and OUTPUTS outputs. Bytes are unsigned for the processor's sake: the
   sum of a row of nothing but 128 is what that adds. */
VNNI INLINE void byte_tile(const uint8_t *x, const uint8_t *zeros, const int8_t *w, int_group *y,
                           long inputs, long stride, int rows) {
    ints sums[BYTE_ROWS + 1][OUTPUTS] = {{{0}}};
    for (long i = 0; i < stride; i += BYTES) {
        long place = MIN(i, inputs - BYTES);
        __m512i weight[OUTPUTS];
        for (int o = 0; o < OUTPUTS; o++) {
            weight[o] = _mm512_loadu_si512(w + o * inputs + place);
            __builtin_prefetch(w + (OUTPUTS + o) * inputs + place);
        }
        UNROLL
        for (int r = 0; r <= rows; r++) {
            __m512i bytes = _mm512_loadu_si512(r < rows ? x + r * stride + i : zeros + i);
        UNROLL
            for (int o = 0; o < OUTPUTS; o++)
                sums[r][o] = (ints)_mm512_dpbusd_epi32((__m512i)sums[r][o], bytes, weight[o]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        ints *s = sums[r], *zero = sums[rows];
        sum_ints(s[0] - zero[0], s[1] - zero[1], s[2] - zero[2], s[3] - zero[3],
                 &y[r]);
    }
}

typedef struct {
    const float *x, *scale;
    const int8_t *w;
    float *y, *norms;
    uint8_t *bytes, *rest, *zeros; /* rounded rows, what is left over (or NULL), and 128s */
    long rows, inputs, outputs, stride;
} Product;

VNNI INLINE void byte_outputs(const Product *p, long r, long o, int rows) {
    int_group sums[BYTE_ROWS], rest[BYTE_ROWS];
    const int8_t *w = p->w + o * p->inputs;
    byte_tile(p->bytes + r * p->stride, p->zeros, w, sums, p->inputs, p->stride, rows);
    if (p->rest)
        byte_tile(p->rest + r * p->stride, p->zeros, w, rest, p->inputs, p->stride, rows);
    for (int i = 0; i < rows; i++) {
        float_group total = __builtin_convertvector(sums[i], float_group);
        if (p->rest) total += __builtin_convertvector(rest[i], float_group) / (2.0f * LEVELS);
        total *= *(const float_group *)(p->scale + o) * (p->norms[r + i] / LEVELS);
        *(float_group *)(p->y + (r + i) * p->outputs + o) = total;
    }
}

VNNI static void byte_part(const Product *p, long from, long to) {
#define TILE(n)                                                                                    \
    case n: byte_outputs(p, r, o, n); break;
    for (long first = from; first < to; first += OUTPUTS) {
        long o = MIN(first, p->outputs - OUTPUTS); /* the last ones may be computed twice */
        for (long r = 0; r < p->rows; r += BYTE_ROWS)
            switch (MIN(p->rows - r, BYTE_ROWS)) { TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) }
    }
#undef TILE
}

/* y = x (scale w)^T with rows of x rounded to 8 bits, to 16 where `fine`; inputs >= 64,
   outputs >= 4. Returns 0, or 1 where there is no memory. */
int dallemini_linear_int8(const float *x, const int8_t *w, const float *scale, float *y, long rows,
                          long inputs, long outputs, int fine, int threads) {
    long stride = (inputs + BYTES - 1) / BYTES * BYTES, size = rows * stride;
    float *norms = malloc(rows * sizeof(float) + (fine ? 2 : 1) * size + stride);
    if (!norms) return 1;
    uint8_t *bytes = (uint8_t *)(norms + rows), *rest = fine ? bytes + size : NULL;
    uint8_t *zeros = bytes + (fine ? 2 : 1) * size;
    Product product = {x, scale, w, y, norms, bytes, rest, zeros, rows, inputs, outputs, stride};
    memset(zeros, 128, stride);
    if (inputs % BYTES) memset(zeros + stride - BYTES, 0, BYTES - inputs % BYTES);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long r = 0; r < rows; r++)
            norms[r] = round_row(x + r * inputs, inputs, bytes + r * stride,
                                 rest ? rest + r * stride : NULL);
#pragma omp for schedule(static)
        for (int t = 0; t < threads; t++)
            byte_part(&product, part(outputs, t, threads), part(outputs, t + 1, threads));
    }
    free(norms);
    return 0;
}
