/* Causal attention of whole windows, for training and scoring in bf16 (training.py, reading.py), and its gradient.
 *
 * A thread does one head of one window after the other, in blocks of queries, each on the keys that it may see. Scores
 * are fp32 and never leave the cache; of them the logarithm of each row's sum is kept for the gradient, which makes them
 * anew (Dao et al. 2022). What is multiplied is bf16, sums are fp32. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "tiles.h"

#if HAS_TILES
enum { QUERIES = 64 }; /* of the gradient, at a time: two products in a row on sums that come from the cache */

/* ---- Rows of scores */

/* What one token may see: those up to itself; in a tree, of them those that it continues, which end behind it. */
struct sight {
    long n;              /* tokens up to itself */
    const int32_t *ends; /* of the window's tokens, or NULL */
};

/* Of 16 tokens from the i-th on. */
INLINE __mmask16 seen_from(const struct sight *s, long i) {
    const __mmask16 up_to_itself = first_of(s->n - i);
    if (!s->ends) return up_to_itself;
    const __m512i ends = _mm512_maskz_loadu_epi32(up_to_itself, s->ends + i);
    return _mm512_mask_cmpge_epi32_mask(up_to_itself, ends, _mm512_set1_epi32(s->n));
}

/* e^(scale * score - shift) of 16 numbers of a row, from the i-th on; zeros where it may not see. */
INLINE __m512 exponentials(const float *scores, long i, __mmask16 seen, __m512 scale, __m512 shift) {
    return _mm512_maskz_mov_ps(seen, exponential16(_mm512_fmsub_ps(_mm512_loadu_ps(scores + i), scale, shift)));
}

static float largest(const float *scores, const struct sight *s) {
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 most = least;
    for (long i = 0; i < s->n; i += 16)
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(least, seen_from(s, i), scores + i));
    return _mm512_reduce_max_ps(most);
}

/* y = the exponentials, up to `width`. Returns their sum. */
static float write_exponentials(
    uint16_t *y, const float *scores, const struct sight *s, long width, float scale, float shift
) {
    __m512 total = _mm512_setzero_ps();
    for (long i = 0; i < width; i += 16) {
        const __m512 e = exponentials(scores, i, seen_from(s, i), _mm512_set1_ps(scale), _mm512_set1_ps(shift));
        write_bf16(y + i, e);
        total = _mm512_add_ps(total, e);
    }
    return _mm512_reduce_add_ps(total);
}

/* y = x * factor; width: a whole number of 16. */
INLINE void scaled(uint16_t *y, const float *x, float factor, long width) {
    const __m512 by = _mm512_set1_ps(factor);
    for (long i = 0; i < width; i += 16) write_bf16(y + i, _mm512_mul_ps(_mm512_loadu_ps(x + i), by));
}

static float dot(const uint16_t *a, const uint16_t *b, long n) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < n; i += 16) sum = _mm512_fmadd_ps(read_bf16(a + i), read_bf16(b + i), sum);
    return _mm512_reduce_add_ps(sum);
}

/* ---- Forward */

static void attend_window(
    product *multiply, char *room, uint16_t *y, float *log_sums, const uint16_t *q, const int32_t *ends, long T,
    long hs, long C
) {
    const uint16_t *k = q + C, *v = q + 2 * C;
    const long row = 3 * C, whole = (T + SIDE - 1) / SIDE * SIDE;
    const float scale = 1 / sqrtf((float)hs);
    uint16_t *keys = (uint16_t *)room, *values = keys + whole * hs, *chances = values + whole * hs;
    float *scores = (float *)(chances + SIDE * whole), *sums = scores + SIDE * whole;
    transposed_as_b(keys, hs * 16, k, row, hs, whole);
    as_b(values, whole * 16, v, row, whole, hs);
    for (long first = 0; first < T; first += SIDE) {
        const long seen = first + SIDE, rows = T - first < SIDE ? T - first : SIDE;
        for (long key = 0; key < seen; key += SIDE)
            multiply(scores + key, whole, q + first * row, row, keys + key * hs, hs * 16, hs / SIDE, 0);
        float totals[SIDE];
        for (long r = 0; r < rows; r++) {
            const struct sight sight = {first + r + 1, ends};
            const float *of_row = scores + r * whole, most = largest(of_row, &sight) * scale;
            totals[r] = write_exponentials(chances + r * whole, of_row, &sight, seen, scale, most);
            if (log_sums) log_sums[first + r] = most + logf(totals[r]);
        }
        for (long c = 0; c < hs; c += SIDE)
            multiply(sums + c, hs, chances, whole, values + c * whole, whole * 16, seen / SIDE, 0);
        for (long r = 0; r < rows; r++) scaled(y + (first + r) * C, sums + r * hs, 1 / totals[r], hs);
    }
}

/* ---- Gradient */

/* Where a thread works on one head. */
struct scratch {
    uint16_t *keys_by_twos, *keys_transposed, *values_transposed, *queries_by_rows, *grads_by_rows;
    uint16_t *chances, *grad_scores, *grad_scores_by_rows;
    float *scores, *grad_chances, *grad_keys, *grad_values, *sums;
};

static size_t scratch_size(long T, long hs) {
    return 2 * (5 * T * hs + 3 * QUERIES * T) + 4 * (2 * SIDE * T + 2 * hs * T + SIDE * hs);
}

static struct scratch scratch_in(char *room, long T, long hs) {
    struct scratch s;
    uint16_t *halves = (uint16_t *)room;
    s.keys_by_twos = halves, s.keys_transposed = halves += T * hs, s.values_transposed = halves += T * hs;
    s.queries_by_rows = halves += T * hs, s.grads_by_rows = halves += T * hs;
    s.chances = halves += T * hs, s.grad_scores = halves += QUERIES * T, s.grad_scores_by_rows = halves += QUERIES * T;
    float *whole = (float *)(halves + QUERIES * T);
    s.scores = whole, s.grad_chances = whole += SIDE * T;
    s.grad_keys = whole += SIDE * T, s.grad_values = whole += hs * T, s.sums = whole + hs * T;
    return s;
}

/* Two rows of scores and of the chances' gradients -> chances and the gradient of the scores, by twos and by rows. */
static void score_gradients(
    const struct scratch *s, long T, long r, long block_row, long tile_rows, long seen, float scale,
    const float *log_sums, const float *deltas, long first
) {
    const float *even = s->scores + r * T, *odd = even + T;
    const float *grad_even = s->grad_chances + r * T, *grad_odd = grad_even + T;
    const __m512 shift_even = _mm512_set1_ps(log_sums[r]), shift_odd = _mm512_set1_ps(log_sums[r + 1]);
    const __m512 delta_even = _mm512_set1_ps(deltas[0]), delta_odd = _mm512_set1_ps(deltas[1]);
    const __m512 by = _mm512_set1_ps(scale);
    const struct sight of_even = {first + r + 1}, of_odd = {first + r + 2};
    for (long i = 0; i < seen; i += 16) {
        const __m512 p_even = exponentials(even, i, seen_from(&of_even, i), by, shift_even);
        const __m512 p_odd = exponentials(odd, i, seen_from(&of_odd, i), by, shift_odd);
        const __m512 away_even = _mm512_sub_ps(_mm512_loadu_ps(grad_even + i), delta_even);
        const __m512 away_odd = _mm512_sub_ps(_mm512_loadu_ps(grad_odd + i), delta_odd);
        const __m256i g_even = to_bf16(_mm512_mul_ps(_mm512_mul_ps(p_even, away_even), by));
        const __m256i g_odd = to_bf16(_mm512_mul_ps(_mm512_mul_ps(p_odd, away_odd), by));
        const long at = i / 16 * tile_rows + (block_row + r) * 16;
        _mm512_storeu_si512(s->chances + at, by_twos(to_bf16(p_even), to_bf16(p_odd)));
        _mm512_storeu_si512(s->grad_scores + at, by_twos(g_even, g_odd));
        _mm256_storeu_si256((__m256i *)(s->grad_scores_by_rows + (block_row + r) * T + i), g_even);
        _mm256_storeu_si256((__m256i *)(s->grad_scores_by_rows + (block_row + r + 1) * T + i), g_odd);
    }
}

/* (hs, T) sums -> (T, hs), as the rows of y. */
static void write_transposed(uint16_t *y, long row, const float *sums, long T, long hs) {
    float turned[256];
    for (long t = 0; t < T; t += 16)
        for (long c = 0; c < hs; c += 16) {
            transpose((uint32_t *)turned, 16, (const uint32_t *)(sums + c * T + t), T);
            for (int i = 0; i < 16; i++) scaled(y + (t + i) * row + c, turned + 16 * i, 1, 16);
        }
}

static void window_gradients(
    product *multiply, const struct scratch *s, uint16_t *grad_q, const uint16_t *q, const uint16_t *y,
    const uint16_t *grad_y, const float *log_sums, long T, long hs, long C
) {
    const uint16_t *k = q + C, *v = q + 2 * C;
    const long row = 3 * C;
    const float scale = 1 / sqrtf((float)hs);
    transposed_as_b(s->keys_transposed, hs * 16, k, row, hs, T);
    transposed_as_b(s->values_transposed, hs * 16, v, row, hs, T);
    as_b(s->keys_by_twos, T * 16, k, row, T, hs);
    transposed(s->queries_by_rows, T, q, row, T, hs);
    transposed(s->grads_by_rows, T, grad_y, C, T, hs);
    for (long block = (T - 1) / QUERIES * QUERIES; block >= 0; block -= QUERIES) { /* the last has seen every key */
        const long rows = T - block < QUERIES ? T - block : QUERIES, all = block + rows, tile_rows = rows * 16;
        for (long first = block; first < all; first += SIDE) {
            const long seen = first + SIDE;
            for (long key = 0; key < seen; key += SIDE) {
                const uint16_t *keys = s->keys_transposed + key * hs, *values = s->values_transposed + key * hs;
                multiply(s->scores + key, T, q + first * row, row, keys, hs * 16, hs / SIDE, 0);
                multiply(s->grad_chances + key, T, grad_y + first * C, C, values, hs * 16, hs / SIDE, 0);
            }
            for (long r = 0; r < SIDE; r += 2) {
                const uint16_t *of_row = grad_y + (first + r) * C, *y_row = y + (first + r) * C;
                const float deltas[2] = {dot(of_row, y_row, hs), dot(of_row + C, y_row + C, hs)};
                score_gradients(s, T, r, first - block, tile_rows, seen, scale, log_sums + first, deltas, first);
            }
            for (long i = seen / 16 * tile_rows; i < all / 16 * tile_rows; i += tile_rows) /* keys after these rows */
                for (long pair = (first - block) * 16; pair < (first - block + SIDE) * 16; pair += 32) {
                    _mm512_storeu_si512(s->chances + i + pair, _mm512_setzero_si512());
                    _mm512_storeu_si512(s->grad_scores + i + pair, _mm512_setzero_si512());
                }
            for (long c = 0; c < hs; c += SIDE)
                multiply(
                    s->sums + c, hs, s->grad_scores_by_rows + (first - block) * T, T, s->keys_by_twos + c * T, T * 16,
                    seen / SIDE, 0
                );
            for (long r = 0; r < SIDE; r++) scaled(grad_q + (first + r) * row, s->sums + r * hs, 1, hs);
        }
        for (long c = 0; c < hs; c += SIDE)
            for (long key = 0; key < all; key += SIDE) {
                const long at = key * rows, to = c * T + key;
                const uint16_t *grads = s->grads_by_rows + c * T + block, *queries = s->queries_by_rows + c * T + block;
                multiply(s->grad_values + to, T, grads, T, s->chances + at, tile_rows, rows / SIDE, all < T);
                multiply(s->grad_keys + to, T, queries, T, s->grad_scores + at, tile_rows, rows / SIDE, all < T);
            }
    }
    write_transposed(grad_q + C, row, s->grad_keys, T, hs);
    write_transposed(grad_q + 2 * C, row, s->grad_values, T, hs);
}

/* ---- All heads of all windows */

/* Queries, keys and values -> y, both by rows: (rows, 3 * heads * hs) -> (rows, heads * hs). Windows of T rows; with
 * (windows + 1,) starts each from its own to the next one's, of T at most. If there is a place, (windows, heads, T)
 * log_sums. (rows,) ends, of trees, or NULL. hs: a whole number of 32; where the length of a window is none, up to 31
 * rows of finite numbers are read behind it. Gives 0, or -1 without memory. */
int causal_forward(
    uint16_t *y, float *log_sums, const uint16_t *qkv, const int32_t *ends, const int64_t *starts, long windows,
    long T, long heads, long hs, int threads
) {
    const long C = heads * hs, whole = (T + SIDE - 1) / SIDE * SIDE;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        struct tiles tiles;
        product *multiply = begin_tiles(&tiles);
        char *room = aligned_alloc(64, 2 * (2 * whole * hs + SIDE * whole) + 4 * (SIDE * whole + SIDE * hs));
#pragma omp for schedule(static)
        for (long n = 0; n < windows * heads; n++) {
            const long window = n / heads, head = n % heads * hs;
            const long start = starts ? starts[window] : window * T, length = starts ? starts[window + 1] - start : T;
            if (room)
                attend_window(
                    multiply, room, y + start * C + head, log_sums ? log_sums + n * T : NULL,
                    qkv + start * 3 * C + head, ends ? ends + start : NULL, length, hs, C
                );
            else
                failed = -1;
        }
        free(room);
        end_tiles(&tiles);
    }
    return failed;
}

/* The gradient of queries, keys and values, as they lie in qkv. T: a whole number of 32. */
int causal_backward(
    uint16_t *grad_qkv, const uint16_t *qkv, const uint16_t *y, const uint16_t *grad_y, const float *log_sums,
    long windows, long T, long heads, long hs, int threads
) {
    const long C = heads * hs;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        struct tiles tiles;
        product *multiply = begin_tiles(&tiles);
        char *room = aligned_alloc(64, (scratch_size(T, hs) + 63) / 64 * 64);
        const struct scratch scratch = scratch_in(room, T, hs);
#pragma omp for schedule(static)
        for (long n = 0; n < windows * heads; n++) {
            const long window = n / heads, head = n % heads * hs, at = window * T * C + head;
            const long at_q = window * T * 3 * C + head;
            if (room)
                window_gradients(
                    multiply, &scratch, grad_qkv + at_q, qkv + at_q, y + at, grad_y + at, log_sums + n * T, T, hs, C
                );
            else
                failed = -1;
        }
        free(room);
        end_tiles(&tiles);
    }
    return failed;
}
#endif
