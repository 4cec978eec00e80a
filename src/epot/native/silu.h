// SiLU, s(a) = a / (1 + exp(-a)), with its first and second derivative, of vectors.
//
// 2^y is taken as 2^k times a Taylor polynomial of 2^(y - k), k the nearest whole number: sums may be reordered by the
// compiler, so nothing here depends on their order.

#pragma once

#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

template <typename T> struct Real;

template <> struct Real<float> {
    typedef int32_t whole __attribute__((vector_size(WIDE)));
    static constexpr int terms = 8, shift = 23, bias = 127;
    static constexpr float most = 50;  // beyond, s is nothing beside 1; its square times any input is still finite
};

template <> struct Real<double> {
    typedef int64_t whole __attribute__((vector_size(WIDE)));
    static constexpr int terms = 14, shift = 52, bias = 1023;
    static constexpr double most = 500;
};

template <typename T> struct Silu {
    typedef typename Vector<T>::type V;
    typedef typename Real<T>::whole I;

    // ln(2)^n / n!
    static constexpr double series[14] = {1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158,
        0.009618129107628477, 0.0013333558146428443, 0.00015403530393381608, 1.5252733804059841e-05,
        1.3215486790144307e-06, 1.0178086009239699e-07, 7.054911620801121e-09, 4.4455382718708116e-10,
        2.5678435993488196e-11, 1.3691488853904128e-12};

    // s = 1 / (1 + exp(-a)), and 1 - s without cancellation
    static inline V sigma(V a, V& rest) {
        constexpr T most = Real<T>::most;
        V y = a * T(-1.4426950408889634);
        y = y > most ? V{} + most : y;
        y = y < -most ? V{} - most : y;
        const I k = __builtin_convertvector(y + (most + T(2.5)), I) - int(most + 2);  // nearest: what is cut off is positive
        const V x = y - __builtin_convertvector(k, V);
        V sum = V{} + T(series[Real<T>::terms - 1]);
        for (int n = Real<T>::terms - 2; n >= 0; --n) sum = sum * x + T(series[n]);
        const I bits = (k + Real<T>::bias) << Real<T>::shift;
        V power;
        std::memcpy(&power, &bits, sizeof(V));
        const V other = sum * power, s = T(1) / (T(1) + other);
        rest = other * s;
        return s;
    }

    static inline V slope(V a, V s, V rest) { return s * (T(1) + a * rest); }
    static inline V bend(V a, V s, V rest) { return s * rest * (T(2) + a * (rest - s)); }
};

}  // namespace
