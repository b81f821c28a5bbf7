/* Tiles of products, for one kind of processor: sum[r][c] = the dot products of row r of `x`, `steps` words, and
   column c of `w`. What a word is, PRODUCT knows; what becomes of the sums, OUT. A tile is a function of its own,
   so that all its sums stay in registers. */

#define FN static TARGET
#define INLINE static inline __attribute__((always_inline)) TARGET

#define EACH_ROW(DO, c) DO(0, c) DO(1, c) DO(2, c) DO(3, c) DO(4, c) DO(5, c)
#define TILE_ROWS 6
#define COLUMNS_1(DO) EACH_ROW(DO, 0)
#define COLUMNS_2(DO) COLUMNS_1(DO) EACH_ROW(DO, 1)
#define COLUMNS_3(DO) COLUMNS_2(DO) EACH_ROW(DO, 2)
#define COLUMNS_4(DO) COLUMNS_3(DO) EACH_ROW(DO, 3)
#define LOADS_1 LOAD_COLUMN(0)
#define LOADS_2 LOADS_1 LOAD_COLUMN(1)
#define LOADS_3 LOADS_2 LOAD_COLUMN(2)
#define LOADS_4 LOADS_3 LOAD_COLUMN(3)
#define CLEAR(r, c) V sum##r##c = ZERO;
#define LOAD_COLUMN(c) V w##c = LOAD(w + (size_t)i * w_step + (c) * LANES);
#define LOAD_ROW(r, c) V x##r = SET(x[(r) * x_step + i]);
#define KEEP(r, c) STORE(out + (r) * out_step + (c) * LANES, sum##r##c);
#define TILE(name, columns, PRODUCT, OUT, type) \
    FN __attribute__((noinline)) void NAME(name##columns)( \
        const int32_t *x, int x_step, const int32_t *w, int w_step, int steps, type *out, int out_step) { \
        COLUMNS_##columns(CLEAR) \
        for (int i = 0; i < steps; i++) { LOADS_##columns EACH_ROW(LOAD_ROW, 0) COLUMNS_##columns(PRODUCT) } \
        COLUMNS_##columns(OUT) \
    }
