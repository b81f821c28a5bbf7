/* What every operator of ours is made with. */
#ifndef EDGEGEN_OPERATORS_H
#define EDGEGEN_OPERATORS_H

#include "ort.h"

extern const CustomOp attention_operator, geglu_operator;

static inline Status *refuse(OrtApi api, const char *why) { return ort_create_status(api)(ORT_INVALID_ARGUMENT, why); }

/* The data and the sides of an input; `refusal`: what is said of one that has not this rank. */
static inline Status *read_input(
    OrtApi api, const Context *context, size_t index, const void *data, int64_t *sides, size_t rank,
    const char *refusal) {
    const Value *value;
    Shape *shape;
    size_t found = 0;
    Status *status = ort_input(api)(context, index, &value);
    if (status || (status = ort_data(api)((Value *)value, (void **)data))) return status;
    if ((status = ort_shape(api)(value, &shape))) return status;
    if (!(status = ort_rank(api)(shape, &found)))
        status = found == rank ? ort_sides(api)(shape, sides, rank) : refuse(api, refusal);
    ort_release_shape(api)(shape);
    return status;
}

static inline const char *any_provider(const CustomOp *op) { return (void)op, NULL; }
static inline int required(const CustomOp *op, size_t index) { return (void)op, (void)index, 0; }
static inline size_t one(const CustomOp *op) { return (void)op, (size_t)1; }
static inline int first_version(const CustomOp *op) { return (void)op, 1; }

/* One output; every input is required, and may lie anywhere. */
#define OPERATOR_DEFAULTS \
    .version = ORT_VERSION, .get_provider = any_provider, .get_output_count = one, \
    .get_input_characteristic = required, .get_output_characteristic = required, .get_input_memory = required, \
    .get_start_version = first_version, .get_end_version = first_version

#endif
