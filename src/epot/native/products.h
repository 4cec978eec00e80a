// Products of matrices of a few hundred rows and columns, by this processor's widest instructions.
//
// A tile of the result stays in registers: some rows of two vectors, each of which takes a number of the left matrix
// times a row of the right one, which lies packed, the columns of a tile side by side. (MKL, torch's library for the
// same, takes instructions half as wide as it could on processors of other makers.)

#pragma once

#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

constexpr int TALL = WIDE == 64 ? 8 : WIDE == 32 ? 6 : 4;  // rows of a tile, whose sums fill the registers

// Columns of a panel: two of the longest vectors there are.
template <typename T> constexpr int64_t panel() { return 128 / sizeof(T); }

inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// c[m][n] = start[n] + sum_k a[m am + k ak] b[k bk + n] for R rows m and two vectors of columns n; with ADD c += that.
template <typename T, int R, bool ADD>
inline void tile(int64_t depth, const T* a, int64_t am, int64_t ak, const T* b, int64_t bk, const T* start, T* c,
                 int64_t cm) {
    typedef typename Vector<T>::type V;
    constexpr int lanes = WIDE / sizeof(T);
    V left[R], right[R];
#pragma GCC unroll 8
    for (int m = 0; m < R; ++m) {
        left[m] = ADD ? at<V>(c + m * cm) : start ? at<V>(start) : V{};
        right[m] = ADD ? at<V>(c + m * cm + lanes) : start ? at<V>(start + lanes) : V{};
    }
    for (int64_t k = 0; k < depth; ++k) {
        const V x = at<V>(b + k * bk), y = at<V>(b + k * bk + lanes);
#pragma GCC unroll 8
        for (int m = 0; m < R; ++m) {
            const T s = a[m * am + k * ak];
            left[m] += x * s;
            right[m] += y * s;
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < R; ++m) {
        at<V>(c + m * cm) = left[m];
        at<V>(c + m * cm + lanes) = right[m];
    }
}

// The same of any number of rows up to R.
template <typename T, int R = TALL>
inline void tiles(int64_t rows, int64_t depth, const T* a, int64_t am, const T* b, int64_t bk, const T* start, T* c,
                  int64_t cm) {
    if (rows == R) return tile<T, R, false>(depth, a, am, 1, b, bk, start, c, cm);
    if constexpr (R > 1) tiles<T, R - 1>(rows, depth, a, am, b, bk, start, c, cm);
}

// Panels of the (depth, n) matrix w[k wk + j wj], of which one stride is 1: the columns of a panel beside each other in
// each row, zeros beyond the last.
template <typename T> void pack(int64_t depth, int64_t n, const T* w, int64_t wk, int64_t wj, T* out) {
    constexpr int64_t columns = panel<T>();
    for (int64_t p = 0; p < n; p += columns, out += depth * columns) {
        const int64_t here = n - p < columns ? n - p : columns;
        if (here < columns) clear(out, depth * columns);
        if (wk == 1)
            for (int64_t j = 0; j < here; ++j)
                for (int64_t k = 0; k < depth; ++k) out[k * columns + j] = w[(p + j) * wj + k];
        else
            for (int64_t k = 0; k < depth; ++k) std::memcpy(out + k * columns, w + k * wk + p, sizeof(T) * here);
    }
}

// c = a w + start: rows of a buffer times a packed matrix with n columns; whole panels are written.
template <typename T>
void product(int64_t rows, int64_t depth, int64_t n, const T* a, int64_t am, const T* packed, const T* start, T* c,
             int64_t cm) {
    constexpr int64_t columns = panel<T>(), step = 2 * WIDE / sizeof(T);
    const int64_t blocks = (rows + TALL - 1) / TALL;
    for (int64_t p = 0; p < n; p += columns, packed += depth * columns)
        for (int64_t j = 0; j < columns; j += step)
            for (int64_t k = 0; k < blocks; ++k) {  // as many rows in each as in the others
                const int64_t r = rows * k / blocks, here = rows * (k + 1) / blocks - r;
                const T* const from = start ? start + p + j : nullptr;
                tiles<T>(here, depth, a + r * am, am, packed + j, columns, from, c + r * cm + p + j, cm);
            }
}

// c += a^T b over some rows: c has padded(n, TALL) rows, and a is read as far as that, beyond its last row, too.
template <typename T>
void outer(int64_t rows, int64_t n, int64_t columns, const T* a, int64_t am, const T* b, int64_t bm, T* c, int64_t cm) {
    constexpr int64_t step = 2 * WIDE / sizeof(T);
    for (int64_t j = 0; j < columns; j += step)
        for (int64_t i = 0; i < n; i += TALL)
            tile<T, TALL, true>(rows, a + i, 1, am, b + j, bm, nullptr, c + i * cm + j, cm);
}

}  // namespace
