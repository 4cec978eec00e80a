// SiLU between dense layers, s(a) = a / (1 + exp(-a)), with its first and second derivative, each in one pass.
//
// What epot/blocks/activation.py does in several operations of torch. 2^y is taken as 2^k times a Taylor polynomial of
// 2^(y - k), k the nearest whole number: sums may be reordered by the compiler, so nothing here depends on their order.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

template <typename T> struct Real;

template <> struct Real<float> {
    typedef int32_t whole __attribute__((vector_size(64)));
    static constexpr int terms = 8, shift = 23, bias = 127;
    static constexpr float most = 50;  // beyond, s is nothing beside 1; its square times any input is still finite
};

template <> struct Real<double> {
    typedef int64_t whole __attribute__((vector_size(64)));
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

// body.run(k, in, out) on vectors; the last numbers through a copy. Pointers that are null are left alone.
template <typename T, int INPUTS, int OUTPUTS, typename F>
void each(int64_t n, const T* const (&in)[INPUTS], T* const (&out)[OUTPUTS], int64_t threads, const F& body) {
    typedef typename Vector<T>::type V;
    constexpr int64_t lanes = sizeof(V) / sizeof(T);
    const int64_t whole = n / lanes;
#pragma omp parallel for num_threads(threads) if (threads > 1 && n > 32768)
    for (int64_t k = 0; k < whole; ++k) {
        V x[INPUTS], y[OUTPUTS];
        for (int i = 0; i < INPUTS; ++i) x[i] = in[i] ? at<V>(in[i] + k * lanes) : V{};
        body(x, y);
        for (int i = 0; i < OUTPUTS; ++i)
            if (out[i]) at<V>(out[i] + k * lanes) = y[i];
    }
    if (const int64_t rest = n - whole * lanes) {
        V x[INPUTS], y[OUTPUTS];
        for (int i = 0; i < INPUTS; ++i) {
            x[i] = V{};
            if (in[i]) std::memcpy(&x[i], in[i] + whole * lanes, rest * sizeof(T));
        }
        body(x, y);
        for (int i = 0; i < OUTPUTS; ++i)
            if (out[i]) std::memcpy(out[i] + whole * lanes, &y[i], rest * sizeof(T));
    }
}

// s(a) + plus
template <typename T> void value(int64_t n, const T* a, const T* plus, T* out, int64_t threads) {
    typedef typename Vector<T>::type V;
    const T* const in[2] = {a, plus};
    T* const to[1] = {out};
    each<T, 2, 1>(n, in, to, threads, [](const V* x, V* y) {
        V rest;
        y[0] = x[0] * Silu<T>::sigma(x[0], rest) + x[1];
    });
}

// e s'(a) + plus
template <typename T> void slope(int64_t n, const T* a, const T* e, const T* plus, T* out, int64_t threads) {
    typedef typename Vector<T>::type V;
    const T* const in[3] = {a, e, plus};
    T* const to[1] = {out};
    each<T, 3, 1>(n, in, to, threads, [](const V* x, V* y) {
        V rest;
        const V s = Silu<T>::sigma(x[0], rest);
        y[0] = x[1] * Silu<T>::slope(x[0], s, rest) + x[2];
    });
}

// v = t s'(a) + plus, b = t e s''(a), c = e s'(a)
template <typename T>
void second(int64_t n, const T* a, const T* e, const T* t, const T* plus, T* v, T* b, T* c, int64_t threads) {
    typedef typename Vector<T>::type V;
    const T* const in[4] = {a, e, t, plus};
    T* const to[3] = {v, b, c};
    each<T, 4, 3>(n, in, to, threads, [](const V* x, V* y) {
        V rest;
        const V s = Silu<T>::sigma(x[0], rest), slope = Silu<T>::slope(x[0], s, rest);
        y[0] = x[2] * slope + x[3];
        y[1] = x[2] * x[1] * Silu<T>::bend(x[0], s, rest);
        y[2] = x[1] * slope;
    });
}

}  // namespace

#define EXPORT(T, name)                                                                                       \
    extern "C" void value_##name(int64_t n, const T* a, const T* plus, T* out, int64_t threads) {             \
        value<T>(n, a, plus, out, threads);                                                                   \
    }                                                                                                         \
    extern "C" void slope_##name(int64_t n, const T* a, const T* e, const T* plus, T* out, int64_t threads) { \
        slope<T>(n, a, e, plus, out, threads);                                                                \
    }                                                                                                         \
    extern "C" void second_##name(int64_t n, const T* a, const T* e, const T* t, const T* plus, T* v, T* b,   \
                                  T* c, int64_t threads) {                                                    \
        second<T>(n, a, e, t, plus, v, b, c, threads);                                                        \
    }

EXPORT(float, f32)
EXPORT(double, f64)
