/* Products of few rows with many weights, and attention of few queries: what decoding consists of.

   A general matrix product is made for many rows. With the few of a decoding step every weight is
   read for a handful of multiplications, and the speed of the memory is the limit, unless the time
   is lost elsewhere. Weights stay as they lie in the checkpoint, [outputs, inputs], mapped or not:
   nothing is packed or copied.

   This is compiled for vectors of 16 LANES, of 8 and of 4, each time by a file that includes this
   one; _target.h has what processors differ in.

   For each, every output is summed up in an order that depends on the number of inputs alone, so
   that a row gives the same bits in any batch and with any number of threads. */

#include "_target.h"

#include "_pool.h"

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
typedef float float_group __attribute__((vector_size(16), aligned(4)));
typedef int32_t int_group __attribute__((vector_size(16), aligned(4)));

#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Inputs are taken a cache line at a time: LINE floats or BYTES bytes. A tile is ROWS rows times
   OUTPUTS outputs: as many sums as there are registers for. WEIGHED values are summed up at once. */
enum { LINE = 16, BYTES = 64, LEVELS = 127, FEW = 8, WEIGHED = LANES > 8 ? 64 : 8 * LANES };

/* To be raised, here and in __init__.py, with every change of what the functions take: a library
   that was left over from before is then not called. */
int dallemini_interface(void) { return 5; }

/* Whether the processor can run the functions below. */
int dallemini_supports(void) { return has_vectors(); }

/* Clang does not pass vectors to a function without them, though it is inlined. */
#if defined(__clang__) && defined(ARCH)
#pragma clang attribute push(__attribute__((target("arch=" ARCH))), apply_to = function)
#endif

/* How many equal parts of some work make a chunk, so that a chunk takes some microseconds: what is
   smaller than two of them is done by the caller alone. A part costs what it reads, in bytes, and
   a row more than the first ones costs arithmetic. */
INLINE long chunk_size(long bytes, long rows) {
    const long chunk = 128 << 10;
    return MAX(1, chunk / MAX(1, bytes + bytes * rows / 8));
}

INLINE long divide_up(long count, long size) { return (count + size - 1) / size; }

/* Where a chunk of `size` outputs, a multiple of OUTPUTS, ends: the last one takes those that are
   fewer than OUTPUTS with it, as it computes some of its own twice for them. */
INLINE long chunk_end(long from, long size, long outputs) {
    return outputs - from - size < OUTPUTS ? outputs : from + size;
}

/* Sum up the lanes of four vectors: [a, b, c, d]. */
#if LANES == 16
#define FOURS(lanes, i, j) lanes(0, i, j), lanes(4, i, j), lanes(8, i, j), lanes(12, i, j)
#define FOLD(v) FOUR(v, 0) + FOUR(v, 4) + (FOUR(v, 8) + FOUR(v, 12))
#elif LANES == 8
#define FOURS(lanes, i, j) lanes(0, i, j), lanes(4, i, j)
#define FOLD(v) FOUR(v, 0) + FOUR(v, 4)
#else
#define FOURS(lanes, i, j) lanes(0, i, j)
#define FOLD(v) v
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

typedef struct {
    const float *x, *w;
    float *y;
    long rows, inputs, outputs, size; /* of a chunk */
} FloatProduct;

static void float_chunk(void *context, long chunk, long thread) {
    const FloatProduct *p = context;
    long from = chunk * p->size, to = chunk_end(from, p->size, p->outputs);
    (void)thread;
    float_part(p->x, p->w, p->y, p->rows, p->inputs, p->outputs, from, to);
}

/* y[rows, outputs] = x[rows, inputs] w[outputs, inputs]^T; inputs >= 16, outputs >= 4. */
void dallemini_linear_float(const float *x, const float *w, float *y, long rows, long inputs,
                            long outputs, int threads) {
    long size = OUTPUTS * chunk_size(OUTPUTS * inputs * sizeof(float), rows);
    FloatProduct product = {x, w, y, rows, inputs, outputs, size};
    run_chunks(float_chunk, &product, divide_up(outputs / OUTPUTS * OUTPUTS, size), threads);
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
    floats sums[WEIGHED / LANES] = {{0}};
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
    for (; d + WEIGHED <= size; d += WEIGHED)
        weigh_values(values + d, scores, out + d, count, size, scale, WEIGHED / LANES);
    for (; d < size; d += LANES)
        weigh_values(values + d, scores, out + d, count, size, scale, 1);
}

typedef struct {
    const float *query, *key, *value; /* of the present positions; the last two may be NULL */
    float *keys, *values;
    const uint8_t *mask;
    const int64_t *counts; /* of each row; or NULL, and `count` is that of all */
    float *out;
    long rows, stride, heads, queries, count, capacity, size, each; /* heads of a chunk */
} Attention;

/* Queries are taken one by one, so that each gives the same bits alone and beside others. */
WIDE static void attend_heads(const Attention *a, long from, long to) {
    float scores[a->capacity + LANES];
    for (long i = from; i < to; i++) {
        long row = i / a->heads, head = i % a->heads * a->size, first = row * a->queries;
        long count = a->counts ? a->counts[row] : a->count;
        float *keys = a->keys + i * a->capacity * a->size;
        float *values = a->values + i * a->capacity * a->size;
        for (long q = 0; q < a->queries; q++) {
            long present = (first + q) * a->stride + head, seen = a->key ? count + q : count;
            if (a->key) {
                long last = (seen - 1) * a->size;
                memcpy(keys + last, a->key + present, a->size * sizeof(float));
                memcpy(values + last, a->value + present, a->size * sizeof(float));
            }
            attend_head(a->query + present, keys, values,
                        a->mask ? a->mask + row * a->capacity : NULL, scores,
                        a->out + (first + q) * a->heads * a->size + head, seen, a->size);
        }
    }
}

static void attend_chunk(void *context, long chunk, long thread) {
    const Attention *a = context;
    long from = chunk * a->each, to = MIN(a->rows * a->heads, from + a->each);
    (void)thread;
    attend_heads(a, from, to);
}

/* out[rows, queries, heads, size] for as many queries, which lie `stride` apart. Keys and values
   [rows, heads, capacity, size], as many of them filled as counts[rows] says, or `count` where that
   is NULL. Where `key` and `value` are given, they become the last of these, and those of each
   query after the first one more, which the queries before do not see.
   mask [rows, capacity] or NULL; `size` is a multiple of 16. Returns 0, or 1 and does nothing where
   the cache has no such position. */
int dallemini_attend(const float *query, const float *key, const float *value, float *keys,
                     float *values, const uint8_t *mask, const int64_t *counts, float *out,
                     long rows, long stride, long heads, long queries, long count, long capacity,
                     long size, int threads) {
    long least = key ? 1 : 0, more = key ? queries - 1 : 0, most = 1;
    for (long r = 0; r < rows; r++) {
        long filled = counts ? counts[r] : count;
        if (filled < least || filled > capacity - more) return 1;
        most = MAX(most, filled + more);
    }
    long each = chunk_size(2 * most * size * sizeof(float) * queries, 1);
    Attention a = {query,  key,   value,   keys,  values,   mask, counts, out, rows,
                   stride, heads, queries, count, capacity, size, each};
    run_chunks(attend_chunk, &a, divide_up(rows * heads, each), threads);
    return 0;
}

/* ---- int8 ---- */

/* A first row, of nothing but what stands for 0, and after it one for each, or two with what is
   left over. `stride` numbers are in a row. */
typedef struct {
    const float *x, *scale;
    const int8_t *w;
    float *y, *norms;
    void *numbers;
    int_group *sums; /* `room` for each thread */
    long rows, each, all, inputs, outputs, stride, room, size; /* of a chunk */
} Product;

/* The largest absolute value, or NAN where there is none. */
WIDE static float largest(const float *x, long count) {
    int32_t most = 0; /* as bits, among which what is no number is largest */
    for (long i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        most = MAX(most, bits & INT32_MAX);
    }
    float norm;
    memcpy(&norm, &most, sizeof norm);
    if (norm < 1e-30f) norm = 1e-30f;
    return isfinite(norm) ? norm : NAN;
}

/* The processor multiplies bytes, and adds four products to each sum. */
#define VARIANT(name) name##_dots
#define TARGET DOTS
#define NUMBER BYTE
#define ZERO BYTE_ZERO
#define STEP (4 * LANES)
#define DOT(sum, x, w) DOT_BYTES(sum, x, w)
#include "_bytes.h"

/* It multiplies 16 bits, and adds two products. */
#define VARIANT(name) name##_plain
#define TARGET WIDE
#define NUMBER int16_t
#define ZERO 0
#define STEP (2 * LANES)
#define DOT(sum, x, w) DOT_WORDS(sum, x, w)
#include "_bytes.h"

/* y = x (scale w)^T with rows of x rounded to 8 bits, to 16 where `fine`; inputs >= 64,
   outputs >= 4. Returns 0, or 1 where there is no memory. */
int dallemini_linear_int8(const float *x, const int8_t *w, const float *scale, float *y, long rows,
                          long inputs, long outputs, int fine, int threads) {
    int dots = has_dots();
    long stride = divide_up(inputs, BYTES) * BYTES, each = fine ? 2 : 1, all = 1 + rows * each;
    long room = all + 8; /* the gap keeps two from writing to one cache line */
    long bytes = threads * room * sizeof(int_group) + rows * sizeof(float);
    int_group *sums = malloc(bytes + all * stride * (dots ? 1 : 2));
    if (!sums) return 1;
    float *norms = (float *)(sums + threads * room);
    long size = OUTPUTS * chunk_size(OUTPUTS * inputs, all);
    Product product = {x,    scale, w,   y,      norms,   norms + rows, sums, rows,
                       each, all,   inputs, outputs, stride, room, size};
    (dots ? multiply_dots : multiply_plain)(&product, threads);
    free(sums);
    return 0;
}

#include "_layer.h"

#if defined(__clang__) && defined(ARCH)
#pragma clang attribute pop
#endif
