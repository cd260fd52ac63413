/* Products of bf16 in blocks of 32 x 32, summed in fp32: by AMX where the CPU has it, else by AVX-512.
 *
 * Both read the same layouts. A lies by rows. B lies in tiles of 32 x 16, each with its rows by twos: the 16 columns of
 * rows 0 and 1 as 16 pairs, then those of rows 2 and 3, ... A tile is 1 KiB; the tiles of 16 columns lie behind each
 * other, rows 0 to 31, 32 to 63, ... Numbers of bf16 are the upper halves of fp32, here uint16_t.
 *
 * For CPUs with AVX512_BF16; elsewhere this file is empty. */
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define HAS_TILES 1
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AMX_BF16__) && defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define INLINE static inline __attribute__((always_inline))
enum { SIDE = 32, TILE = 512 }; /* rows and columns of a block; numbers of a tile of B */

/* ---- Threads */

/* The rows of this thread, in a parallel region: first to end. */
struct share {
    long first, end;
};

static struct share share_of(long rows) {
    const long thread = omp_get_thread_num(), of = omp_get_num_threads();
    return (struct share){rows * thread / of, rows * (thread + 1) / of};
}

/* ---- Numbers */

INLINE __mmask16 first_of(long n) { return n >= 16 ? 0xffff : n > 0 ? (1 << n) - 1 : 0; }

INLINE __m512 from_bf16(__m256i bits) { return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16); }
INLINE __m256i to_bf16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
INLINE __m512 read_bf16(const uint16_t *x) { return from_bf16(_mm256_loadu_si256((const __m256i *)x)); }
INLINE void write_bf16(uint16_t *y, __m512 x) { _mm256_storeu_si256((__m256i *)y, to_bf16(x)); }

/* What a cache would lose again before it is read goes to memory directly, in whole lines, which need not be read first:
 * 1.3 to 1.6 times as fast for a product of 4096 x 1536. `line` is aligned. */
enum { STREAMED = 1 << 20 }; /* bytes of a result */
INLINE void write_line(void *line, __m512i bits, int stream) {
    if (stream) _mm512_stream_si512(line, bits);
    else _mm512_store_si512(line, bits);
}
INLINE void write_two(uint16_t *y, __m512 low, __m512 high, int stream) { /* 32 numbers */
    write_line(y, (__m512i)_mm512_cvtne2ps_pbh(high, low), stream);
}

/* The numbers of two rows by twos. */
INLINE __m512i by_twos(__m256i even, __m256i odd) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

/* e^x to about 1e-6 of it: 2^whole * e^f, by the series of Taylor, |f| <= ln(2) / 2. 0 for -infinity, where f is no
 * number: scalef gives 0 for one times 2^-infinity. NaN stays NaN. */
INLINE __m512 exponential16(__m512 x) {
    const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_mul_ps(_mm512_sub_ps(t, whole), _mm512_set1_ps(0.69314718f));
    __m512 series = _mm512_set1_ps(1 / 120.f);
    series = _mm512_fmadd_ps(series, f, _mm512_set1_ps(1 / 24.f));
    series = _mm512_fmadd_ps(series, f, _mm512_set1_ps(1 / 6.f));
    series = _mm512_fmadd_ps(series, f, _mm512_set1_ps(1 / 2.f));
    series = _mm512_fmadd_ps(series, f, _mm512_set1_ps(1));
    series = _mm512_fmadd_ps(series, f, _mm512_set1_ps(1));
    return _mm512_scalef_ps(series, whole);
}

/* ---- Sums over rows: every thread has a part, and they are added in the order of the threads */

static float *parts_of_sums(long n, int threads) { return calloc(n * threads, sizeof(float)); }

/* `each`: numbers from one thread's to the next one's. */
static void add_parts(float *sums, const float *parts, long n, long each, int threads) {
    for (long i = 0; sums && i < n; i++) {
        sums[i] = 0;
        for (int thread = 0; thread < threads; thread++) sums[i] += parts[thread * each + i];
    }
}

INLINE void add_to(float *sums, __m512 x) { _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), x)); }

/* ---- Layouts */

/* Transposed: 16 rows of 16 numbers of 4 bytes, or pairs of bf16. */
static void transpose(uint32_t *to, long to_row, const uint32_t *from, long from_row) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(from + i * from_row);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        } /* a[i + c] has, in each quarter q, column 4 q + c of rows i to i + 3 */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512i low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x44), high = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xee);
        const __m512i low2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44);
        const __m512i high2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xee);
        b[c] = _mm512_shuffle_i32x4(low, low2, 0x88);
        b[4 + c] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        b[8 + c] = _mm512_shuffle_i32x4(high, high2, 0x88);
        b[12 + c] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + i * to_row, b[i]);
}

/* (rows, columns) x, both whole numbers of 32, as B: tile_rows numbers from 16 columns to the next. */
static void as_b(uint16_t *b, long tile_rows, const uint16_t *x, long row, long rows, long columns) {
    for (long r = 0; r < rows; r += 2) /* memory is read from its start to its end */
        for (long c = 0; c < columns; c += 16)
            _mm512_storeu_si512(
                b + c / 16 * tile_rows + r * 16,
                by_twos(_mm256_loadu_si256((const __m256i *)(x + r * row + c)),
                        _mm256_loadu_si256((const __m256i *)(x + (r + 1) * row + c)))
            );
}

/* (columns, rows) x, transposed, as B. */
static void transposed_as_b(uint16_t *b, long tile_rows, const uint16_t *x, long row, long rows, long columns) {
    for (long c = 0; c < columns; c += 16)
        for (long r = 0; r < rows; r += 32)
            transpose((uint32_t *)(b + c / 16 * tile_rows + r * 16), 16, (const uint32_t *)(x + c * row + r), row / 2);
}

/* (rows, columns) x, transposed, by rows: y_row numbers from one to the next. */
static void transposed(uint16_t *y, long y_row, const uint16_t *x, long row, long rows, long columns) {
    uint16_t pairs[TILE] __attribute__((aligned(64)));
    for (long r = 0; r < rows; r += 32)
        for (long c = 0; c < columns; c += 16) {
            as_b(pairs, 0, x + r * row + c, row, 32, 16);
            transpose((uint32_t *)(y + c * y_row + r), y_row / 2, (const uint32_t *)pairs, 16);
        }
}

/* ---- Products */

/* C (32, 32) = A (32, 32 * steps) B, or added to what C holds. c_row and a_row: numbers from a row to the next. */
typedef void product(
    float *c, long c_row, const uint16_t *a, long a_row, const uint16_t *b, long tile_rows, long steps, int add
);

static void product_avx512(
    float *c, long c_row, const uint16_t *a, long a_row, const uint16_t *b, long tile_rows, long steps, int add
) {
    enum { ROWS = 8 };
    for (int first = 0; first < SIDE; first += ROWS, a += ROWS * a_row, c += ROWS * c_row) {
        __m512 sum[ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++) sum[r][v] = add ? _mm512_loadu_ps(c + r * c_row + 16 * v) : _mm512_setzero_ps();
        for (long pair = 0; pair < 16 * steps; pair++) {
            const __m512bh left = (__m512bh)_mm512_loadu_si512(b + pair * 32);
            const __m512bh right = (__m512bh)_mm512_loadu_si512(b + tile_rows + pair * 32);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                int both;
                memcpy(&both, a + r * a_row + 2 * pair, 4);
                sum[r][0] = _mm512_dpbf16_ps(sum[r][0], (__m512bh)_mm512_set1_epi32(both), left);
                sum[r][1] = _mm512_dpbf16_ps(sum[r][1], (__m512bh)_mm512_set1_epi32(both), right);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++) _mm512_storeu_ps(c + r * c_row + 16 * v, sum[r][v]);
    }
}

struct tiles { /* what a thread had set up before us: oneDNN uses the same registers */
    uint8_t before[64];
};

#if defined(__AMX_BF16__) && defined(__AMX_TILE__)
static void product_amx(
    float *c, long c_row, const uint16_t *a, long a_row, const uint16_t *b, long tile_rows, long steps, int add
) {
    if (add) {
        _tile_loadd(0, c, 4 * c_row);
        _tile_loadd(1, c + 16, 4 * c_row);
        _tile_loadd(2, c + 16 * c_row, 4 * c_row);
        _tile_loadd(3, c + 16 * c_row + 16, 4 * c_row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long step = 0; step < steps; step++) {
        _tile_loadd(4, a + SIDE * step, 2 * a_row);
        _tile_loadd(6, b + TILE * step, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + tile_rows + TILE * step, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * a_row + SIDE * step, 2 * a_row);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 4 * c_row);
    _tile_stored(1, c + 16, 4 * c_row);
    _tile_stored(2, c + 16 * c_row, 4 * c_row);
    _tile_stored(3, c + 16 * c_row + 16, 4 * c_row);
}

/* Linux lends a process these registers when it asks for them. */
static int may_use_amx(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    static int asked; /* 1: yes, 2: no; threads that ask at once get the same answer */
    if (!asked) asked = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) ? 2 : 1;
    return asked == 1;
}

/* The way to multiply, for this thread until end_tiles. */
static product *begin_tiles(struct tiles *t) {
    if (!may_use_amx()) return product_avx512;
    uint8_t wanted[64] __attribute__((aligned(64))) = {1}; /* palette 1 */
    for (int tile = 0; tile < 8; tile++) {
        wanted[16 + 2 * tile] = 64; /* bytes of a row */
        wanted[48 + tile] = 16;     /* rows */
    }
    _tile_storeconfig(t->before);
    _tile_loadconfig(wanted);
    return product_amx;
}

static void end_tiles(const struct tiles *t) {
    if (may_use_amx()) _tile_loadconfig(t->before);
}
#else
static product *begin_tiles(struct tiles *t) { return (void)t, product_avx512; }
static void end_tiles(const struct tiles *t) { (void)t; }
#endif
#endif
