// SiLU between dense layers, s(a) = a / (1 + exp(-a)), with its first and second derivative, each in one pass.
//
// What epot/blocks/activation.py does in several operations of torch.

#include <cstdint>
#include <cstring>

#include "silu.h"

namespace {

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

// s(a)
template <typename T> void value(int64_t n, const T* a, T* out, int64_t threads) {
    typedef typename Vector<T>::type V;
    const T* const in[1] = {a};
    T* const to[1] = {out};
    each<T, 1, 1>(n, in, to, threads, [](const V* x, V* y) {
        V rest;
        y[0] = x[0] * Silu<T>::sigma(x[0], rest);
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

// v = t s'(a), b = t e s''(a), c = e s'(a)
template <typename T>
void second(int64_t n, const T* a, const T* e, const T* t, T* v, T* b, T* c, int64_t threads) {
    typedef typename Vector<T>::type V;
    const T* const in[3] = {a, e, t};
    T* const to[3] = {v, b, c};
    each<T, 3, 3>(n, in, to, threads, [](const V* x, V* y) {
        V rest;
        const V s = Silu<T>::sigma(x[0], rest), slope = Silu<T>::slope(x[0], s, rest);
        y[0] = x[2] * slope;
        y[1] = x[2] * x[1] * Silu<T>::bend(x[0], s, rest);
        y[2] = x[1] * slope;
    });
}

}  // namespace

#define EXPORT(T, name)                                                                                       \
    extern "C" void value_##name(int64_t n, const T* a, T* out, int64_t threads) {                            \
        value<T>(n, a, out, threads);                                                                         \
    }                                                                                                         \
    extern "C" void slope_##name(int64_t n, const T* a, const T* e, const T* plus, T* out, int64_t threads) { \
        slope<T>(n, a, e, plus, out, threads);                                                                \
    }                                                                                                         \
    extern "C" void second_##name(int64_t n, const T* a, const T* e, const T* t, T* v, T* b, T* c,            \
                                  int64_t threads) {                                                          \
        second<T>(n, a, e, t, v, b, c, threads);                                                              \
    }

EXPORT(float, f32)
EXPORT(double, f64)
