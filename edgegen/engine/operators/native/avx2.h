/* Plain AVX2: the sum of products is several instructions, and no faster than floats are. */
#include "lanes8.h"
#define DOT(sum, a, b) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define EVEN(x) _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8)
#define ODD(x) _mm256_srai_epi16(x, 8)
#define DOT_BYTES(sum, a, b) \
    sum = _mm256_add_epi32(sum, _mm256_add_epi32( \
        _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)), EVEN(b)), \
        _mm256_madd_epi16(_mm256_srli_epi16(a, 8), ODD(b))))
