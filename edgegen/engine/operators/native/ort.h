/* As much of ONNX Runtime's C interface as one operator of our own needs.

   Its functions stand in a table whose entries never move: a later version only adds some behind the last
   (the rules, and checks of the places, are in onnxruntime_c_api.cc). So their places are written down here,
   and no header of one version is needed to build for all from 1.17 on.

   Source: https://github.com/microsoft/onnxruntime, include/onnxruntime/core/session/onnxruntime_c_api.h. */
#ifndef EDGEGEN_ORT_H
#define EDGEGEN_ORT_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_VERSION = 17, ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT32 = 6 };

typedef void (*Entry)(void);
typedef const Entry *OrtApi;
typedef struct OrtApiBase {
    OrtApi (*get_api)(uint32_t version);
    const char *(*get_version)(void);
} OrtApiBase;
typedef struct Status Status;
typedef struct Value Value;
typedef struct Shape Shape;
typedef struct KernelInfo KernelInfo;
typedef struct Context Context;
typedef struct Options Options;
typedef struct Domain Domain;

/* What an operator tells of itself, and its functions; field by field as ONNX Runtime reads it. */
typedef struct CustomOp CustomOp;
struct CustomOp {
    uint32_t version;
    void *(*create_kernel)(const CustomOp *, OrtApi, const KernelInfo *);
    const char *(*get_name)(const CustomOp *);
    const char *(*get_provider)(const CustomOp *);
    int (*get_input_type)(const CustomOp *, size_t);
    size_t (*get_input_count)(const CustomOp *);
    int (*get_output_type)(const CustomOp *, size_t);
    size_t (*get_output_count)(const CustomOp *);
    void (*compute)(void *, Context *);
    void (*destroy)(void *);
    int (*get_input_characteristic)(const CustomOp *, size_t);
    int (*get_output_characteristic)(const CustomOp *, size_t);
    int (*get_input_memory)(const CustomOp *, size_t);
    int (*get_variadic[4])(const CustomOp *);
    Status *(*create_kernel_v2)(const CustomOp *, OrtApi, const KernelInfo *, void **);
    Status *(*compute_v2)(void *, Context *);
    Status *(*infer_shape)(const CustomOp *, void *); /* NULL: not known before it runs */
    int (*get_start_version)(const CustomOp *);
    int (*get_end_version)(const CustomOp *);
};

#define ORT_FUNCTION(place, name, result, ...) \
    typedef result (*name##_type)(__VA_ARGS__); \
    static inline name##_type name(OrtApi api) { return (name##_type)api[place]; }

ORT_FUNCTION(0, ort_create_status, Status *, int code, const char *message)
ORT_FUNCTION(26, ort_create_domain, Status *, const char *name, Domain **out)
ORT_FUNCTION(27, ort_domain_add, Status *, Domain *, const CustomOp *)
ORT_FUNCTION(28, ort_add_domain, Status *, Options *, Domain *)
ORT_FUNCTION(51, ort_data, Status *, Value *, void **out)
ORT_FUNCTION(61, ort_rank, Status *, const Shape *, size_t *out)
ORT_FUNCTION(62, ort_sides, Status *, const Shape *, int64_t *out, size_t count)
ORT_FUNCTION(65, ort_shape, Status *, const Value *, Shape **out)
ORT_FUNCTION(85, ort_attribute_float, Status *, const KernelInfo *, const char *name, float *out)
ORT_FUNCTION(86, ort_attribute_int, Status *, const KernelInfo *, const char *name, int64_t *out)
ORT_FUNCTION(90, ort_input, Status *, const Context *, size_t index, const Value **out)
ORT_FUNCTION(91, ort_output, Status *, Context *, size_t index, const int64_t *sides, size_t rank, Value **out)
ORT_FUNCTION(93, ort_release_status, void, Status *)
ORT_FUNCTION(99, ort_release_shape, void, Shape *)
ORT_FUNCTION(274, ort_parallel, Status *, const Context *, void (*)(void *, size_t), size_t total, size_t batches, void *)

#endif
