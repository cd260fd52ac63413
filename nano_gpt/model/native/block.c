/* A block of GPT-2 for one new token of every row (block.py): what is between its products takes no time. */
#include <math.h>
#include <stddef.h>

#include "native.h"

struct block {
    linear *product; /* of all four */
    const struct matrix *c_attn, *attn_proj, *c_fc, *mlp_proj;
    const float *ln_1_weight, *ln_1_bias, *ln_2_weight, *ln_2_bias; /* biases may be NULL */
    float epsilon;
};

static void layer_norm(const float *weight, const float *bias, float epsilon, float *y, const float *x, long width) {
    float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
    for (long i = 0; i < width; i++) mean += x[i];
    mean /= width;
#pragma omp simd reduction(+ : variance)
    for (long i = 0; i < width; i++) variance += (x[i] - mean) * (x[i] - mean);
    const float scale = 1 / sqrtf(variance / width + epsilon);
    for (long i = 0; i < width; i++) y[i] = (x[i] - mean) * scale * weight[i];
    if (bias)
        for (long i = 0; i < width; i++) y[i] += bias[i];
}

/* The tanh form, in place: x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks & Gimpel 2016). */
static void gelu(float *x, long size) {
    for (long i = 0; i < size; i++) {
        const float u = 0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]), e = exponential(-2 * fabsf(u));
        x[i] *= (u < 0 ? e : 1) / (1 + e);
    }
}

/* (rows, width) x -> (rows, width) y. Room: rows * (3 * width + the most outputs of a product) numbers. Gives 0, or -1
 * without the memory for a product. */
int block(
    const struct block *b, const struct layer *l, float *y, const float *x, const int64_t *places, float *room,
    int threads
) {
    const long rows = l->rows, width = b->c_attn->inputs, inner = b->c_fc->outputs, size = rows * width;
    float *normed = room, *attended = room + size, *added = room + 2 * size, *wide = room + 3 * size;

#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 1)
    for (long r = 0; r < rows; r++)
        layer_norm(b->ln_1_weight, b->ln_1_bias, b->epsilon, normed + r * width, x + r * width, width);
    if (b->product(b->c_attn, wide, normed, rows, threads)) return -1;
    attend(l, attended, wide, wide + width, wide + 2 * width, places, 3 * width, 3 * width, 3 * width, threads);
    if (b->product(b->attn_proj, added, attended, rows, threads)) return -1;

#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 1)
    for (long r = 0; r < rows; r++) {
        for (long i = r * width; i < (r + 1) * width; i++) y[i] = x[i] + added[i];
        layer_norm(b->ln_2_weight, b->ln_2_bias, b->epsilon, normed + r * width, y + r * width, width);
    }
    if (b->product(b->c_fc, wide, normed, rows, threads)) return -1;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 1)
    for (long r = 0; r < rows; r++) gelu(wide + r * inner, inner);
    if (b->product(b->mlp_proj, added, wide, rows, threads)) return -1;
    for (long i = 0; i < size; i++) y[i] += added[i];
    return 0;
}
