/* 2^x to 3e-6 of it: x's nearest whole number apart, the rest by a polynomial fitted to [-1/2, 1/2]. */
INLINE F NAME(power_of_2)(F x) {
    F whole = NEAREST(x), part = SUB_F(x, whole), y = SET_F(0.009570086f);
    y = FMA(y, part, SET_F(0.05591786f));
    y = FMA(y, part, SET_F(0.24024746f));
    y = FMA(y, part, SET_F(0.6931218f));
    y = FMA(y, part, SET_F(0.9999993f));
    return POWER(y, whole);
}
