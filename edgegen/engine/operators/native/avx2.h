/* Plain AVX2: the sum of products is two instructions, and no faster than floats are. */
#include "lanes8.h"
#define DOT(sum, a, b) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
