/* Attention over 16-bit integers, as an operator for ONNX Runtime's CPU provider:
   edgegen:MultiHeadAttention does what com.microsoft:MultiHeadAttention does with three inputs and no mask.

   Queries, keys and values become integers of 12 bits (values: 10) and a sign, the softmax's weights ones of
   14 bits; products are summed exactly, 32 bits wide. That is some 20 dB closer to float32 than the layers
   around it in 8 bits are, and processors with VNNI multiply twice as many of them as of floats. Scores
   are never whole: they are made and used up for ROWS queries and SPAN keys at a time.

   Errors are answered to ONNX Runtime as text; nothing is printed. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kinds.h"
#include "ort.h"
#include "operators.h"

enum {
    ROWS = 24,         /* queries that share one pass over the keys; a multiple of a tile's rows */
    ROWS_UP = 32,      /* rounded up to whole vectors */
    SPAN = 512,        /* keys whose scores exist at a time; a multiple of every kind's block */
    FLUSH = 64,        /* pairs of weight and value summed as integers: 2^14 * 1023 * 128 < 2^31 */
    WEIGHT_BITS = 14,
    VALUE_LIMIT = 1023,
    KEY_LIMIT = 4095,
    MOST_DEPTH = 1024, /* of one head */
    INFINITE = 0x7f800000,
    GROUP_BYTES = 8 << 20 /* of packed keys and values at a time, or two heads' */
};
#define LOG2_E 1.44269504f

typedef struct Sizes {
    int batch, heads, queries, keys;
    int depth, half, width; /* of a head; its words; rounded up to whole vectors */
    int stride;             /* floats from one token to the next */
    float key_limit, scale;
} Sizes;

typedef struct Head {
    int32_t *keys, *values;
    float *value_steps, *value_scales; /* width each */
    float key_step;
    int finite;
} Head;

typedef struct Scratch {
    int32_t *queries, *scores;
    float *sums;
    int query_step;
} Scratch;

typedef struct Softmax { /* of each row, so far */
    float scale[ROWS_UP]; /* what a score counts, in powers of 2 */
    float top[ROWS_UP];   /* its largest score */
    float sum[ROWS_UP];   /* of its weights */
} Softmax;

typedef struct Kind {
    void (*measure)(const Sizes *, const float *keys, const float *values, Head *);
    void (*pack)(const Sizes *, const float *keys, const float *values, Head *, int first, int end);
    void (*attend)(const Sizes *, const Head *, const float *queries, float *out, int rows, Scratch *);
    int block, lanes;
} Kind;

static inline int padded_to(int count, int multiple) { return (count + multiple - 1) / multiple * multiple; }

/* The float one integer stands for when the largest magnitude, given by its bits, becomes `limit`. */
static inline float step_of(int32_t bits, float limit) {
    float most;
    memcpy(&most, &bits, sizeof most);
    return most > 1e-30f ? most / limit : 1e-30f;
}

#define CODE "attend.h"
#include "each_kind.h"

/* One call's work, cut into pieces that any thread may take. */
typedef struct Work {
    const Sizes *sizes;
    const Kind *kind;
    const float *queries, *keys, *values;
    float *out;
    Head *heads;
    int first; /* of the heads that are at hand now, counted through the batch */
    int failed;
} Work;

/* Where a head's first token begins, in a tensor of `tokens` tokens. */
static size_t place(const Sizes *s, int head, int tokens) {
    return (size_t)(head / s->heads) * tokens * s->stride + (size_t)(head % s->heads) * s->depth;
}

static void measure_piece(void *given, size_t piece) {
    Work *work = given;
    const Sizes *s = work->sizes;
    Head *head = work->heads + piece;
    size_t at = place(s, work->first + (int)piece, s->keys);
    work->kind->measure(s, work->keys + at, work->values + at, head);
    for (int j = 0; j < s->width; j++) head->value_scales[j] = 1 / head->value_steps[j];
}

static void pack_piece(void *given, size_t piece) {
    Work *work = given;
    const Sizes *s = work->sizes;
    int spans = (s->keys + SPAN - 1) / SPAN, head = (int)piece / spans, first = (int)piece % spans * SPAN;
    size_t at = place(s, work->first + head, s->keys);
    int end = first + SPAN < s->keys ? first + SPAN : s->keys;
    work->kind->pack(s, work->keys + at, work->values + at, work->heads + head, first, end);
}

static void attend_piece(void *given, size_t piece) {
    Work *work = given;
    const Sizes *s = work->sizes;
    int parts = (s->queries + ROWS - 1) / ROWS, head = (int)piece / parts, first = (int)piece % parts * ROWS;
    int rows = s->queries - first < ROWS ? s->queries - first : ROWS;
    size_t at = place(s, work->first + head, s->queries) + (size_t)first * s->stride;
    int step = padded_to(s->half, work->kind->lanes);
    int32_t *room = malloc(sizeof(int32_t) * ROWS * ((size_t)step + SPAN + s->width));
    if (!room) {
        work->failed = 1;
        return;
    }
    Scratch scratch = {room, room + ROWS * step, (float *)(room + ROWS * (step + SPAN)), step};
    work->kind->attend(s, work->heads + head, work->queries + at, work->out + at, rows, &scratch);
    free(room);
}

/* Room for `count` heads in one piece, which is returned; NULL: none. */
static void *make_heads(const Sizes *s, const Kind *kind, int count, Head **heads) {
    size_t keys = (size_t)padded_to(s->keys, kind->block), words = keys * s->half, pairs = keys / 2 * s->width;
    size_t each = sizeof(Head) + sizeof(int32_t) * (words + pairs + 2 * (size_t)s->width);
    char *room = malloc(each * count);
    if (!room) return NULL;
    int32_t *at = (int32_t *)(room + sizeof(Head) * count);
    *heads = (Head *)room;
    for (int h = 0; h < count; h++) {
        Head *head = *heads + h;
        head->keys = at;
        head->values = head->keys + words;
        head->value_steps = (float *)(head->values + pairs);
        head->value_scales = head->value_steps + s->width;
        at = (int32_t *)(head->value_scales + s->width);
    }
    return room;
}

/* How many heads are packed at a time. */
static int heads_at_once(const Sizes *s) {
    size_t each = sizeof(int32_t) * (size_t)s->keys * (s->half + s->width / 2);
    int all = s->batch * s->heads, count = (int)(GROUP_BYTES / (each + 1));
    count = count < 2 ? 2 : count;
    return count < all ? count : all;
}

static Status *run(OrtApi api, const Context *context, Work *work) {
    const Sizes *s = work->sizes;
    int all = s->batch * s->heads, count = heads_at_once(s);
    void *room = make_heads(s, work->kind, count, &work->heads);
    if (!room) return ort_create_status(api)(ORT_FAIL, "attention: failed to allocate memory for keys and values");
    Status *status = NULL;
    for (work->first = 0; work->first < all && !status; work->first += count) {
        size_t now = all - work->first < count ? all - work->first : count;
        size_t spans = (s->keys + SPAN - 1) / SPAN, parts = (s->queries + ROWS - 1) / ROWS;
        status = ort_parallel(api)(context, measure_piece, now, 0, work);
        if (!status) status = ort_parallel(api)(context, pack_piece, now * spans, 0, work);
        if (!status) status = ort_parallel(api)(context, attend_piece, now * parts, 0, work);
    }
    free(room);
    if (!status && work->failed)
        return ort_create_status(api)(ORT_FAIL, "attention: failed to allocate memory for scores");
    return status;
}

typedef struct Kernel {
    OrtApi api;
    const Kind *kind;
    int64_t heads;
    float scale; /* 0: 1 / sqrt(depth) */
} Kernel;

static Status *measure_call(const Kernel *kernel, const int64_t q[3], const int64_t k[3], const int64_t v[3], Sizes *s) {
    if (memcmp(k, v, sizeof(int64_t) * 3) || q[0] != k[0] || q[2] != k[2])
        return refuse(kernel->api, "attention: the shapes of queries, keys and values do not fit together");
    if (q[2] % kernel->heads) return refuse(kernel->api, "attention: the width is no multiple of num_heads");
    int64_t depth = q[2] / kernel->heads, most = INT32_MAX / 4;
    if (depth < 1 || depth > MOST_DEPTH) return refuse(kernel->api, "attention: a head must have 1 to 1024 dimensions");
    if (k[1] < 1 || q[1] > most || k[1] > most || q[0] * kernel->heads > most)
        return refuse(kernel->api, "attention: no keys, or too many tokens");
    int half = (int)(depth + 1) / 2;
    float limit = floorf(sqrtf((float)INT32_MAX / depth)) - 1; /* depth products still fit */
    *s = (Sizes){(int)q[0], (int)kernel->heads, (int)q[1], (int)k[1], (int)depth, half,
                 padded_to((int)depth, kernel->kind->lanes), (int)q[2],
                 limit < KEY_LIMIT ? limit : KEY_LIMIT, kernel->scale};
    if (!s->scale) s->scale = 1 / sqrtf((float)depth);
    return NULL;
}

static Status *compute(void *given, Context *context) {
    Kernel *kernel = given;
    OrtApi api = kernel->api;
    Sizes sizes;
    Work work = {.sizes = &sizes, .kind = kernel->kind};
    int64_t q[3], k[3], v[3];
    Value *out;
    const char *rank = "attention: queries, keys and values must have rank 3";
    Status *status = read_input(api, context, 0, &work.queries, q, 3, rank);
    if (!status) status = read_input(api, context, 1, &work.keys, k, 3, rank);
    if (!status) status = read_input(api, context, 2, &work.values, v, 3, rank);
    if (!status) status = measure_call(kernel, q, k, v, &sizes);
    if (!status) status = ort_output(api)(context, 0, q, 3, &out);
    if (!status) status = ort_data(api)(out, (void **)&work.out);
    if (status || !sizes.batch || !sizes.queries) return status;
    return run(api, context, &work);
}

static Status *create(const CustomOp *op, OrtApi api, const KernelInfo *info, void **out) {
    (void)op;
    Kernel made = {.api = api, .kind = kinds[chosen_kind]};
    Status *status = ort_attribute_int(api)(info, "num_heads", &made.heads);
    if (status) return status;
    if (made.heads < 1 || made.heads > INT32_MAX) return refuse(api, "attention: num_heads must be 1 or more");
    status = ort_attribute_float(api)(info, "scale", &made.scale);
    if (status) { /* there is none */
        ort_release_status(api)(status);
        made.scale = 0;
    }
    if (!(made.scale >= 0)) return refuse(api, "attention: scale must be 0 or more");
    Kernel *kernel = malloc(sizeof *kernel);
    if (!kernel) return ort_create_status(api)(ORT_FAIL, "attention: failed to allocate memory");
    *kernel = made;
    *out = kernel;
    return NULL;
}

static const char *name(const CustomOp *op) { return (void)op, "MultiHeadAttention"; }
static int float_type(const CustomOp *op, size_t index) { return (void)op, (void)index, ORT_FLOAT; }
static size_t three(const CustomOp *op) { return (void)op, (size_t)3; }

const CustomOp attention_operator = {
    OPERATOR_DEFAULTS, .get_name = name,
    .get_input_type = float_type, .get_input_count = three, .get_output_type = float_type,
    .create_kernel_v2 = create, .compute_v2 = compute, .destroy = free,
};
