/* The gated product for one kind of processor; see geglu.c. Included once for each, as attend.h is.

   Columns of weights are packed as words of four bytes along the depth, in panels of COLUMNS vectors:
     panel   w[depth / 4][WIDE of the values, WIDE of the gate]                                          */

#include "tile.h"
#include "power.h"
#define WIDE (COLUMNS / 2 * LANES)

#define BYTES(r, c) DOT_BYTES(sum##r##c, x##r, w##c);
#if COLUMNS == 4
TILE(products, 4, BYTES, KEEP, int32_t)
#define PRODUCTS NAME(products4)
#else
TILE(products, 2, BYTES, KEEP, int32_t)
#define PRODUCTS NAME(products2)
#endif

/* x times the share of a normal distribution below it (Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415),
   with the error function of Abramowitz and Stegun, 7.1.26, which is off by 1.5e-7 at most. */
INLINE F NAME(gelu)(F x) {
    F size = FLOATS(AND(BITS(x), SET(0x7fffffff))), z = MUL_F(size, SET_F(0.70710678f));
    F t = DIV_F(SET_F(1), FMA(z, SET_F(0.3275911f), SET_F(1))), y = SET_F(1.061405429f);
    y = FMA(y, t, SET_F(-1.453152027f));
    y = FMA(y, t, SET_F(1.421413741f));
    y = FMA(y, t, SET_F(-0.284496736f));
    y = FMA(y, t, SET_F(0.254829592f));
    F power = NAME(power_of_2)(MAX_F(MUL_F(MUL_F(z, z), SET_F(-LOG2_E)), SET_F(-100)));
    F beyond = MUL_F(MUL_F(MUL_F(y, t), power), SET_F(0.5f)); /* the share beyond |x| */
    return SUB_F(MAX_F(x, SET_F(0)), MUL_F(size, beyond));
}

/* What a panel's sums start from, for both halves: the bias less what the zero point of `x` adds. */
FN void NAME(starts)(const Call *call, const int32_t *panel, int first, int32_t *starts, float *scales) {
    for (int c = 0; c < COLUMNS; c++) {
        const Half *half = call->halves + c / (COLUMNS / 2);
        int at = first + c % (COLUMNS / 2) * LANES;
        V sum = ZERO, ones = SET(0x01010101);
        for (int k = 0; k < call->depth / 4; k++) {
            V w = LOAD(panel + (k * COLUMNS + c) * LANES);
            DOT_BYTES(sum, ones, w);
        }
        STORE(starts + c * LANES, SUB(LOAD(half->bias + at), MUL(sum, SET(call->x_zero))));
        STORE_F(scales + c * LANES, MUL_F(LOAD_F(half->scales + at), SET_F(call->x_scale)));
    }
}

/* One row of sums: values times the gate's GELU, rounded to bytes. */
INLINE void NAME(gate)(const Call *call, const int32_t *sums, const int32_t *starts, const float *scales, uint8_t *out) {
    F least = SET_F(-(float)call->out_zero), most = SET_F(255 - (float)call->out_zero);
    for (int c = 0; c < COLUMNS / 2; c++) {
        int v = c * LANES, g = WIDE + v;
        F value = MUL_F(TO_FLOAT(ADD(LOAD(sums + v), LOAD(starts + v))), LOAD_F(scales + v));
        F gate = MUL_F(TO_FLOAT(ADD(LOAD(sums + g), LOAD(starts + g))), LOAD_F(scales + g));
        F levels = DIV_F(MUL_F(value, NAME(gelu)(gate)), SET_F(call->out_scale));
        V level = TO_INT(MIN_F(MAX_F(levels, least), most));
        STORE_BYTES(out + v, ADD(level, SET(call->out_zero)));
    }
}

/* WIDE columns of the result from `first` on, in the rows from `top` to `end`. */
FN void NAME(panel)(const Call *call, int first, int top, int end, int32_t *room) {
    int words = call->depth / 4;
    int32_t *panel = room, *rest = room + (size_t)words * COLUMNS * LANES;
    int32_t starts[COLUMNS * LANES], sums[TILE_ROWS * COLUMNS * LANES];
    float scales[COLUMNS * LANES];
    for (int h = 0; h < 2; h++)
        for (int j = 0; j < WIDE; j += 8)
            pack_columns(call->halves[h].weights + first + j, call->width, words, panel + h * WIDE + j, COLUMNS * LANES);
    NAME(starts)(call, panel, first, starts, scales);
    for (int r = top; r < end; r += TILE_ROWS) {
        const int32_t *x = (const int32_t *)(call->x + (size_t)r * call->depth);
        int rows = end - r < TILE_ROWS ? end - r : TILE_ROWS;
        if (rows < TILE_ROWS) x = memcpy(rest, x, (size_t)rows * call->depth); /* what lies behind is not ours */
        PRODUCTS(x, words, panel, COLUMNS * LANES, words, sums, COLUMNS * LANES);
        for (int i = 0; i < rows; i++) {
            uint8_t *out = call->out + (size_t)(r + i) * call->width + first;
            NAME(gate)(call, sums + i * COLUMNS * LANES, starts, scales, out);
        }
    }
}

static const Kind NAME(kind) = {NAME(panel), WIDE, COLUMNS * LANES, TILE_ROWS};
