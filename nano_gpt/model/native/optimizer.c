/* The norm of all gradients, and a step of AdamW for all weights in one call (training/native_adamw.py). */
#include <math.h>
#include <omp.h>

struct adamw {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
};

/* Sum of squares. In every thread, in the order of its numbers; in fp64 beyond some thousand of them. */
double sum_of_squares(float *const *tensors, const long *sizes, long count, int threads) {
    enum { SOME = 4096 };
    double parts[threads], total = 0;
#pragma omp parallel num_threads(threads)
    {
        const long thread = omp_get_thread_num(), of = omp_get_num_threads();
        double part = 0;
        for (long n = 0; n < count; n++) {
            const float *tensor = tensors[n];
            const long end = sizes[n] * (thread + 1) / of;
            for (long first = sizes[n] * thread / of; first < end; first += SOME) {
                const long last = end - first < SOME ? end : first + SOME;
                float sum = 0;
#pragma omp simd reduction(+ : sum)
                for (long i = first; i < last; i++) sum += tensor[i] * tensor[i];
                part += sum;
            }
        }
        parts[thread] = part;
    }
    for (int thread = 0; thread < threads; thread++) total += parts[thread];
    return total;
}

/* Loshchilov & Hutter 2019, algorithm 2. steps: how many each tensor has had, with this one. */
void adamw_step(
    const struct adamw *a, float *const *weights, float *const *grads, float *const *means, float *const *squares,
    const float *steps, const long *sizes, long count, int threads
) {
#pragma omp parallel num_threads(threads)
    {
        const long thread = omp_get_thread_num(), of = omp_get_num_threads();
        for (long n = 0; n < count; n++) {
            float *restrict weight = weights[n], *restrict mean = means[n], *restrict square = squares[n];
            const float *restrict grad = grads[n];
            const float new1 = 1 - a->beta1, new2 = 1 - a->beta2, epsilon = a->epsilon;
            const long first = sizes[n] * thread / of, end = sizes[n] * (thread + 1) / of;
            const float size = a->learning_rate / (1 - pow(a->beta1, steps[n]));
            const float root = 1 / sqrt(1 - pow(a->beta2, steps[n])), kept = 1 - a->learning_rate * a->weight_decay;
#pragma omp simd
            for (long i = first; i < end; i++) {
                mean[i] += new1 * (grad[i] - mean[i]);
                square[i] += new2 * (grad[i] * grad[i] - square[i]);
                weight[i] = weight[i] * kept - size * mean[i] / (sqrtf(square[i]) * root + epsilon);
            }
        }
    }
}
