/* The products of training and scoring in bf16 (training.py, reading.py), summed in fp32.
 *
 * Weights are fp32 and stay as they are: a thread rounds and lays out a few columns of them at a time, in its cache, and
 * multiplies all rows by those. So nothing is cast before, and what follows a product is done where it is written. The
 * product of a block alone runs at 1.8 TFLOP/s with AMX, where oneDNN reaches 1.25 (one core of a Xeon of 2023). Whole
 * products are bound by memory: they take about as long as oneDNN's on weights that are bf16 already, and gradients of
 * weights 0.6 to 0.9 of its time.
 *
 * Rows, inputs and outputs are whole numbers of 32. All give 0, or -1 without memory. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "tiles.h"

#if HAS_TILES
enum {
    LAID_OUT = 3 << 17, /* numbers of a weight at a time: a part of a large L2 cache */
    LEAST = 128,        /* columns of it at a time, unless there are less, or the depth leaves no room */
    DEPTH = 4096,       /* a product that is deeper than this is summed in parts */
    PART = 1024,        /* of this depth */
    ROWS = 4096,        /* that a weight's gradient is summed over at a time, */
    CHUNK = 512,        /* and of them with a matrix that is turned */
    INPUTS = 768,       /* for at most so many inputs, */
    SUMS = 1 << 17,     /* and so many sums */
    PAD = 32            /* numbers: rows then begin in different sets of the cache */
};

static long smaller(long a, long b) { return a < b ? a : b; }

/* ---- Layouts of fp32 weights as B (tiles.h) */

typedef void lay_out(uint16_t *b, const float *w, long row, long depth, long columns);

/* (columns, depth) w, transposed: for y = x w^T. */
static void lay_out_transposed(uint16_t *b, const float *w, long row, long depth, long columns) {
    uint32_t pairs[16 * 16] __attribute__((aligned(64)));
    for (long c = 0; c < columns; c += 16)
        for (long d = 0; d < depth; d += 32) {
            for (int i = 0; i < 16; i++) {
                const float *from = w + (c + i) * row + d;
                const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
                _mm512_store_si512(pairs + 16 * i, (__m512i)both);
            }
            transpose((uint32_t *)(b + c * depth + d * 16), 16, pairs, 16);
        }
}

/* (depth, columns) w: for y = x w. */
static void lay_out_plain(uint16_t *b, const float *w, long row, long depth, long columns) {
    for (long c = 0; c < columns; c += 16)
        for (long d = 0; d < depth; d += 2) {
            const float *from = w + d * row + c;
            const __m256i even = to_bf16(_mm512_loadu_ps(from)), odd = to_bf16(_mm512_loadu_ps(from + row));
            _mm512_storeu_si512(b + c * depth + d * 16, by_twos(even, odd));
        }
}

/* ---- GELU, the tanh form: y = x s, s = sigmoid(z), z = sqrt(8 / pi) (x + 0.044715 x^3) (Hendrycks & Gimpel 2016) */

static const float FACTOR = 1.5957691f, CUBIC = 0.044715f;

INLINE __m512 reciprocal(__m512 x) { /* a first guess, and a step of Newton's */
    const __m512 guess = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(guess, _mm512_fnmadd_ps(x, guess, _mm512_set1_ps(2)));
}

/* y, and by the way dy/dx = s + x s (1 - s) dz/dx. */
INLINE __m512 gelu(__m512 x, __m512 *slope) {
    const __m512 one = _mm512_set1_ps(1), square = _mm512_mul_ps(x, x);
    const __m512 inner = _mm512_fmadd_ps(square, _mm512_set1_ps(CUBIC), one);
    const __m512 z = _mm512_mul_ps(_mm512_mul_ps(x, inner), _mm512_set1_ps(-FACTOR));
    const __m512 e = exponential16(_mm512_min_ps(_mm512_set1_ps(80), z)); /* min gives the second of a NaN */
    const __m512 s = reciprocal(_mm512_add_ps(e, one)), y = _mm512_mul_ps(x, s);
    if (slope) {
        const __m512 steep = _mm512_fmadd_ps(square, _mm512_set1_ps(3 * CUBIC), one);
        const __m512 away = _mm512_mul_ps(_mm512_mul_ps(y, _mm512_sub_ps(one, s)), _mm512_set1_ps(FACTOR));
        *slope = _mm512_fmadd_ps(away, steep, s);
    }
    return y;
}

/* ---- What becomes of sums */

struct ending {
    const float *bias;     /* added to them, or NULL */
    uint16_t *y;           /* rounded, if there is a place */
    float *added;          /* instead of that: in fp32, added to */
    const float *residual; /* this */
    uint16_t *activated;   /* besides: the GELU of y, or of */
    const uint16_t *inner; /* this, if there is one: then y is their product with its slope, */
    float *parts;          /* and every thread adds up its rows of y */
    struct score *scores;  /* instead of all that: what is to be known of them as logits */
    int stream;
};

/* Of some logits of a row: the largest, and the sum of e^(logit - largest). */
struct part {
    float most, total;
};

struct score {
    struct part *parts;     /* (rows, groups) */
    float *of_targets;      /* (n,) their logits */
    const int64_t *targets; /* (n,) */
    const int64_t *firsts;  /* (rows + 1,) which of them is the first of each row */
    long vocabulary, wide;  /* columns that count; columns of a group */
};

/* 32 numbers of a row, from y[at] on. */
INLINE void end_some(const struct ending *e, __m512 low, __m512 high, long at, float *part) {
    if (e->added) {
        write_line(e->added + at, (__m512i)_mm512_add_ps(low, _mm512_loadu_ps(e->residual + at)), e->stream);
        write_line(e->added + at + 16, (__m512i)_mm512_add_ps(high, _mm512_loadu_ps(e->residual + at + 16)), e->stream);
    } else if (e->inner) {
        __m512 slope_low, slope_high;
        const __m512 of_low = gelu(read_bf16(e->inner + at), &slope_low);
        const __m512 of_high = gelu(read_bf16(e->inner + at + 16), &slope_high);
        low = _mm512_mul_ps(low, slope_low), high = _mm512_mul_ps(high, slope_high);
        write_two(e->activated + at, of_low, of_high, e->stream);
        write_two(e->y + at, low, high, e->stream);
        add_to(part, low), add_to(part + 16, high);
    } else {
        if (e->y) write_two(e->y + at, low, high, e->stream);
        if (e->activated) { /* of the rounded ones, as the gradient has it */
            low = gelu(from_bf16(to_bf16(low)), NULL), high = gelu(from_bf16(to_bf16(high)), NULL);
            write_two(e->activated + at, low, high, e->stream);
        }
    }
}

/* The logits of a row from this column on, of which `width` are there. */
static void end_logits(const struct score *s, const float *logits, long row, long columns, long column, long width) {
    const long n = smaller(width, s->vocabulary - column), groups = (columns + s->wide - 1) / s->wide;
    struct part *part = s->parts + row * groups + column / s->wide;
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 most = least, total = _mm512_setzero_ps();
    for (long c = 0; c < n; c += 16)
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(least, first_of(n - c), logits + c));
    part->most = _mm512_reduce_max_ps(most);
    for (long c = 0; c < n; c += 16) {
        const __m512 away = _mm512_sub_ps(_mm512_loadu_ps(logits + c), _mm512_set1_ps(part->most));
        total = _mm512_add_ps(total, _mm512_maskz_mov_ps(first_of(n - c), exponential16(away)));
    }
    part->total = _mm512_reduce_add_ps(total);
    for (long t = s->firsts[row]; t < s->firsts[row + 1]; t++) {
        const long target = s->targets[t] - column;
        if (0 <= target && target < width) s->of_targets[t] = logits[target];
    }
}

/* 32 rows of sums, from this one on, of `width` columns, from this one on. Rows are written one after the other, since
 * memory is slow where lines far from each other are. */
static void end_rows(
    const struct ending *e, const float *sums, long sums_row, long first, long columns, long column, long width
) {
    float *part = e->parts + omp_get_thread_num() * columns + column;
    for (long r = 0; r < SIDE; r++, sums += sums_row) {
        if (e->scores) {
            end_logits(e->scores, sums, first + r, columns, column, width);
            continue;
        }
        for (long c = 0; c < width; c += 32) {
            __m512 low = _mm512_loadu_ps(sums + c), high = _mm512_loadu_ps(sums + c + 16);
            if (e->bias) {
                low = _mm512_add_ps(low, _mm512_loadu_ps(e->bias + column + c));
                high = _mm512_add_ps(high, _mm512_loadu_ps(e->bias + column + c + 16));
            }
            end_some(e, low, high, (first + r) * columns + column + c, part + c);
        }
    }
}

/* ---- Rows by a weight */

/* As many as fit, but so few that all threads have as many, as far as rows of the result stay long. */
static long columns_at_a_time(long depth, long columns, int threads) {
    const long room = LAID_OUT / depth / SIDE * SIDE, most = smaller(columns, room > SIDE ? room : SIDE);
    const long rounds = ((columns + most - 1) / most + threads - 1) / threads, groups = rounds * threads;
    const long even = (columns / SIDE + groups - 1) / groups * SIDE;
    return even > LEAST ? even : smaller(most, LEAST);
}

/* (rows, depth) x by a weight -> (rows, columns) y. From one column of the weight to the next are w_column numbers,
 * from one number of x that it is multiplied by to the next w_depth; w_row is what a row of its memory has. */
static int multiply_rows(
    const struct ending *ending, const uint16_t *x, const float *w, lay_out *lay, long w_row, long w_column,
    long w_depth, long rows, long depth, long columns, int threads
) {
    const long deep = depth > DEPTH ? PART : depth, wide = columns_at_a_time(deep, columns, threads);
    const long blocks = rows / SIDE, groups = (columns + wide - 1) / wide, tasks = groups * blocks;
    const long sums_row = wide + 16; /* rows then begin in different sets of the cache */
    const int whole = deep == depth; /* else sums wait for the next part of the depth */
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        struct tiles tiles;
        product *multiply = begin_tiles(&tiles);
        uint16_t *b = aligned_alloc(64, sizeof(uint16_t) * deep * wide);
        float *sums = aligned_alloc(64, sizeof(float) * sums_row * (whole ? SIDE : rows));
        if (!b || !sums) failed = -1;
        /* A thread has some groups of columns for all rows, and of the first and the last one perhaps a part. */
        const struct share share = share_of(tasks);
        for (long task = share.first, end; !failed && task < share.end; task = end) {
            const long group = task / blocks, first = task % blocks;
            end = smaller(share.end, (group + 1) * blocks);
            const long last = first + end - task, column = group * wide, width = smaller(wide, columns - column);
            for (long d = 0; d < depth; d += deep) {
                const long part = smaller(deep, depth - d);
                lay(b, w + column * w_column + d * w_depth, w_row, part, width);
                for (long block = first; block < last; block++) {
                    float *of_rows = sums + (whole ? 0 : block * SIDE * sums_row);
                    for (long c = 0; c < width; c += SIDE)
                        multiply(
                            of_rows + c, sums_row, x + block * SIDE * depth + d, depth, b + c * part, part * 16,
                            part / SIDE, d > 0
                        );
                    if (d + part == depth) end_rows(ending, of_rows, sums_row, block * SIDE, columns, column, width);
                }
            }
        }
        free(b);
        free(sums);
        end_tiles(&tiles);
    }
    return failed;
}

/* (rows, outputs) y = x w^T + bias, of (rows, inputs) x and (outputs, inputs) w; and its GELU; if there are places. */
int linear_forward(
    uint16_t *y, uint16_t *activated, const uint16_t *x, const float *w, const float *bias, long rows, long outputs,
    long inputs, int threads
) {
    const struct ending ending = {.bias = bias, .y = y, .activated = activated, .stream = 2 * rows * outputs > STREAMED};
    return multiply_rows(&ending, x, w, lay_out_transposed, inputs, inputs, 1, rows, inputs, outputs, threads);
}

/* The same, added to a residual in fp32. */
int linear_forward_add(
    float *y, const float *residual, const uint16_t *x, const float *w, const float *bias, long rows, long outputs,
    long inputs, int threads
) {
    const int stream = 4 * rows * outputs > STREAMED;
    const struct ending ending = {.bias = bias, .added = y, .residual = residual, .stream = stream};
    return multiply_rows(&ending, x, w, lay_out_transposed, inputs, inputs, 1, rows, inputs, outputs, threads);
}

/* (rows, inputs) y = grad w: the gradient of x. */
int linear_backward(
    uint16_t *y, const uint16_t *grad, const float *w, long rows, long outputs, long inputs, int threads
) {
    const struct ending ending = {.y = y, .stream = 2 * rows * inputs > STREAMED};
    return multiply_rows(&ending, grad, w, lay_out_plain, inputs, 1, inputs, rows, outputs, inputs, threads);
}

/* The gradient of x where what is multiplied is gelu(x), which is given again; and its sums over all rows. */
int gelu_linear_backward(
    uint16_t *y, uint16_t *activated, float *sums, const uint16_t *grad, const uint16_t *x, const float *w, long rows,
    long outputs, long inputs, int threads
) {
    float *parts = parts_of_sums(inputs, threads);
    if (!parts) return -1;
    const int stream = 2 * rows * inputs > STREAMED;
    const struct ending ending = {.y = y, .activated = activated, .inner = x, .parts = parts, .stream = stream};
    const int failed = multiply_rows(&ending, grad, w, lay_out_plain, inputs, 1, inputs, rows, outputs, inputs, threads);
    add_parts(sums, parts, inputs, inputs, threads);
    free(parts);
    return failed;
}

/* What a model thinks of targets, some to a row, of which none is beyond the vocabulary: the logarithm of their chances
 * among the first `vocabulary` outputs, and whether none is likelier. The logits are nowhere written. */
int token_scores(
    float *log_chances, uint8_t *likeliest, const uint16_t *x, const float *w, const int64_t *targets,
    const int64_t *firsts, long vocabulary, long rows, long outputs, long inputs, int threads
) {
    const long wide = columns_at_a_time(inputs > DEPTH ? PART : inputs, outputs, threads);
    const long groups = (outputs + wide - 1) / wide;
    struct score score = {.targets = targets, .firsts = firsts, .vocabulary = vocabulary, .wide = wide};
    score.parts = malloc(sizeof(struct part) * rows * groups);
    score.of_targets = log_chances;
    if (!score.parts) return -1;
    const struct ending ending = {.scores = &score};
    const int failed =
        multiply_rows(&ending, x, w, lay_out_transposed, inputs, inputs, 1, rows, inputs, outputs, threads);
    for (long row = 0; !failed && row < rows; row++) {
        const struct part *parts = score.parts + row * groups;
        float most = -INFINITY, total = 0;
        for (long group = 0; group < groups; group++) most = parts[group].most > most ? parts[group].most : most;
        for (long group = 0; group < groups; group++) total += parts[group].total * expf(parts[group].most - most);
        for (long t = firsts[row]; t < firsts[row + 1]; t++) {
            likeliest[t] = log_chances[t] == most;
            log_chances[t] -= most + logf(total);
        }
    }
    free(score.parts);
    return failed;
}

/* ---- The gradient of a weight */

/* Rows of sums to their place in memory, from one end to the other. */
static void keep_sums(float *y, long row, const float *sums, long sums_row, long rows, long width, int add) {
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < width; i += 16) {
            __m512 of_y = _mm512_loadu_ps(sums + r * sums_row + i);
            if (add) of_y = _mm512_add_ps(of_y, _mm512_loadu_ps(y + r * row + i));
            write_line(y + r * row + i, (__m512i)of_y, 1);
        }
}

/* (outputs, inputs) y = grad^T x, in fp32. Sums of some outputs wait in the cache for all rows. */
int weight_gradient(
    float *y, const uint16_t *grad, const uint16_t *x, long rows, long outputs, long inputs, int threads
) {
    const long most_rows = smaller(ROWS, rows), most = smaller(INPUTS, inputs), sums_row = most + 16;
    uint16_t *by_twos = aligned_alloc(64, sizeof(uint16_t) * most_rows * inputs);
    int failed = by_twos ? 0 : -1;
#pragma omp parallel num_threads(threads)
    {
        struct tiles tiles;
        product *multiply = begin_tiles(&tiles);
        const struct share share = share_of(outputs / SIDE);
        const long first_output = share.first * SIDE, end_output = share.end * SIDE;
        const long high_at_most = smaller(SUMS / most / SIDE * SIDE, end_output - first_output);
        uint16_t *turned = aligned_alloc(64, sizeof(uint16_t) * high_at_most * (CHUNK + PAD) + 64);
        float *sums = aligned_alloc(64, sizeof(float) * high_at_most * sums_row + 64);
        if (!turned || !sums) failed = -1;
#pragma omp barrier
        for (long first = 0; !failed && first < rows; first += most_rows) {
            const long n = smaller(most_rows, rows - first);
#pragma omp for schedule(static)
            for (long r = 0; r < n; r += SIDE)
                as_b(by_twos + r * 16, n * 16, x + (first + r) * inputs, inputs, SIDE, inputs);
            for (long group = 0; group < inputs; group += most)
                for (long o = first_output, high; o < end_output; o += high) {
                    const long wide = smaller(most, inputs - group);
                    high = smaller(high_at_most, end_output - o);
                    for (long part = 0; part < n; part += CHUNK) {
                        const long deep = smaller(CHUNK, n - part);
                        transposed(turned, CHUNK + PAD, grad + (first + part) * outputs + o, outputs, deep, high);
                        for (long r = 0; r < high; r += SIDE)
                            for (long i = 0; i < wide; i += SIDE)
                                multiply(
                                    sums + r * sums_row + i, sums_row, turned + r * (CHUNK + PAD), CHUNK + PAD,
                                    by_twos + (group + i) * n + part * 16, n * 16, deep / SIDE, part > 0
                                );
                    }
                    keep_sums(y + o * inputs + group, inputs, sums, sums_row, high, wide, first > 0);
                }
#pragma omp barrier
        }
        free(turned);
        free(sums);
        end_tiles(&tiles);
    }
    free(by_twos);
    return failed;
}
#endif
