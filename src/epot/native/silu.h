// SiLU, s(a) = a / (1 + exp(-a)), with its first and second derivative, of vectors.

#pragma once

#include "exp2.h"
#include "vectors.h"

namespace {

template <typename T> struct Silu {
    typedef typename Vector<T>::type V;
    // Beyond 2^-most, s is nothing beside 1; the square of the inverse times any input is still finite.
    static constexpr int most = sizeof(T) == 4 ? 50 : 500;

    // s = 1 / (1 + exp(-a)), and 1 - s without cancellation
    static inline V sigma(V a, V& rest) {
        const V other = exp2<T, most>(a * T(-1.4426950408889634)), s = T(1) / (T(1) + other);
        rest = other * s;
        return s;
    }

    static inline V slope(V a, V s, V rest) { return s * (T(1) + a * rest); }
    static inline V bend(V a, V s, V rest) { return s * rest * (T(2) + a * (rest - s)); }
};

}  // namespace
