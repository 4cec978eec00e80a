// 2^y of vectors: 2^k times a Taylor polynomial of 2^(y - k), k the nearest whole number.
//
// Sums may be reordered by the compiler, so nothing here depends on their order.

#pragma once

#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

template <typename T> struct Bits;
template <> struct Bits<float> {
    typedef int32_t whole __attribute__((vector_size(WIDE)));
    static constexpr int terms = 8, shift = 23, bias = 127, most = 120;
};
template <> struct Bits<double> {
    typedef int64_t whole __attribute__((vector_size(WIDE)));
    static constexpr int terms = 14, shift = 52, bias = 1023, most = 1000;
};

// ln(2)^n / n!
constexpr double SERIES[14] = {1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477,
    0.0013333558146428443, 0.00015403530393381608, 1.5252733804059841e-05, 1.3215486790144307e-06,
    1.0178086009239699e-07, 7.054911620801121e-09, 4.4455382718708116e-10, 2.5678435993488196e-11,
    1.3691488853904128e-12};

// Of what is beyond +-MOST, as of that.
template <typename T, int MOST = Bits<T>::most> inline typename Vector<T>::type exp2(typename Vector<T>::type y) {
    typedef typename Vector<T>::type V;
    typedef typename Bits<T>::whole I;
    constexpr T most = MOST;
    y = y < -most ? V{} - most : y;
    y = y > most ? V{} + most : y;
    const V whole = y == y ? y + (most + T(1.5)) : V{};  // what is cut off is positive; NaN goes on in the polynomial
    const I k = __builtin_convertvector(whole, I) - (MOST + 1);
    const V x = y - __builtin_convertvector(k, V);
    V sum = V{} + T(SERIES[Bits<T>::terms - 1]);
    for (int n = Bits<T>::terms - 2; n >= 0; --n) sum = sum * x + T(SERIES[n]);
    const I bits = (k + Bits<T>::bias) << Bits<T>::shift;
    V power;
    std::memcpy(&power, &bits, sizeof(V));
    return sum * power;
}

}  // namespace
