// Products of matrices of a few hundred rows and columns, by this processor's widest instructions.
//
// A tile of the result stays in registers: some rows of two vectors, each of which takes a number of the left matrix
// times a row of the right one, which lies packed, the columns of a tile side by side. (MKL, torch's library for the
// same, takes instructions half as wide as it could on processors of other makers.)

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int TALL = WIDE == 64 ? 8 : WIDE == 32 ? 6 : 4;  // rows of a tile, whose sums fill the registers

// Columns of a panel: two of the longest vectors there are.
template <typename T> constexpr int64_t panel() { return 128 / sizeof(T); }

inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// c[m][n] = start[n] + sum_k a[m am + k ak] b[k bk + n] for R rows m and N (1 or 2) vectors of columns n; with ADD c += that.
template <typename T, int R, int N, bool ADD>
inline void tile(int64_t depth, const T* a, int64_t am, int64_t ak, const T* b, int64_t bk, const T* start, T* c,
                 int64_t cm) {
    typedef typename Vector<T>::type V;
    constexpr int lanes = WIDE / sizeof(T), second = N > 1 ? lanes : 0;
    V left[R], right[R];
#pragma GCC unroll 8
    for (int m = 0; m < R; ++m) {
        left[m] = ADD ? at<V>(c + m * cm) : start ? at<V>(start) : V{};
        if (N > 1) right[m] = ADD ? at<V>(c + m * cm + second) : start ? at<V>(start + second) : V{};
    }
    for (int64_t k = 0; k < depth; ++k) {
        const V x = at<V>(b + k * bk), y = at<V>(b + k * bk + second);
#pragma GCC unroll 8
        for (int m = 0; m < R; ++m) {
            const T s = a[m * am + k * ak];
            left[m] += x * s;
            if (N > 1) right[m] += y * s;
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < R; ++m) {
        at<V>(c + m * cm) = left[m];
        if (N > 1) at<V>(c + m * cm + second) = right[m];
    }
}

// The same of any number of rows up to R.
template <typename T, int N, bool ADD, int R = TALL>
inline void tiles(int64_t rows, int64_t depth, const T* a, int64_t am, int64_t ak, const T* b, int64_t bk,
                  const T* start, T* c, int64_t cm) {
    if (rows == R) return tile<T, R, N, ADD>(depth, a, am, ak, b, bk, start, c, cm);
    if constexpr (R > 1) tiles<T, N, ADD, R - 1>(rows, depth, a, am, ak, b, bk, start, c, cm);
}

// Any number of rows, and one or two vectors of columns.
template <typename T, int N, bool ADD>
inline void column(int64_t rows, int64_t depth, const T* a, int64_t am, int64_t ak, const T* b, int64_t bk,
                   const T* start, T* c, int64_t cm) {
    const int64_t blocks = (rows + TALL - 1) / TALL;
    for (int64_t k = 0; k < blocks; ++k) {  // as many rows in each as in the others
        const int64_t r = rows * k / blocks, here = rows * (k + 1) / blocks - r;
        tiles<T, N, ADD>(here, depth, a + r * am, am, ak, b, bk, start, c + r * cm, cm);
    }
}

// c = a b, or c += a b, of a matrix a with any strides and rows of b; columns are filled up to whole vectors.
template <typename T, bool ADD>
inline void multiply(int64_t rows, int64_t depth, int64_t n, const T* a, int64_t am, int64_t ak, const T* b, int64_t bk,
                     T* c, int64_t cm) {
    constexpr int64_t lanes = WIDE / sizeof(T);
    int64_t j = 0;
    for (; n - j > lanes; j += 2 * lanes) column<T, 2, ADD>(rows, depth, a, am, ak, b + j, bk, nullptr, c + j, cm);
    if (j < n) column<T, 1, ADD>(rows, depth, a, am, ak, b + j, bk, nullptr, c + j, cm);
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

// c = a w + start, or c += a w: rows of a buffer times a packed matrix with n columns; whole panels are written.
template <typename T, bool ADD = false>
void product(int64_t rows, int64_t depth, int64_t n, const T* a, int64_t am, const T* packed, const T* start, T* c,
             int64_t cm) {
    constexpr int64_t columns = panel<T>(), lanes = WIDE / sizeof(T);
    for (int64_t p = 0; p < n; p += columns, packed += depth * columns)
        for (int64_t j = 0; j < columns; j += 2 * lanes) {
            const T* const from = start ? start + p + j : nullptr;
            T* const to = c + p + j;
            if (n - p - j > lanes) {
                column<T, 2, ADD>(rows, depth, a, am, 1, packed + j, columns, from, to, cm);
                continue;
            }
            column<T, 1, ADD>(rows, depth, a, am, 1, packed + j, columns, from, to, cm);
            for (int64_t m = 0; !ADD && m < rows; ++m) clear(to + m * cm + lanes, lanes);
        }
}

// c += a^T b over some rows: c has padded(n, TALL) rows, and a is read as far as that, beyond its last row, too.
template <typename T>
void outer(int64_t rows, int64_t n, int64_t columns, const T* a, int64_t am, const T* b, int64_t bm, T* c, int64_t cm) {
    constexpr int64_t step = 2 * WIDE / sizeof(T);
    for (int64_t j = 0; j < columns; j += step)
        for (int64_t i = 0; i < n; i += TALL)
            tile<T, TALL, 2, true>(rows, a + i, 1, am, b + j, bm, nullptr, c + i * cm + j, cm);
}

template <typename T> void copy(T* to, int64_t to_ld, const T* from, int64_t from_ld, int64_t n, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * to_ld, from + r * from_ld, n * sizeof(T));
}

template <typename T> struct Space {  // of a thread, kept for the next call
    std::vector<T> numbers;
    T* of(int64_t n) {
        if (int64_t(numbers.size()) < n) numbers.resize(n);
        return numbers.data();
    }
};
template <typename T> T* space(int which, int64_t n) {
    static thread_local Space<T> spaces[3];
    return spaces[which].of(n);
}

}  // namespace
