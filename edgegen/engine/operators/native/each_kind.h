/* An operator's code for every kind of processor, from the file that CODE names, and the table of them, `kinds`. */
#if defined(__x86_64__)
#include <immintrin.h>

#define NAME(x) x##_avx512
#include "avx512.h"
#include CODE
#include "undefine.h"

#define NAME(x) x##_vnni
#include "avx_vnni.h"
#include CODE
#include "undefine.h"

#define NAME(x) x##_avx2
#include "avx2.h"
#include CODE
#include "undefine.h"

static const Kind *const kinds[KINDS] = {&kind_avx512, &kind_vnni, &kind_avx2};
#else
static const Kind *const kinds[KINDS];
#endif
