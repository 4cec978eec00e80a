// What kernels of messages are given: paths, rows of pairs, and radial weights as quintic splines (messages.cpp).

#pragma once

#include <cmath>
#include <cstdint>

#include "vectors.h"

namespace {

constexpr int TAPS = 6;
constexpr int MARGIN = 3;

struct Path {        // where its parts begin; counted in components
    int64_t h, n_h;  // sender's components (l1): first, how many
    int64_t y, n_y;  // harmonics (l2)
    int64_t g;       // its part of G, [m2][m1]
};

struct Coupling {  // one number C_p[m1 m2 m3]
    int64_t g;     // of G
    int64_t degree, to;  // l3, and in its tensor the component and path, in units of C
    double value;
};

struct Shape {
    int64_t n_paths, n_h, n_y, n_g, n_degrees, channels, n_couplings;
    const Path* paths;
    const int64_t* sizes;  // of an atom's part of each M, in units of C
    const Coupling* couplings;
};

struct Rows {
    int64_t count;
    const int64_t* atom;     // receiver of each row
    const int64_t* slot;     // first slot of each row
    const int64_t* used;     // slots that hold a pair: the first ones
    const int64_t* width;    // all slots
    const int64_t* senders;  // of each slot
    int64_t threads;
};

struct Spline {
    double step;
    const double* terms;   // (6, 18): coefficients of 1, x, .., x^5 in the six functions and two derivatives by x
    const int64_t* kinds;  // which table each slot has; null where there is one
    int64_t n_rows;        // of a table
};

// The numbers of Spline::terms in T, six beside each other in the place of eight.
template <typename T> struct Eight;
template <> struct Eight<float> { typedef float type __attribute__((vector_size(32))); };
template <> struct Eight<double> { typedef double type __attribute__((vector_size(64))); };

template <typename T> struct Terms {
    typename Eight<T>::type of[3][TAPS];

    explicit Terms(const Spline& s) : of{} {
        for (int k = 0; k < 3; ++k)
            for (int q = 0; q < TAPS; ++q)
                for (int t = 0; t < TAPS; ++t) of[k][q][t] = T(s.terms[q * 3 * TAPS + k * TAPS + t]);
    }
};

template <typename T> struct Taps {
    int64_t row;
    typename Eight<T>::type n[3];  // weights in the function and in its first and second derivative by the distance

    Taps(const Spline& s, const Terms<T>& terms, const T* r, int64_t e, int orders) {
        const double place = double(r[e]) / s.step + MARGIN, first = std::floor(place);
        const T x = T(place - first), x2 = x * x, x3 = x2 * x;
        T scale = 1;
        // a distance that is none, or beyond the table, reads its ends: what comes of it is refused by name elsewhere
        row = first >= 0 ? int64_t(std::fmin(first, double(s.n_rows - TAPS))) : 0;
        row += s.kinds ? s.kinds[e] * s.n_rows : 0;
        for (int k = 0; k < orders; ++k, scale /= T(s.step)) {
            const auto* c = terms.of[k];
            n[k] = ((c[0] + x * c[1]) + (x2 * c[2] + x3 * c[3]) + (x2 * x2 * c[4] + x2 * x3 * c[5])) * scale;
        }
    }

    void values(const T* table, int64_t size, int order, T* out) const {
        const T* a = table + row * size;
        const T *b = a + size, *c = b + size, *d = c + size, *e = d + size, *f = e + size;
        const auto w = n[order];
        const T w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4], w5 = w[5];
#pragma omp simd
        for (int64_t k = 0; k < size; ++k)
            out[k] = w0 * a[k] + w1 * b[k] + w2 * c[k] + w3 * d[k] + w4 * e[k] + w5 * f[k];
    }

    void values2(const T* table, int64_t size, T* out, T* slope) const {
        const T* at = table + row * size;
#pragma omp simd
        for (int64_t k = 0; k < size; ++k) {
            T x = 0, y = 0;
            for (int t = 0; t < TAPS; ++t) {
                x += n[0][t] * at[t * size + k];
                y += n[1][t] * at[t * size + k];
            }
            out[k] = x;
            slope[k] = y;
        }
    }

    // Of x and y, by the weights v and w.
    template <typename N> void add2(const T* x, const T* y, const N& vs, const N& ws, int64_t size, T* table) const {
        for (int t = 0; t < TAPS; ++t) {
            const T v = vs[t], w = ws[t];
            T* to = table + (row + t) * size;
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) to[k] += v * x[k] + w * y[k];
        }
    }

    void add(const T* x, int64_t size, int order, T* table) const {
        for (int t = 0; t < TAPS; ++t) {
            const T w = n[order][t];
            T* to = table + (row + t) * size;
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) to[k] += w * x[k];
        }
    }
};

// The six rows of a table that a pair reads.
template <typename T> struct Six {
    const T *a, *b, *c, *d, *e, *f;

    Six(const T* table, int64_t row, int64_t size)
        : a(table + row * size), b(a + size), c(b + size), d(c + size), e(d + size), f(e + size) {}
    template <typename N> T sum(const N& n, int64_t k) const {
        return (n[0] * a[k] + n[1] * b[k]) + (n[2] * c[k] + n[3] * d[k]) + (n[4] * e[k] + n[5] * f[k]);
    }
};

}  // namespace
