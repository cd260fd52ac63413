/* What a training step does between its products, for training in bf16 (training.py): each kernel reads and writes its
 * numbers once, with all that can be done to them on the way.
 *
 * The residual stream, norms and sums are fp32; what products read and give is bf16. Widths are whole numbers of 16.
 * A sum over rows has the same order whenever the number of threads is the same. All give 0, or -1 without memory. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "tiles.h"

#if HAS_TILES
/* ---- LayerNorm, and its place in the residual stream */

/* Its mean, and 1 / its standard deviation. */
static void moments_of(float *moments, const float *x, long width, float epsilon) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (long i = 0; i < width; i += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    moments[0] = _mm512_reduce_add_ps(sum) / width;
    for (long i = 0; i < width; i += 16) {
        const __m512 away = _mm512_sub_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(moments[0]));
        squares = _mm512_fmadd_ps(away, away, squares);
    }
    moments[1] = 1 / sqrtf(_mm512_reduce_add_ps(squares) / width + epsilon);
}

INLINE __m512 normalised(const float *x, const float *moments) {
    return _mm512_mul_ps(
        _mm512_sub_ps(_mm512_loadu_ps(x), _mm512_set1_ps(moments[0])), _mm512_set1_ps(moments[1])
    );
}

INLINE __m512 normed(const float *x, const float *moments, const float *weight, const float *bias, long i) {
    const __m512 scaled = _mm512_mul_ps(normalised(x + i, moments), _mm512_loadu_ps(weight + i));
    return bias ? _mm512_add_ps(scaled, _mm512_loadu_ps(bias + i)) : scaled;
}

/* (rows, width) y = LayerNorm(x), whose bias may be NULL; moments (rows, 2) are for the gradient. */
int norm_forward(
    uint16_t *y, float *moments, const float *x, const float *weight, const float *bias, float epsilon, long rows,
    long width, int threads
) {
    const int stream = 2 * rows * width > STREAMED;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < rows; r++) {
        const float *row = x + r * width, *of_row = moments + 2 * r;
        moments_of(moments + 2 * r, row, width, epsilon);
        for (long i = 0; i < width; i += 32) {
            const __m512 low = normed(row, of_row, weight, bias, i), high = normed(row, of_row, weight, bias, i + 16);
            write_two(y + r * width + i, low, high, stream);
        }
    }
    return 0;
}

/* grad_x = passed + what comes through the norm. Gradients of its weight and bias; grad_x rounded, and its sums over all
 * rows, if there is a place for them. */
int norm_backward(
    float *grad_x, uint16_t *rounded, float *sums, float *grad_weight, float *grad_bias, const float *x,
    const float *moments, const float *weight, const uint16_t *grad_y, const float *passed, long rows, long width,
    int threads
) {
    float *parts = parts_of_sums(3 * width, threads);
    if (!parts) return -1;
#pragma omp parallel num_threads(threads)
    {
        const struct share share = share_of(rows);
        float *to_weight = parts + 3 * width * omp_get_thread_num();
        float *to_bias = to_weight + width, *to_sums = to_bias + width;
        for (long r = share.first; r < share.end; r++) {
            const long at = r * width;
            const float *row_moments = moments + 2 * r;
            __m512 sum = _mm512_setzero_ps(), along = _mm512_setzero_ps();
            for (long i = 0; i < width; i += 16) {
                const __m512 grad = read_bf16(grad_y + at + i), unit = normalised(x + at + i, row_moments);
                add_to(to_weight + i, _mm512_mul_ps(grad, unit));
                add_to(to_bias + i, grad);
                const __m512 inner = _mm512_mul_ps(grad, _mm512_loadu_ps(weight + i));
                sum = _mm512_add_ps(sum, inner);
                along = _mm512_fmadd_ps(inner, unit, along);
            }
            const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
            const __m512 slope = _mm512_set1_ps(_mm512_reduce_add_ps(along) / width);
            for (long i = 0; i < width; i += 16) {
                const __m512 inner = _mm512_mul_ps(read_bf16(grad_y + at + i), _mm512_loadu_ps(weight + i));
                __m512 grad = _mm512_sub_ps(inner, _mm512_fmadd_ps(normalised(x + at + i, row_moments), slope, mean));
                grad = _mm512_fmadd_ps(grad, _mm512_set1_ps(row_moments[1]), _mm512_loadu_ps(passed + at + i));
                _mm512_storeu_ps(grad_x + at + i, grad);
                if (rounded) write_bf16(rounded + at + i, grad);
                if (sums) add_to(to_sums + i, grad);
            }
        }
    }
    add_parts(grad_weight, parts, width, 3 * width, threads);
    add_parts(grad_bias, parts + width, width, 3 * width, threads);
    add_parts(sums, parts + 2 * width, width, 3 * width, threads);
    free(parts);
    return 0;
}

/* The sums over all rows of x, which is fp32, or else of x_rounded, which is bf16; x, rounded, if there is a place. */
int sum_rows(
    float *sums, uint16_t *rounded, const float *x, const uint16_t *x_rounded, long rows, long width, int threads
) {
    float *parts = parts_of_sums(width, threads);
    if (!parts) return -1;
#pragma omp parallel num_threads(threads)
    {
        const struct share share = share_of(rows);
        float *part = parts + width * omp_get_thread_num();
        for (long r = share.first; r < share.end; r++)
            for (long i = 0; i < width; i += 16) {
                const long at = r * width + i;
                const __m512 of_x = x ? _mm512_loadu_ps(x + at) : read_bf16(x_rounded + at);
                if (rounded) write_bf16(rounded + at, of_x);
                add_to(part + i, of_x);
            }
    }
    add_parts(sums, parts, width, width, threads);
    free(parts);
    return 0;
}

/* ---- Cross-entropy */

/* Over the first n of `row`, which becomes chance - (1 for the target); zeros up to width. Room: n rounded up to 16. */
static float row_loss(uint16_t *row, float *room, long n, long width, int64_t target) {
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 most16 = least, sum = _mm512_setzero_ps();
    for (long i = 0; i < n; i += 16) {
        const __mmask16 there = first_of(n - i);
        const __m512 x = _mm512_mask_mov_ps(least, there, from_bf16(_mm256_maskz_loadu_epi16(there, row + i)));
        _mm512_storeu_ps(room + i, x);
        most16 = _mm512_max_ps(most16, x);
    }
    const float most = _mm512_reduce_max_ps(most16), of_target = room[target];
    for (long i = 0; i < n; i += 16) {
        const __m512 e = exponential16(_mm512_sub_ps(_mm512_loadu_ps(room + i), _mm512_set1_ps(most)));
        _mm512_storeu_ps(room + i, e);
        sum = _mm512_add_ps(sum, e);
    }
    const float total = _mm512_reduce_add_ps(sum), at_target = room[target] / total - 1;
    for (long i = 0; i < n; i += 16) {
        const __mmask16 there = first_of(n - i);
        _mm256_mask_storeu_epi16(
            row + i, there, to_bf16(_mm512_mul_ps(_mm512_loadu_ps(room + i), _mm512_set1_ps(1 / total)))
        );
    }
    for (long i = n; i < width; i++) row[i] = 0;
    __m256i bits = to_bf16(_mm512_set1_ps(at_target));
    row[target] = (uint16_t)_mm256_extract_epi16(bits, 0);
    return logf(total) + most - of_target;
}

/* The loss of every row of (rows, width) logits over the first n, whose gradient takes their place; nothing for a target
 * of `ignored`. */
int cross_entropy(
    float *losses, uint16_t *logits, const int64_t *targets, int64_t ignored, long rows, long n, long width, int threads
) {
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *room = malloc((n + 15) / 16 * 16 * sizeof(float));
#pragma omp for schedule(static)
        for (long r = 0; r < rows; r++) {
            uint16_t *row = logits + r * width;
            if (!room) failed = -1;
            else if (targets[r] != ignored) losses[r] = row_loss(row, room, n, width, targets[r]);
            else {
                losses[r] = 0;
                for (long i = 0; i < width; i++) row[i] = 0;
            }
        }
        free(room);
    }
    return failed;
}
#endif
