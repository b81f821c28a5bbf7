/* Operators of our own for ONNX Runtime's CPU provider, in the domain `edgegen`. */

#include "kinds.h"
#include "operators.h"

/* ONNX Runtime calls this, by its name, for every session that registers the library. */
Status *RegisterCustomOps(Options *options, const OrtApiBase *base) {
    static Domain *domain;
    OrtApi api = base->get_api(ORT_VERSION);
    if (chosen_kind < 0 && !*edgegen_choose(""))
        return refuse(api, "edgegen's operators: this processor has none of the instructions they are made for");
    Status *status = NULL;
    if (!domain) {
        status = ort_create_domain(api)("edgegen", &domain);
        if (!status) status = ort_domain_add(api)(domain, &attention_operator);
        if (!status) status = ort_domain_add(api)(domain, &geglu_operator);
    }
    return status ? status : ort_add_domain(api)(options, domain);
}
