/* What the files of this folder share. Numbers are fp32 outside of matrices. */
#include <stdint.h>

/* A packed matrix (linear.c). */
struct matrix {
    const void *weight;    /* (tiles, slots, 32) of 4 bytes */
    const uint32_t *start; /* (tiles, 32): where sums start: the bias, or of int8 the int32 -128 * (sum of the row) */
    const float *scale;    /* (tiles, 32) of int8; or NULL */
    const float *bias;     /* (tiles, 32) of int8 */
    long inputs, slots, outputs;
};

/* (rows, inputs) x -> (rows, outputs) y. Gives 0, or -1 without the memory to read x. */
typedef int linear(const struct matrix *m, float *y, const float *x, long rows, int threads);
linear linear_fp32, linear_bf16, linear_int8;

/* Keys and values of one layer, and room for the scores of its attention. */
struct layer {
    float *keys, *values; /* (rows, heads, places, size) */
    float *scores;        /* (rows, heads, places) */
    long rows, heads, places, size;
};

/* Keeps keys k and values v of (rows, heads, size) at their places, and gives y, of the same shape, for the queries q.
 * From one row of q, k, v to the next are so many numbers. */
void attend(
    const struct layer *l, float *y, const float *q, const float *k, const float *v, const int64_t *places, long q_row,
    long k_row, long v_row, int threads
);

/* e^x for x <= 0, to about 1e-7 of it: 2^whole * e^f by the series of Taylor, |f| <= ln(2) / 2. A compiler makes
 * vectors of this, and none of expf. Below -87, where fp32 ends, 1e-38; NaN stays NaN. */
static inline float exponential(float x) {
    const float t = x < -87 ? -87 * 1.44269504f : x * 1.44269504f, whole = __builtin_rintf(t);
    const float f = (t - whole) * 0.69314718f;
    const float series = 1 + f * (1 + f * (1 / 2.f + f * (1 / 6.f + f * (1 / 24.f + f * (1 / 120.f + f / 720)))));
    const int32_t bits = ((int32_t)whole + 127) << 23;
    float power;
    __builtin_memcpy(&power, &bits, 4);
    return series * power;
}
