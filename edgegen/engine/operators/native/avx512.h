/* AVX-512 with VNNI (Ice Lake, Zen 4 and later): 16 lanes, products of 16-bit pairs summed in one instruction. */
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define V __m512i
#define F __m512
#define LANES 16
#define COLUMNS 4
#define ZERO _mm512_setzero_si512()
#define SET(x) _mm512_set1_epi32(x)
#define SET_F(x) _mm512_set1_ps(x)
#define LOAD(p) _mm512_loadu_si512(p)
#define LOAD_F(p) _mm512_loadu_ps(p)
#define LOAD_PART(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), p)
#define STORE(p, x) _mm512_storeu_si512(p, x)
#define STORE_F(p, x) _mm512_storeu_ps(p, x)
#define STORE_PART(p, n, x) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), x)
#define BITS(x) _mm512_castps_si512(x)
#define FLOATS(x) _mm512_castsi512_ps(x)
#define TO_FLOAT(x) _mm512_cvtepi32_ps(x)
#define TO_INT(x) _mm512_cvtps_epi32(x)
#define AND(a, b) _mm512_and_si512(a, b)
#define OR(a, b) _mm512_or_si512(a, b)
#define SHIFT(x, n) _mm512_slli_epi32(x, n)
#define ADD_F(a, b) _mm512_add_ps(a, b)
#define MUL_F(a, b) _mm512_mul_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MAX(a, b) _mm512_max_epi32(a, b)
#define MAX_F(a, b) _mm512_max_ps(a, b)
#define LARGEST(x) _mm512_reduce_max_epi32(x)
#define TOTAL(x) _mm512_reduce_add_epi32(x)
#define NEAREST(x) _mm512_roundscale_ps(x, 8)
#define SUB_F(a, b) _mm512_sub_ps(a, b)
#define POWER(mantissa, exponent) _mm512_scalef_ps(mantissa, exponent)
/* the intrinsic makes GCC 12 spill a tile's accumulators at every step */
#define DOT(sum, a, b) __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b))
