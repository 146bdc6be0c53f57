/* A decoder layer of the released architecture in one call, where the functions of _cpu.c would take
   eight, and torch's norms and sums as many between them: with few rows, calling takes longer than
   computing. Included by _cpu.c.

   The norm adds up in torch's order (a cascade of Welford's means over the lanes of a vector), so that
   the bits are those of torch's layer norm; layer.py compares the two before it calls this. The
   activation is left to torch: a layer ends before it, and begins with what comes behind it in the
   layer before. */

/* Scale NULL: a bias alone. */
typedef struct {
    const float *scale, *bias;
} Norm;

/* Weights f32[O,I], or i8[O,I] where there is a scale f32[O] for them. */
typedef struct {
    const void *weight;
    const float *scale;
    long fine;
} Projection;

typedef struct {
    Norm self_in, self_out, cross_in, cross_out, inner_in, inner_mid;
    Projection qkv, self_last, query, cross_last, in, last;
} Layer;

/* What the layers of one pass share, in words of 8 bytes. The first ones are told; `scratch` has
   rows * queries * (2 * width + the largest of each kind below) floats. */
typedef struct {
    long rows, queries, width, heads, inner, capacity, text, count;
    const int64_t *counts; /* of each row with its first present position; or NULL, and `count` */
    const uint8_t *mask;   /* of the text */
    float *hidden, *gate, *scratch;
    long threads;
} Pass;

/* Keys and values of one layer. */
typedef struct {
    float *keys, *values, *text_keys, *text_values;
} Filled;

typedef struct {
    norm_lanes mean, spread;
    long count; /* of vectors */
} Moments;

enum { CASCADE = 16, MOST_LEVELS = 40, NORM_LANES = sizeof(norm_lanes) / sizeof(float) };
static const float EPS = 1e-5f;

INLINE float share_of(long count, long all) { return all ? (float)count / (float)all : 0; }

WIDE INLINE void join(Moments *all, const Moments *more) {
    float share = share_of(more->count, all->count + more->count);
    norm_lanes delta = more->mean - all->mean, step = delta * share;
    norm_lanes enlarged = delta * (float)all->count, sum = all->spread + more->spread;
    KEEP(step); /* rounded; a fused product is asked for by name */
    all->mean += step;
    all->spread = fused(enlarged, step, sum);
    all->count += more->count;
}

/* The moments of some vectors, one after the other. */
WIDE INLINE Moments part_moments(const float *x, long vectors) {
    Moments part = {{0}, {0}, vectors};
    for (long v = 0; v < vectors; v++) {
        norm_lanes one, delta, share = (norm_lanes){0} + 1 / (float)(v + 1);
        memcpy(&one, x + NORM_LANES * v, sizeof one);
        delta = one - part.mean;
        part.mean = fused(share, delta, part.mean);
        part.spread = fused(delta, one - part.mean, part.spread);
    }
    return part;
}

WIDE INLINE Moments vector_moments(const float *x, long vectors) {
    long parts = divide_up(vectors, CASCADE), depth = 1;
    Moments levels[MOST_LEVELS] = {0};
    while (1L << depth < parts) depth++;
    for (long part = 0; part < parts; part++) {
        Moments more = part_moments(x + NORM_LANES * CASCADE * part,
                                    MIN(CASCADE, vectors - CASCADE * part));
        join(&levels[0], &more);
        for (long level = 1; level < depth && !((part + 1) >> (level - 1) & 1); level++) {
            join(&levels[level], &levels[level - 1]);
            levels[level - 1] = (Moments){0};
        }
    }
    for (long level = 1; level < depth; level++) join(&levels[0], &levels[level]);
    return levels[0];
}

/* One row; y may be x. */
WIDE static void norm_row(const float *x, const Norm *norm, float *y, long width) {
    long vectors = width / NORM_LANES, count = 0;
    Moments lanes = vector_moments(x, vectors);
    float mean = 0, spread = 0;
    for (long i = NORM_LANES * vectors; i < width; i++) {
        float delta = x[i] - mean, square;
        mean += delta / (float)++count;
        square = delta * (x[i] - mean);
        KEEP(square);
        spread += square;
    }
    for (int i = 0; i < NORM_LANES; i++, count += vectors) {
        float share = share_of(vectors, count + vectors), delta = lanes.mean[i] - mean;
        mean = __builtin_fmaf(share, delta, mean);
        spread += __builtin_fmaf(delta * delta * share, (float)count, lanes.spread[i]);
    }
    float scale = 1 / sqrtf(spread / (float)width + EPS);
    if (norm->scale)
        for (long i = 0; i < width; i++)
            y[i] = (x[i] - mean) * scale * norm->scale[i] + norm->bias[i];
    else
        for (long i = 0; i < width; i++) y[i] = (x[i] - mean) * scale + norm->bias[i];
}

typedef struct {
    const float *x;
    Norm norm;
    float *y;
    long width;
} Rows;

static void norm_chunk(void *context, long row, long thread) {
    const Rows *r = context;
    (void)thread;
    norm_row(r->x + row * r->width, &r->norm, r->y + row * r->width, r->width);
}

static void norm_rows(const float *x, Norm norm, float *y, long rows, long width, int threads) {
    Rows context = {x, norm, y, width};
    run_chunks(norm_chunk, &context, rows, rows > FEW ? threads : 1);
}

/* y[rows, width] = layer norm of x, with a scale or NULL. */
void dallemini_norm(const float *x, const float *scale, const float *bias, float *y, long rows,
                    long width, int threads) {
    norm_rows(x, (Norm){scale, bias}, y, rows, width, threads);
}

static int project(const Projection *p, const float *x, float *y, long rows, long inputs,
                   long outputs, int threads) {
    if (p->scale)
        return dallemini_linear_int8(x, p->weight, p->scale, y, rows, inputs, outputs, p->fine,
                                     threads);
    dallemini_linear_float(x, p->weight, y, rows, inputs, outputs, threads);
    return 0;
}

WIDE static void add(float *restrict x, const float *restrict y, long count) {
    for (long i = 0; i < count; i++) x[i] += y[i];
}

WIDE static void multiply(float *restrict x, const float *restrict y, const float *restrict z,
                          long count) {
    for (long i = 0; i < count; i++) x[i] = y[i] * z[i];
}

/* Where each intermediate result lies in the scratch. */
typedef struct {
    float *normed, *wide, *attended, *update;
    long rows;
} Places;

static Places find_places(const Pass *p) {
    long rows = p->rows * p->queries;
    float *normed = p->scratch, *wide = normed + rows * MAX(p->width, p->inner);
    float *attended = wide + rows * MAX(3 * p->width, 2 * p->inner);
    return (Places){normed, wide, attended, attended + rows * p->width, rows};
}

/* The end of a layer: what the gate leaves of the values, the norm, and the last projection. */
static int end_layer(const Layer *layer, const Pass *p, const float *activated) {
    Places at = find_places(p);
    for (long r = 0; r < at.rows; r++)
        multiply(at.normed + r * p->inner, activated + r * p->inner,
                 at.wide + (2 * r + 1) * p->inner, p->inner);
    norm_rows(at.normed, layer->inner_mid, at.normed, at.rows, p->inner, p->threads);
    if (project(&layer->last, at.normed, at.update, at.rows, p->inner, p->width, p->threads))
        return 1;
    add(p->hidden, at.update, at.rows * p->width);
    return 0;
}

/* What attention found, projected, normed and added. */
static int take_in(const Projection *last, Norm norm, const Pass *p) {
    Places at = find_places(p);
    if (project(last, at.attended, at.update, at.rows, p->width, p->width, p->threads)) return 1;
    norm_rows(at.update, norm, at.update, at.rows, p->width, p->threads);
    add(p->hidden, at.update, at.rows * p->width);
    return 0;
}

static int attend_self(const Layer *layer, const Pass *p, const Filled *filled) {
    Places at = find_places(p);
    long width = p->width;
    norm_rows(p->hidden, layer->self_in, at.normed, at.rows, width, p->threads);
    return project(&layer->qkv, at.normed, at.wide, at.rows, width, 3 * width, p->threads) ||
           dallemini_attend(at.wide, at.wide + width, at.wide + 2 * width, filled->keys,
                            filled->values, NULL, p->counts, at.attended, p->rows, 3 * width,
                            p->heads, p->queries, p->count, p->capacity, width / p->heads,
                            p->threads) ||
           take_in(&layer->self_last, layer->self_out, p);
}

static int attend_text(const Layer *layer, const Pass *p, const Filled *filled) {
    Places at = find_places(p);
    long width = p->width;
    norm_rows(p->hidden, layer->cross_in, at.normed, at.rows, width, p->threads);
    return project(&layer->query, at.normed, at.wide, at.rows, width, width, p->threads) ||
           dallemini_attend(at.wide, NULL, NULL, filled->text_keys, filled->text_values, p->mask,
                            NULL, at.attended, p->rows, width, p->heads, p->queries, p->text,
                            p->text, width / p->heads, p->threads) ||
           take_in(&layer->cross_last, layer->cross_out, p);
}

/* End the layer `before` (its gates f32[rows * queries, inner] are activated), and compute `layer`
   up to its gates; NULL for none. Returns 0, or 1 where there is no memory or no such position. */
int dallemini_layer(const Layer *before, const Layer *layer, const Pass *p, const Filled *filled,
                    const float *activated) {
    Places at = find_places(p);
    if (before && end_layer(before, p, activated)) return 1;
    if (!layer) return 0;
    if (attend_self(layer, p, filled) || attend_text(layer, p, filled)) return 1;
    norm_rows(p->hidden, layer->inner_in, at.normed, at.rows, p->width, p->threads);
    if (project(&layer->in, at.normed, at.wide, at.rows, p->width, 2 * p->inner, p->threads))
        return 1;
    for (long r = 0; r < at.rows; r++)
        memcpy(p->gate + r * p->inner, at.wide + 2 * r * p->inner, p->inner * sizeof(float));
    return 0;
}
