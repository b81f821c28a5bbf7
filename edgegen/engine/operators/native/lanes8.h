/* AVX2 with FMA: 8 lanes. What sums products is for avx2.h and avx_vnni.h to say. */
#ifndef EDGEGEN_LANES8_H
#define EDGEGEN_LANES8_H
static inline __attribute__((target("avx2"))) int32_t largest_of_8(__m256i x) {
    __m128i y = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}

static inline __attribute__((target("avx2"))) int32_t total_of_8(__m256i x) {
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}
#endif

#define TARGET __attribute__((target("avx2,fma")))
#define V __m256i
#define F __m256
#define LANES 8
#define COLUMNS 2
#define ZERO _mm256_setzero_si256()
#define SET(x) _mm256_set1_epi32(x)
#define SET_F(x) _mm256_set1_ps(x)
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define LOAD_F(p) _mm256_loadu_ps(p)
#define FIRST(n) _mm256_cmpgt_epi32(SET(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define LOAD_PART(p, n) _mm256_maskload_ps(p, FIRST(n))
#define STORE(p, x) _mm256_storeu_si256((__m256i *)(p), x)
#define STORE_BYTES(p, x) _mm_storel_epi64((__m128i *)(p), _mm_packus_epi16( \
    _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)), _mm_setzero_si128()))
#define STORE_F(p, x) _mm256_storeu_ps(p, x)
#define STORE_PART(p, n, x) _mm256_maskstore_ps(p, FIRST(n), x)
#define BITS(x) _mm256_castps_si256(x)
#define FLOATS(x) _mm256_castsi256_ps(x)
#define TO_FLOAT(x) _mm256_cvtepi32_ps(x)
#define TO_INT(x) _mm256_cvtps_epi32(x)
#define AND(a, b) _mm256_and_si256(a, b)
#define OR(a, b) _mm256_or_si256(a, b)
#define SHIFT(x, n) _mm256_slli_epi32(x, n)
#define ADD(a, b) _mm256_add_epi32(a, b)
#define SUB(a, b) _mm256_sub_epi32(a, b)
#define MUL(a, b) _mm256_mullo_epi32(a, b)
#define ADD_F(a, b) _mm256_add_ps(a, b)
#define MUL_F(a, b) _mm256_mul_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MAX(a, b) _mm256_max_epi32(a, b)
#define MAX_F(a, b) _mm256_max_ps(a, b)
#define MIN_F(a, b) _mm256_min_ps(a, b)
#define DIV_F(a, b) _mm256_div_ps(a, b)
#define LARGEST(x) largest_of_8(x)
#define TOTAL(x) total_of_8(x)
#define NEAREST(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define SUB_F(a, b) _mm256_sub_ps(a, b)
#define POWER(mantissa, exponent) \
    FLOATS(_mm256_add_epi32(BITS(mantissa), SHIFT(MAX(TO_INT(exponent), SET(-100)), 23)))
