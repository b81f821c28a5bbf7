/* The gated linear unit of a transformer's feed-forward layer (Shazeer, https://arxiv.org/abs/2002.05202), in 8 bits:
   edgegen:GEGLU(x, x_scale, x_zero, w, w_scales, bias, v, v_scales, bias of v, y_scale, y_zero) gives

     y = quantized((x w + bias) * GELU(x v + bias of v))

   where x, (rows, depth), and y, (rows, width), are unsigned bytes with one scale and zero point, w and v,
   (depth, width), signed bytes with a scale for each column, and each bias integers of scale x_scale * w_scale. The
   products are the very integers that ONNX Runtime's QGemm has; what it would keep of them, two float tensors of
   four times the result's bytes each, never leaves the cache. Weights are read as they are stored. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kinds.h"
#include "operators.h"

#define LOG2_E 1.44269504f
enum {
    ROWS_AT_ONCE = 1024, /* of one panel, which is packed again for the next */
    MOST_DEPTH = 1 << 16, /* sums of so many products of bytes fit into 32 bits */
    DIVISOR = 32          /* of the width: a multiple of every kind's WIDE */
};

typedef struct Half {
    const int8_t *weights;
    const float *scales;
    const int32_t *bias;
} Half;

typedef struct Call {
    OrtApi api;
    const struct Kind *kind;
    const uint8_t *x;
    uint8_t *out;
    Half halves[2]; /* the values', the gate's */
    float x_scale, out_scale;
    int x_zero, out_zero;
    int rows, depth, width;
    int piece_rows, failed;
} Call;

typedef struct Kind {
    void (*panel)(const Call *, int first, int top, int end, int32_t *room);
    int wide, words, tile_rows; /* words: in a panel for each four of the depth */
} Kind;

#if defined(__x86_64__)
#include <immintrin.h>

/* 8 columns of `words` words along the depth. */
static void pack_columns(const int8_t *from, size_t stride, int words, int32_t *to, int step) {
    for (int k = 0; k < words; k++, from += 4 * stride, to += step) {
        __m128i a = _mm_loadl_epi64((const __m128i *)from), b = _mm_loadl_epi64((const __m128i *)(from + stride));
        __m128i c = _mm_loadl_epi64((const __m128i *)(from + 2 * stride));
        __m128i d = _mm_loadl_epi64((const __m128i *)(from + 3 * stride));
        __m128i low = _mm_unpacklo_epi8(a, b), high = _mm_unpacklo_epi8(c, d);
        _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(low, high));
        _mm_storeu_si128((__m128i *)(to + 4), _mm_unpackhi_epi16(low, high));
    }
}

#endif

#define CODE "gate.h"
#include "each_kind.h"

static void do_piece(void *given, size_t piece) {
    Call *call = given;
    const Kind *kind = call->kind;
    int panels = call->width / kind->wide, first = (int)(piece % panels) * kind->wide;
    int top = (int)(piece / panels) * call->piece_rows, end = top + call->piece_rows;
    size_t words = (size_t)call->depth / 4 * (kind->words + kind->tile_rows);
    int32_t *room = malloc(words * sizeof(int32_t));
    if (!room) {
        call->failed = 1;
        return;
    }
    kind->panel(call, first, top, end < call->rows ? end : call->rows, room);
    free(room);
}

static Status *run(const Context *context, Call *call) {
    int parts = (call->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, rows = call->kind->tile_rows;
    call->piece_rows = ((call->rows + parts - 1) / parts + rows - 1) / rows * rows;
    parts = (call->rows + call->piece_rows - 1) / call->piece_rows;
    size_t pieces = (size_t)parts * (call->width / call->kind->wide);
    Status *status = ort_parallel(call->api)(context, do_piece, pieces, 0, call);
    if (!status && call->failed) return ort_create_status(call->api)(ORT_FAIL, "GEGLU: failed to allocate memory");
    return status;
}

/* One half's weights, scales and bias, inputs `index` and the two after it; `sides` becomes those of the weights. */
static Status *read_half(OrtApi api, const Context *context, size_t index, Half *half, int64_t sides[2]) {
    int64_t scales, bias;
    Status *status = read_input(api, context, index, &half->weights, sides, 2, "GEGLU: weights must have rank 2");
    const char *rank = "GEGLU: scales of weights and bias must have rank 1";
    if (!status) status = read_input(api, context, index + 1, &half->scales, &scales, 1, rank);
    if (!status) status = read_input(api, context, index + 2, &half->bias, &bias, 1, rank);
    if (!status && (scales != sides[1] || bias != sides[1]))
        status = refuse(api, "GEGLU: scales and bias must be as many as the weights' columns");
    return status;
}

static Status *read_level(OrtApi api, const Context *context, size_t index, float *scale, int *zero) {
    const float *found;
    const uint8_t *point;
    const char *rank = "GEGLU: scales and zero points of tensors must be scalars";
    Status *status = read_input(api, context, index, &found, NULL, 0, rank);
    if (!status) status = read_input(api, context, index + 1, &point, NULL, 0, rank);
    if (status) return status;
    *scale = *found;
    *zero = *point;
    return *found > 0 ? NULL : refuse(api, "GEGLU: scales must be more than 0");
}

static Status *check(Call *call, const int64_t x[2], const int64_t w[2], const int64_t v[2]) {
    if (x[1] != w[0] || memcmp(w, v, sizeof(int64_t) * 2))
        return refuse(call->api, "GEGLU: the shapes of x and the weights do not fit together");
    if (w[0] < 4 || w[0] % 4 || w[0] > MOST_DEPTH)
        return refuse(call->api, "GEGLU: the depth must be a multiple of 4, up to 65536");
    if (w[1] < DIVISOR || w[1] % DIVISOR || w[1] > INT32_MAX / 4 || x[0] > INT32_MAX / 4)
        return refuse(call->api, "GEGLU: the width must be a multiple of 32, and rows and columns not too many");
    call->rows = (int)x[0];
    call->depth = (int)w[0];
    call->width = (int)w[1];
    return NULL;
}

typedef struct Kernel {
    OrtApi api;
    const Kind *kind;
} Kernel;

static Status *compute(void *given, Context *context) {
    Kernel *kernel = given;
    OrtApi api = kernel->api;
    Call call = {.api = api, .kind = kernel->kind};
    int64_t x[2], w[2], v[2];
    Value *out;
    Status *status = read_input(api, context, 0, &call.x, x, 2, "GEGLU: x must have rank 2");
    if (!status) status = read_level(api, context, 1, &call.x_scale, &call.x_zero);
    if (!status) status = read_half(api, context, 3, call.halves, w);
    if (!status) status = read_half(api, context, 6, call.halves + 1, v);
    if (!status) status = read_level(api, context, 9, &call.out_scale, &call.out_zero);
    if (!status) status = check(&call, x, w, v);
    if (!status) status = ort_output(api)(context, 0, (int64_t[]){x[0], w[1]}, 2, &out);
    if (!status) status = ort_data(api)(out, (void **)&call.out);
    return status || !call.rows ? status : run(context, &call);
}

static Status *create(const CustomOp *op, OrtApi api, const KernelInfo *info, void **out) {
    (void)op, (void)info;
    Kernel *kernel = malloc(sizeof *kernel);
    if (!kernel) return ort_create_status(api)(ORT_FAIL, "GEGLU: failed to allocate memory");
    *kernel = (Kernel){api, kinds[chosen_kind]};
    *out = kernel;
    return NULL;
}

static const char *name(const CustomOp *op) { return (void)op, "GEGLU"; }
static size_t eleven(const CustomOp *op) { return (void)op, (size_t)11; }
static int output_type(const CustomOp *op, size_t index) { return (void)op, (void)index, ORT_UINT8; }

static int input_type(const CustomOp *op, size_t index) {
    static const int types[] = {ORT_UINT8, ORT_FLOAT, ORT_UINT8, ORT_INT8, ORT_FLOAT, ORT_INT32,
                                ORT_INT8,  ORT_FLOAT, ORT_INT32, ORT_FLOAT, ORT_UINT8};
    return (void)op, types[index];
}

const CustomOp geglu_operator = {
    OPERATOR_DEFAULTS, .get_name = name,
    .get_input_type = input_type, .get_input_count = eleven, .get_output_type = output_type,
    .create_kernel_v2 = create, .compute_v2 = compute, .destroy = free,
};
