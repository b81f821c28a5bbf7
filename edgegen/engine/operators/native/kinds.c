/* Which kind of processor this is. */

#include "kinds.h"

#include <stddef.h>
#include <string.h>

#ifdef STAND_IN
#define HAS_AVX_VNNI __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")
#else
#define HAS_AVX_VNNI __builtin_cpu_supports("avxvnni")
#endif

int chosen_kind = -1;

/* Choose the kind of that name, or for "" the best one this processor has that beats floats. Returns the name of
   the one chosen; "": there is none, and nothing has changed. Without VNNI integers do not, so that `avx2` is
   taken by its name alone: it is how the code for 8 lanes is tested anywhere. */
const char *edgegen_choose(const char *name) {
#if defined(__x86_64__)
    struct { const char *name; int kind, has, is_fast; } kinds[] = {
        {"avx512-vnni", AVX512_VNNI,
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw")
             && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"), 1},
        {"avx-vnni", AVX_VNNI, HAS_AVX_VNNI && __builtin_cpu_supports("fma"), 1},
        {"avx2", AVX2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), 0},
    };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        if (kinds[k].has && (*name ? !strcmp(name, kinds[k].name) : kinds[k].is_fast))
            return chosen_kind = kinds[k].kind, kinds[k].name;
#endif
    (void)name;
    return "";
}
