/* Attention of one new token in every row of a cache (attention.py): it looks at as much as the row has. */
#include <math.h>
#include <string.h>

#include "native.h"

static float dot(const float *a, const float *b, long size) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < size; i++) sum += a[i] * b[i];
    return sum;
}

/* y = softmax(q K^T / sqrt(size)) V over the first `seen` places. */
static void attend_head(
    float *restrict y, const float *q, const float *keys, const float *values, float *restrict scores, long seen,
    long size
) {
    const float scale = 1 / sqrtf((float)size);
    float largest = -INFINITY, total = 0;
    for (long place = 0; place < seen; place++) {
        scores[place] = dot(q, keys + place * size, size) * scale;
        largest = scores[place] > largest ? scores[place] : largest;
    }
#pragma omp simd reduction(+ : total)
    for (long place = 0; place < seen; place++) total += scores[place] = exponential(scores[place] - largest);
    memset(y, 0, size * sizeof(float));
    for (long place = 0; place < seen; place++)
        for (long i = 0; i < size; i++) y[i] += scores[place] * values[place * size + i];
    for (long i = 0; i < size; i++) y[i] /= total;
}

void attend(
    const struct layer *l, float *y, const float *q, const float *k, const float *v, const int64_t *places, long q_row,
    long k_row, long v_row, int threads
) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (long row = 0; row < l->rows; row++) {
        for (long head = 0; head < l->heads; head++) {
            const long place = places[row], number = row * l->heads + head, size = l->size, at = head * size;
            float *keys = l->keys + number * l->places * size, *values = l->values + number * l->places * size;
            memcpy(keys + place * size, k + row * k_row + at, size * sizeof(float));
            memcpy(values + place * size, v + row * v_row + at, size * sizeof(float));
            float *scores = l->scores + number * l->places;
            attend_head(y + number * size, q + row * q_row + at, keys, values, scores, place + 1, size);
        }
    }
}
