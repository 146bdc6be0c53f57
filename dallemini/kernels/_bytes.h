/* Products of int8 weights: included by _cpu.c once for processors that multiply bytes and once
   for those that do not. VARIANT names the functions and TARGET says what they may use. NUMBER is what rows are
   rounded to, and ZERO what stands for nothing in it; DOT adds products of STEP numbers to a sum.
   Sums of integers are exact, so all processors agree. */

/* Round numbers times `scale` to integers around ZERO; what is left over of each goes, enlarged, to
   `rest` where there is one. Adding 1.5 * 2^23 leaves the integer in the lowest bits. */
INLINE void VARIANT(round_numbers)(const float *restrict x, long count, float scale,
                                   NUMBER *restrict numbers, NUMBER *restrict rest) {
    const float middle = 12582912 + ZERO;
    for (long i = 0; i < count; i++) {
        float exact = x[i] * scale, shifted = exact + middle, left;
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        numbers[i] = (NUMBER)bits;
        if (!rest) continue;
        left = (exact - (shifted - middle)) * (2 * LEVELS) + middle;
        memcpy(&bits, &left, sizeof bits);
        rest[i] = (NUMBER)bits;
    }
}

/* Round a row and return its largest absolute value, or NAN where it has none. As with floats, the
   last line overlaps the one before it; numbers that were counted there are 0 here. */
WIDE static float VARIANT(round_row)(const float *x, long inputs, NUMBER *numbers, NUMBER *rest) {
    long tail = inputs % BYTES, whole = inputs - tail;
    float norm = largest(x, inputs), scale = LEVELS / norm;
    VARIANT(round_numbers)(x, whole, scale, numbers, rest);
    if (!tail) return norm;
    memset(numbers + whole, 0, BYTES * sizeof(NUMBER));
    if (rest) memset(rest + whole, 0, BYTES * sizeof(NUMBER));
    long place = whole + BYTES - tail;
    VARIANT(round_numbers)(x + whole, tail, scale, numbers + place, rest ? rest + place : NULL);
    return norm;
}

/* Integer sums of some rows and OUTPUTS outputs. */
TARGET INLINE void VARIANT(byte_tile)(const NUMBER *x, const int8_t *w, int_group *y, long inputs,
                                      long stride, int rows) {
    vector sums[ROWS][OUTPUTS] = {{{0}}};
    for (long i = 0; i < stride; i += BYTES) {
        long place = MIN(i, inputs - BYTES);
        UNROLL
        for (int o = 0; o < OUTPUTS; o++)
            __builtin_prefetch(w + (OUTPUTS + o) * inputs + place);
        UNROLL
        for (int v = 0; v < BYTES; v += STEP)
            EACH_SUM(r, rows, o) {
                sums[r][o] = DOT(sums[r][o], x + r * stride + i + v, w + o * inputs + place + v);
                KEEP(sums[r][o]);
            }
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        sum_ints((ints)sums[r][0], (ints)sums[r][1], (ints)sums[r][2], (ints)sums[r][3], &y[r]);
}

TARGET static void VARIANT(byte_part)(const Product *p, int_group *sums, long from, long to) {
#define TILE(n)                                                                                    \
    case n: VARIANT(byte_tile)(x + r * p->stride, w, sums + r, p->inputs, p->stride, n); break;
    const NUMBER *x = p->numbers;
    int first = ZERO ? 1 : 0; /* the first row is of nothing but ZERO, where that is not 0 */
    for (long group = from; group < to; group += OUTPUTS) {
        long o = MIN(group, p->outputs - OUTPUTS); /* the last ones may be computed twice */
        const int8_t *w = p->w + o * p->inputs;
        for (long r = 1 - first; r < p->all; r += ROWS) switch (MIN(p->all - r, ROWS)) { TILES }
        for (long r = 0; r < p->rows; r++) {
            const int_group *sum = sums + 1 + r * p->each;
            int_group zeros = first ? sums[0] : (int_group){0};
            float_group total = __builtin_convertvector(sum[0] - zeros, float_group);
            if (p->each == 2)
                total += __builtin_convertvector(sum[1] - zeros, float_group) / (2.0f * LEVELS);
            total *= *(const float_group *)(p->scale + o) * (p->norms[r] / LEVELS);
            *(float_group *)(p->y + r * p->outputs + o) = total;
        }
    }
#undef TILE
}

static void VARIANT(round_chunk)(void *context, long r, long thread) {
    const Product *p = context;
    NUMBER *row = (NUMBER *)p->numbers + (1 + r * p->each) * p->stride;
    NUMBER *rest = p->each == 2 ? row + p->stride : NULL;
    (void)thread;
    p->norms[r] = VARIANT(round_row)(p->x + r * p->inputs, p->inputs, row, rest);
}

static void VARIANT(byte_chunk)(void *context, long chunk, long thread) {
    const Product *p = context;
    long from = chunk * p->size, to = chunk_end(from, p->size, p->outputs);
    VARIANT(byte_part)(p, p->sums + thread * p->room, from, to);
}

static void VARIANT(multiply)(Product *p, int threads) {
    memset(p->numbers, ZERO, p->stride * sizeof(NUMBER));
    if (p->inputs % BYTES)
        memset((NUMBER *)p->numbers + p->inputs / BYTES * BYTES, 0,
               (BYTES - p->inputs % BYTES) * sizeof(NUMBER));
    run_chunks(VARIANT(round_chunk), p, p->rows, p->rows > FEW ? threads : 1);
    run_chunks(VARIANT(byte_chunk), p, divide_up(p->outputs / OUTPUTS * OUTPUTS, p->size), threads);
}

#undef VARIANT
#undef TARGET
#undef NUMBER
#undef ZERO
#undef STEP
#undef DOT
