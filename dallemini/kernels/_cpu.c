/* Products of few rows with many weights, and attention of one query: what decoding consists of.

   A general matrix product is made for many rows. With the few of a decoding step every weight is
   read for a handful of multiplications, and the speed of the memory is the limit, unless the time
   is lost elsewhere. Weights stay as they lie in the checkpoint, [outputs, inputs], mapped or not:
   nothing is packed or copied.

   This is compiled twice, for vectors of 16 LANES (AVX-512) and of 8 (AVX2): vectors that the
   processor does not have would go through memory, which is slower than torch. They are an
   extension of GCC and Clang. OpenMP is the one that torch has loaded: there is no other to link
   with.

   For either, every output is summed up in an order that depends on the number of inputs alone, so
   that a row gives the same bits in any batch and with any number of threads. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define UNROLL _Pragma("GCC unroll 8")

/* DOT adds the products of four unsigned bytes with four signed ones to each sum. EACH_SUM goes
   over a tile in the order in which GCC keeps all of it in registers: 32 of them, or 16. */
#if LANES == 16
#define ARCH "x86-64-v4"
#define VNNI_NAME "avx512vnni"
#define DOT(sums, bytes, weights)                                                                  \
    (ints)_mm512_dpbusd_epi32((__m512i)(sums), (__m512i)(bytes), (__m512i)(weights))
#define EACH_SUM(r, rows, o)                                                                       \
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int o = 0; o < OUTPUTS; o++)
#define TILES TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#elif LANES == 8
#define ARCH "x86-64-v3"
#define VNNI_NAME "avxvnni"
#define DOT(sums, bytes, weights)                                                                  \
    (ints)_mm256_dpbusd_avx_epi32((__m256i)(sums), (__m256i)(bytes), (__m256i)(weights))
#define EACH_SUM(r, rows, o)                                                                       \
    UNROLL for (int o = 0; o < OUTPUTS; o++) UNROLL for (int r = 0; r < rows; r++)
#define TILES TILE(1) TILE(2) TILE(3)
#else
#error "LANES must be 16 or 8"
#endif

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef float float_group __attribute__((vector_size(16), aligned(4)));
typedef int32_t int_group __attribute__((vector_size(16), aligned(4)));

#define INLINE static inline __attribute__((always_inline))
#define WIDE __attribute__((target("arch=" ARCH)))
#define VNNI __attribute__((target("arch=" ARCH "," VNNI_NAME)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Inputs are taken a cache line at a time: LINE floats or BYTES bytes. A tile is ROWS rows times
   OUTPUTS outputs: as many sums as there are registers for. */
enum { LINE = 16, BYTES = 64, OUTPUTS = 4, ROWS = LANES == 16 ? 6 : 3, LEVELS = 127 };
enum { HAS_FLOATS = 1, HAS_INT8 = 2 };

/* To be raised, here and in __init__.py, with every change of what the functions take: a library
   that was left over from before is then not called. */
int dallemini_interface(void) { return 2; }

/* Which of the functions below the processor can run. */
int dallemini_supports(void) {
    __builtin_cpu_init();
    int wide = __builtin_cpu_supports(ARCH), vnni = __builtin_cpu_supports(VNNI_NAME);
    return (wide ? HAS_FLOATS : 0) | (wide && vnni ? HAS_INT8 : 0);
}

/* The first output of a part of a thread; parts are multiples of OUTPUTS. */
INLINE long part(long outputs, long thread, long threads) {
    long groups = (outputs + OUTPUTS - 1) / OUTPUTS;
    return MIN(outputs, groups * thread / threads * OUTPUTS);
}

/* Sum up the lanes of four vectors: [a, b, c, d]. */
#if LANES == 16
#define FOURS(lanes, i, j) lanes(0, i, j), lanes(4, i, j), lanes(8, i, j), lanes(12, i, j)
#define FOLD(v) FOUR(v, 0) + FOUR(v, 4) + (FOUR(v, 8) + FOUR(v, 12))
#else
#define FOURS(lanes, i, j) lanes(0, i, j), lanes(4, i, j)
#define FOLD(v) FOUR(v, 0) + FOUR(v, 4)
#endif
#define FOUR(v, k) __builtin_shufflevector(v, v, k, k + 1, k + 2, k + 3)
#define CROSSED(k, i, j) k + i, LANES + k + i, k + j, LANES + k + j
#define PAIRED(k, i, j) k + i, k + j, LANES + k + i, LANES + k + j
#define CROSS(v, w, i, j) __builtin_shufflevector(v, w, FOURS(CROSSED, i, j))
#define PAIR(v, w, i, j) __builtin_shufflevector(v, w, FOURS(PAIRED, i, j))
#define DEFINE_SUM(name, wide, narrow)                                                             \
    INLINE void name(wide a, wide b, wide c, wide d, narrow *total) {                              \
        wide ab = CROSS(a, b, 0, 1) + CROSS(a, b, 2, 3);                                           \
        wide cd = CROSS(c, d, 0, 1) + CROSS(c, d, 2, 3);                                           \
        wide all = PAIR(ab, cd, 0, 1) + PAIR(ab, cd, 2, 3);                                        \
        *total = FOLD(all);                                                                        \
    }
DEFINE_SUM(sum_floats, floats, float_group)
DEFINE_SUM(sum_ints, ints, int_group)

/* ---- float32 ---- */

/* Add the products of LINE inputs; the compiler knows how many rows, `stride` apart. */
INLINE void float_line(floats sums[ROWS][OUTPUTS], const float *x, const float *w, long stride,
                       long inputs, int rows) {
    UNROLL
    for (int i = 0; i < LINE; i += LANES)
        EACH_SUM(r, rows, o)
            sums[r][o] += *(const floats *)(x + r * stride + i) *
                          *(const floats *)(w + o * inputs + i);
}

/* Some rows times OUTPUTS outputs. The last line of a row overlaps the one before it: inputs that
   were counted there are 0 here. */
INLINE void float_tile(const float *x, const float *w, float *y, long inputs, long outputs,
                       int rows) {
    floats sums[ROWS][OUTPUTS] = {{{0}}};
    long rest = inputs % LINE;
    for (long i = 0; i + LINE <= inputs; i += LINE) {
        UNROLL
        for (int o = 0; o < OUTPUTS; o++) __builtin_prefetch(w + (OUTPUTS + o) * inputs + i);
        float_line(sums, x + i, w + i, inputs, inputs, rows);
    }
    if (rest) {
        float last[ROWS * LINE] = {0};
        for (int r = 0; r < rows; r++)
            memcpy(last + r * LINE + LINE - rest, x + (r + 1) * inputs - rest,
                   rest * sizeof(float));
        float_line(sums, last, w + inputs - LINE, LINE, inputs, rows);
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
        for (long r = 0; r < rows; r += ROWS) switch (MIN(rows - r, ROWS)) { TILES }
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
    floats sums[64 / LANES] = {{0}};
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
    for (; d + 64 <= size; d += 64)
        weigh_values(values + d, scores, out + d, count, size, scale, 64 / LANES);
    for (; d < size; d += LANES)
        weigh_values(values + d, scores, out + d, count, size, scale, 1);
}

typedef struct {
    const float *query, *key, *value; /* of the present position; the last two may be NULL */
    float *keys, *values;
    const uint8_t *mask;
    const int64_t *counts; /* of each row; or NULL, and `count` is that of all */
    float *out;
    long stride, heads, count, capacity, size;
} Attention;

WIDE static void attend_heads(const Attention *a, long from, long to) {
    float scores[a->capacity + LANES];
    for (long i = from; i < to; i++) {
        long row = i / a->heads, present = row * a->stride + i % a->heads * a->size;
        long count = a->counts ? a->counts[row] : a->count, last = (count - 1) * a->size;
        float *keys = a->keys + i * a->capacity * a->size;
        float *values = a->values + i * a->capacity * a->size;
        if (a->key) {
            memcpy(keys + last, a->key + present, a->size * sizeof(float));
            memcpy(values + last, a->value + present, a->size * sizeof(float));
        }
        attend_head(a->query + present, keys, values, a->mask ? a->mask + row * a->capacity : NULL,
                    scores, a->out + i * a->size, count, a->size);
    }
}

/* out[rows, heads, size] for one query [rows, heads, size] a row; rows lie `stride` apart. Keys and
   values [rows, heads, capacity, size], as many of them filled as counts[rows] says, or `count`
   where that is NULL: the last by this call, from `key` and `value`, where these are given.
   mask [rows, capacity] or NULL; `size` is a multiple of 16. Returns 0, or 1 and does nothing where
   the cache has no such position. */
int dallemini_attend(const float *query, const float *key, const float *value, float *keys,
                     float *values, const uint8_t *mask, const int64_t *counts, float *out,
                     long rows, long stride, long heads, long count, long capacity, long size,
                     int threads) {
    Attention a = {query, key,    value, keys,  values,   mask, counts,
                   out,   stride, heads, count, capacity, size};
    long all = rows * heads, least = key ? 1 : 0;
    for (long r = 0; r < rows; r++) {
        long filled = counts ? counts[r] : count;
        if (filled < least || filled > capacity) return 1;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) attend_heads(&a, all * t / threads, all * (t + 1) / threads);
    return 0;
}

/* ---- int8 ---- */

/* Round numbers times `scale` to bytes around 128; what is left over of each goes, enlarged, to
   `rest` where there is one. Adding 1.5 * 2^23 leaves the integer in the lowest bits. */
INLINE void round_numbers(const float *restrict x, long count, float scale,
                          uint8_t *restrict bytes, uint8_t *restrict rest) {
    const float middle = 12582912 + 128;
    for (long i = 0; i < count; i++) {
        float exact = x[i] * scale, shifted = exact + middle, left;
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        bytes[i] = (uint8_t)bits;
        if (!rest) continue;
        left = (exact - (shifted - middle)) * (2 * LEVELS) + middle;
        memcpy(&bits, &left, sizeof bits);
        rest[i] = (uint8_t)bits;
    }
}

/* Round a row and return its largest absolute value, or NAN where it has none. As with floats, the
   last line overlaps the one before it; bytes that were counted there are 0 here. */
WIDE static float round_row(const float *x, long inputs, uint8_t *bytes, uint8_t *rest) {
    long tail = inputs % BYTES, whole = inputs - tail;
    int32_t most = 0; /* as bits, among which what is no number is largest */
    for (long i = 0; i < inputs; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        most = MAX(most, bits & INT32_MAX);
    }
    float norm;
    memcpy(&norm, &most, sizeof norm);
    if (norm < 1e-30f) norm = 1e-30f;
    if (!isfinite(norm)) norm = NAN;
    float scale = LEVELS / norm;
    round_numbers(x, whole, scale, bytes, rest);
    if (!tail) return norm;
    memset(bytes + whole, 0, BYTES);
    if (rest) memset(rest + whole, 0, BYTES);
    long place = whole + BYTES - tail;
    round_numbers(x + whole, tail, scale, bytes + place, rest ? rest + place : NULL);
    return norm;
}

/* Integer sums of some rows and OUTPUTS outputs. */
VNNI INLINE void byte_tile(const uint8_t *x, const int8_t *w, int_group *y, long inputs,
                           long stride, int rows) {
    ints sums[ROWS][OUTPUTS] = {{{0}}};
    for (long i = 0; i < stride; i += BYTES) {
        long place = MIN(i, inputs - BYTES);
        UNROLL
        for (int o = 0; o < OUTPUTS; o++)
            __builtin_prefetch(w + (OUTPUTS + o) * inputs + place);
        UNROLL
        for (int v = 0; v < BYTES; v += 4 * LANES)
            EACH_SUM(r, rows, o)
                sums[r][o] = DOT(sums[r][o], *(const ints *)(x + r * stride + i + v),
                                 *(const ints *)(w + o * inputs + place + v));
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        sum_ints(sums[r][0], sums[r][1], sums[r][2], sums[r][3], &y[r]);
}

/* Bytes are unsigned for the processor's sake: the sums of the first of them, a row of nothing but
   128, are what that adds. After it each row has one, or two with what is left over. */
typedef struct {
    const float *scale;
    const int8_t *w;
    float *y, *norms;
    uint8_t *bytes;
    long rows, each, inputs, outputs, stride;
} Product;

VNNI static void byte_part(const Product *p, int_group *sums, long from, long to) {
#define TILE(n)                                                                                    \
    case n: byte_tile(p->bytes + r * p->stride, w, sums + r, p->inputs, p->stride, n); break;
    long all = 1 + p->rows * p->each;
    for (long first = from; first < to; first += OUTPUTS) {
        long o = MIN(first, p->outputs - OUTPUTS); /* the last ones may be computed twice */
        const int8_t *w = p->w + o * p->inputs;
        for (long r = 0; r < all; r += ROWS) switch (MIN(all - r, ROWS)) { TILES }
        for (long r = 0; r < p->rows; r++) {
            const int_group *sum = sums + 1 + r * p->each;
            float_group total = __builtin_convertvector(sum[0] - sums[0], float_group);
            if (p->each == 2)
                total += __builtin_convertvector(sum[1] - sums[0], float_group) / (2.0f * LEVELS);
            total *= *(const float_group *)(p->scale + o) * (p->norms[r] / LEVELS);
            *(float_group *)(p->y + r * p->outputs + o) = total;
        }
    }
#undef TILE
}

/* y = x (scale w)^T with rows of x rounded to 8 bits, to 16 where `fine`; inputs >= 64,
   outputs >= 4. Returns 0, or 1 where there is no memory. */
int dallemini_linear_int8(const float *x, const int8_t *w, const float *scale, float *y, long rows,
                          long inputs, long outputs, int fine, int threads) {
    long stride = (inputs + BYTES - 1) / BYTES * BYTES, each = fine ? 2 : 1, all = 1 + rows * each;
    long room = all + 8; /* of a thread: the gap keeps two from writing to one cache line */
    int_group *sums = malloc(threads * room * sizeof *sums + rows * sizeof(float) + all * stride);
    if (!sums) return 1;
    float *norms = (float *)(sums + threads * room);
    uint8_t *bytes = (uint8_t *)(norms + rows);
    Product product = {scale, w, y, norms, bytes, rows, each, inputs, outputs, stride};
    memset(bytes, 128, stride);
    if (inputs % BYTES) memset(bytes + stride - BYTES, 0, BYTES - inputs % BYTES);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long r = 0; r < rows; r++) {
            uint8_t *row = bytes + (1 + r * each) * stride;
            norms[r] = round_row(x + r * inputs, inputs, row, fine ? row + stride : NULL);
        }
#pragma omp for schedule(static)
        for (int t = 0; t < threads; t++)
            byte_part(&product, sums + t * room, part(outputs, t, threads),
                      part(outputs, t + 1, threads));
    }
    free(sums);
    return 0;
}
