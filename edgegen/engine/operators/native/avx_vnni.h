/* AVX-VNNI (Alder Lake, Zen 5 and later): 8 lanes; products of pairs of 16-bit integers, or of four bytes, unsigned by
   signed, are summed in one instruction. */
#include "lanes8.h"
#ifdef STAND_IN /* AVX-512's encoding of the same: so tests run this where AVX-VNNI is missing */
#define DOT(sum, a, b) __asm__("vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#define DOT_BYTES(sum, a, b) __asm__("vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#else
#define DOT(sum, a, b) __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#define DOT_BYTES(sum, a, b) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b))
#endif
