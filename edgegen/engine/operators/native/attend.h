/* Attention for one kind of processor. Included once for each, with its operations on vectors defined
   (avx2.h, avx512.h), and NAME(x), which makes a name of that kind's own.

   Memory layouts, w is one word: a pair of 16-bit integers that DOT multiplies and sums at once.
     keys    w[block of BLOCK keys][depth / 2][BLOCK]        pairs (j, j + depth / 2) along the head's depth
     values  w[group of 2 LANES keys][LANES][width]          pairs (i, i + LANES) along the keys of a group
     scores  int32[ROWS][SPAN], and in its place the weights, w[ROWS][.. of SPAN], paired as the values are */

#include "tile.h"
#define BLOCK (COLUMNS * LANES)
#define GROUP (2 * LANES)

#define LOAD_AND_ADD(r, c) ADD_F(LOAD_F(out + (r) * out_step + (c) * LANES), TO_FLOAT(sum##r##c))
#define PAIRS(r, c) DOT(sum##r##c, w##c, x##r);
#define ADD_TO(r, c) STORE_F(out + (r) * out_step + (c) * LANES, LOAD_AND_ADD(r, c));
TILE(scores, 1, PAIRS, KEEP, int32_t)
TILE(scores, 2, PAIRS, KEEP, int32_t)
TILE(values, 1, PAIRS, ADD_TO, float)
TILE(values, 2, PAIRS, ADD_TO, float)
#if COLUMNS == 4
TILE(scores, 3, PAIRS, KEEP, int32_t)
TILE(scores, 4, PAIRS, KEEP, int32_t)
TILE(values, 3, PAIRS, ADD_TO, float)
TILE(values, 4, PAIRS, ADD_TO, float)

/* As values3, but the last column is half a vector: Stable Diffusion 1's heads of 40 at 64x64 are two and a half. */
#define COLUMNS_HALF(DO) COLUMNS_2(DO) EACH_ROW(HALF_##DO, 2)
#define LOADS_HALF LOADS_2 __m256i w2 = _mm256_loadu_si256((const __m256i *)(w + (size_t)i * w_step + 2 * LANES));
#define HALF_CLEAR(r, c) __m256i sum##r##c = _mm256_setzero_si256();
#define HALF_PAIRS(r, c) __m256i half##r = _mm512_castsi512_si256(x##r); DOT(sum##r##c, w##c, half##r);
#define HALF_ADD_TO(r, c) \
    _mm256_storeu_ps(out + (r) * out_step + (c) * LANES, _mm256_add_ps( \
        _mm256_loadu_ps(out + (r) * out_step + (c) * LANES), _mm256_cvtepi32_ps(sum##r##c)));
TILE(values, HALF, PAIRS, ADD_TO, float)
#define ANY_TILE(name, columns, ...) \
    switch (columns) { \
        case 1: NAME(name##1)(__VA_ARGS__); break; \
        case 2: NAME(name##2)(__VA_ARGS__); break; \
        case 3: NAME(name##3)(__VA_ARGS__); break; \
        default: NAME(name##4)(__VA_ARGS__); \
    }
#else
#define ANY_TILE(name, columns, ...) \
    if ((columns) == 1) NAME(name##1)(__VA_ARGS__); \
    else NAME(name##2)(__VA_ARGS__);
#endif

#include "power.h"

/* `count` floats, at most LANES, times `scale`, as integers; the lanes behind them are 0. */
INLINE V NAME(quantized)(const float *from, int count, F scale) {
    return TO_INT(MUL_F(count >= LANES ? LOAD_F(from) : LOAD_PART(from, count), scale));
}

INLINE V NAME(paired)(V low, V high) { return OR(AND(low, SET(0xffff)), SHIFT(high, 16)); }

/* Bits of the largest magnitude among `count` floats, or of a NaN: as integers these are larger still. */
FN int32_t NAME(largest)(const float *from, int count) {
    V most = ZERO;
    for (int j = 0; j < count; j += LANES) {
        F x = count - j >= LANES ? LOAD_F(from + j) : LOAD_PART(from + j, count - j);
        most = MAX(most, AND(BITS(x), SET(0x7fffffff)));
    }
    return LARGEST(most);
}

/* How far the integers of a head's keys and values reach: one step for all keys, one for each dimension of
   the values. */
FN void NAME(measure)(const Sizes *s, const float *keys, const float *values, Head *head) {
    int32_t key = 0, most = 0, value[MOST_DEPTH] = {0};
    for (int t = 0; t < s->keys; t++) {
        const float *from = values + (size_t)t * s->stride;
        int32_t of_row = NAME(largest)(keys + (size_t)t * s->stride, s->depth);
        key = key > of_row ? key : of_row;
        for (int j = 0; j < s->depth; j += LANES) {
            F x = s->depth - j >= LANES ? LOAD_F(from + j) : LOAD_PART(from + j, s->depth - j);
            STORE(value + j, MAX(LOAD(value + j), AND(BITS(x), SET(0x7fffffff))));
        }
    }
    for (int j = 0; j < s->depth; j++) most = most > value[j] ? most : value[j];
    head->finite = key < INFINITE && most < INFINITE;
    head->key_step = step_of(key, s->key_limit);
    for (int j = 0; j < s->width; j++) head->value_steps[j] = step_of(value[j], VALUE_LIMIT);
}

/* Keys `first` to `end` of a head, and their values, as integers in the layouts above; `first` is a multiple
   of SPAN. */
FN void NAME(pack)(const Sizes *s, const float *keys, const float *values, Head *head, int first, int end) {
    int half = s->half, padded = padded_to(end, BLOCK);
    F scale = SET_F(1 / head->key_step);
    int32_t words[MOST_DEPTH / 2 + 2 * LANES];
    for (int t = first; t < padded; t++) {
        const float *from = keys + (size_t)t * s->stride;
        int32_t *to = head->keys + (size_t)(t / BLOCK) * half * BLOCK + t % BLOCK;
        for (int j = 0; j < half && t < end; j += LANES) {
            int rest = half - j < LANES ? half - j : LANES, high = s->depth - half - j;
            V low = NAME(quantized)(from + j, rest, scale);
            STORE(words + j, NAME(paired)(low, NAME(quantized)(from + half + j, high < rest ? high : rest, scale)));
        }
        for (int j = 0; j < half; j++) to[j * BLOCK] = t < end ? words[j] : 0;
    }
    for (int t = first; t < padded_to(end, GROUP); t += GROUP)
        for (int i = t; i < t + LANES; i++)
            for (int j = 0; j < s->width; j += LANES) {
                const float *from = values + (size_t)i * s->stride + j;
                int rest = s->depth - j;
                F inverse = LOAD_F(head->value_scales + j);
                V low = i < end ? NAME(quantized)(from, rest, inverse) : ZERO;
                V high = i + LANES < end ? NAME(quantized)(from + (size_t)LANES * s->stride, rest, inverse) : ZERO;
                STORE(head->values + (size_t)(t / 2 + i - t) * s->width + j, NAME(paired)(low, high));
            }
}

/* One row's scores become its weights, 2^(WEIGHT_BITS + scale * (score - top)) of each; returns their sum.
   Scores behind the last key are padding. */
INLINE float NAME(weights)(int32_t *scores, int keys, int padded, float scale, float top) {
    F times = SET_F(scale), plus = SET_F(WEIGHT_BITS - top * scale);
    V sum = ZERO;
    for (int i = 0; i < padded; i += GROUP) {
        F low = FMA(TO_FLOAT(LOAD(scores + i)), times, plus);
        F high = FMA(TO_FLOAT(LOAD(scores + i + LANES)), times, plus);
        V pair = OR(TO_INT(NAME(power_of_2)(low)), SHIFT(TO_INT(NAME(power_of_2)(high)), 16));
        DOT(sum, pair, SET(0x00010001));
        STORE(scores + i / 2, pair);
    }
    return (float)(TOTAL(sum) - (padded - keys) * (scores[0] & 0xffff));
}

/* The largest of a row's scores. The padding becomes like the first one, so that it changes nothing and its
   weight is known. */
INLINE int32_t NAME(top)(int32_t *scores, int keys, int padded) {
    for (int i = keys; i < padded; i++) scores[i] = scores[0];
    V most = LOAD(scores);
    for (int i = LANES; i < padded; i += LANES) most = MAX(most, LOAD(scores + i));
    return LARGEST(most);
}

/* A row of queries as words in `to`; returns what one of its integers stands for, NaN when one is not finite. */
FN float NAME(query)(const Sizes *s, const float *from, int32_t *to) {
    int32_t most = NAME(largest)(from, s->depth);
    float step = step_of(most, s->key_limit);
    F scale = SET_F(1 / step);
    for (int j = 0; j < s->half; j += LANES) {
        int high = s->depth - s->half - j, low = s->half - j;
        V words = NAME(paired)(NAME(quantized)(from + j, low, scale),
                               NAME(quantized)(from + s->half + j, high < low ? high : low, scale));
        STORE(to + j, words);
    }
    return most < INFINITE ? step : NAN;
}

/* Scores of all ROWS rows with the `padded` keys from `first` on. */
INLINE void NAME(score)(const Sizes *s, const Head *head, int first, int padded, Scratch *at) {
    int half = s->half, step = at->query_step;
    for (int b = 0; b < padded; b += BLOCK)
        for (int r = 0; r < ROWS; r += TILE_ROWS) {
            int columns = padded - b < BLOCK ? (padded - b) / LANES : COLUMNS;
            ANY_TILE(scores, columns, at->queries + r * step, step, head->keys + (size_t)(first + b) * half,
                     BLOCK, half, at->scores + r * SPAN + b, SPAN)
        }
}

/* The scores become weights. Where they hold a new top, what was summed before counts less. */
INLINE void NAME(weigh)(const Sizes *s, Softmax *rows, int keys, int padded, Scratch *at) {
    float shrunk[ROWS_UP];
    int32_t most[ROWS_UP] = {0};
    for (int r = 0; r < ROWS; r++) most[r] = NAME(top)(at->scores + r * SPAN, keys, padded);
    for (int r = 0; r < ROWS_UP; r += LANES) { /* all rows at once: one by one they would wait for each */
        F before = LOAD_F(rows->top + r), now = MAX_F(before, TO_FLOAT(LOAD(most + r)));
        F down = MAX_F(MUL_F(SUB_F(before, now), LOAD_F(rows->scale + r)), SET_F(-1000));
        STORE_F(rows->top + r, now);
        STORE_F(shrunk + r, NAME(power_of_2)(down));
    }
    for (int r = 0; r < ROWS; r++) {
        float more = NAME(weights)(at->scores + r * SPAN, keys, padded, rows->scale[r], rows->top[r]);
        rows->sum[r] = rows->sum[r] * shrunk[r] + more;
        for (int j = 0; j < s->width; j += LANES) {
            float *x = at->sums + r * s->width + j;
            STORE_F(x, MUL_F(LOAD_F(x), SET_F(shrunk[r])));
        }
    }
}

/* Values times weights, added to what was summed before. */
INLINE void NAME(sum_up)(const Sizes *s, const Head *head, int first, int padded, Scratch *at) {
    int width = s->width;
    for (int i = 0; i < padded / 2; i += FLUSH)
        for (int r = 0; r < ROWS; r += TILE_ROWS)
            for (int c = 0; c < width / LANES;) {
                int left = width / LANES - c, steps = padded / 2 - i < FLUSH ? padded / 2 - i : FLUSH;
#if COLUMNS == 4
                if (left == 3 && s->depth % LANES > 0 && s->depth % LANES <= LANES / 2) {
                    NAME(valuesHALF)(at->scores + r * SPAN + i, SPAN,
                                     head->values + (size_t)(first / 2 + i) * width + c * LANES, width, steps,
                                     at->sums + r * width + c * LANES, width);
                    break;
                }
#endif
                int columns = left == COLUMNS + 1 ? (left + 1) / 2 : left < COLUMNS ? left : COLUMNS;
                ANY_TILE(values, columns, at->scores + r * SPAN + i, SPAN,
                         head->values + (size_t)(first / 2 + i) * width + c * LANES, width, steps,
                         at->sums + r * width + c * LANES, width)
                c += columns;
            }
}

/* `count` rows of queries, at most ROWS, attend to a head's keys, SPAN of them at a time: softmax is summed as
   it goes along, and what was summed is scaled down when a larger score comes (Milakov and Gimelshein,
   https://arxiv.org/abs/1805.02867; Dao et al., https://arxiv.org/abs/2205.14135). */
FN void NAME(attend)(const Sizes *s, const Head *head, const float *queries, float *out, int count, Scratch *at) {
    Softmax rows = {.sum = {0}};
    float unit = head->key_step * s->scale * LOG2_E;
    memset(at->queries, 0, sizeof(int32_t) * ROWS * at->query_step);
    memset(at->sums, 0, sizeof(float) * ROWS * s->width);
    for (int r = 0; r < ROWS_UP; r++) rows.top[r] = -1e30f;
    for (int r = 0; r < count; r++)
        rows.scale[r] = unit * NAME(query)(s, queries + (size_t)r * s->stride, at->queries + r * at->query_step);
    for (int first = 0; first < s->keys; first += SPAN) {
        int keys = s->keys - first < SPAN ? s->keys - first : SPAN, padded = padded_to(keys, GROUP);
        NAME(score)(s, head, first, padded, at);
        NAME(weigh)(s, &rows, keys, padded, at);
        NAME(sum_up)(s, head, first, padded, at);
    }
    for (int r = 0; r < count; r++) {
        F share = SET_F(head->finite && !isnan(rows.scale[r]) ? 1 / rows.sum[r] : NAN);
        for (int j = 0; j < s->depth; j += LANES) {
            float *to = out + (size_t)r * s->stride + j, *sum = at->sums + r * s->width + j;
            F x = MUL_F(MUL_F(LOAD_F(sum), LOAD_F(head->value_steps + j)), share);
            if (s->depth - j >= LANES) STORE_F(to, x);
            else STORE_PART(to, s->depth - j, x);
        }
    }
}

static const Kind NAME(kind) = {NAME(measure), NAME(pack), NAME(attend), BLOCK, LANES};
