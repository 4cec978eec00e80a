// Messages of scalars: one path of one component, so nothing but the filter and its slope is held for a pair.

#pragma once

#include <vector>

#include "messages.h"

namespace {

inline bool scalar(const Shape& s) {
    return s.n_paths == 1 && s.n_h == 1 && s.n_y == 1 && s.n_degrees == 1 && s.sizes[0] == 1 && s.n_couplings == 1;
}

template <typename T>
void forward_scalar(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r,
                    const T* y, T* out) {
    const int64_t C = s.channels;
    const T value = T(s.couplings[0].value);
    const Terms<T> terms(spline);
#pragma omp parallel for num_threads(rows.threads) schedule(static, 8)
    for (int64_t row = 0; row < rows.count; ++row) {
        T* const to = out + rows.atom[row] * C;
        clear(to, C);
        for (int64_t e = rows.slot[row]; e < rows.slot[row] + rows.used[row]; ++e) {
            const Taps<T> taps(spline, terms, r, e, 1);
            const Six<T> six(table, taps.row, C);
            const auto n = taps.n[0] * (value * y[e]);
            const T* from = h + rows.senders[e] * C;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) to[c] += six.sum(n, c) * from[c];
        }
    }
}

template <typename T>
void backward_scalar(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r,
                     const T* y, const T* grad, T* const* dh, T* const* dtable, T* dr, T* dy) {
    const int64_t C = s.channels;
    const T value = T(s.couplings[0].value);
    const Terms<T> terms(spline);
#pragma omp parallel num_threads(rows.threads)
    {
        std::vector<T> room(2 * C);
        T *spare = room.data(), *dw = spare + C;
        const int64_t mine = thread();
#pragma omp for schedule(static, 8)
        for (int64_t row = 0; row < rows.count; ++row) {
            const T* g = grad + rows.atom[row] * C;
            const int64_t end = rows.slot[row] + rows.used[row], rest = rows.width[row] - rows.used[row];
            for (int64_t e = rows.slot[row]; e < end; ++e) {
                const Taps<T> taps(spline, terms, r, e, 2);
                const Six<T> six(table, taps.row, C);
                const auto n = taps.n[0], m = taps.n[1];
                const T factor = value * y[e];
                const T* from = h + rows.senders[e] * C;
                T* const dhe = dh ? dh[mine] + rows.senders[e] * C : spare;
                T to_r = 0, to_y = 0;
#pragma omp simd reduction(+ : to_r, to_y)
                for (int64_t c = 0; c < C; ++c) {
                    const T w = six.sum(n, c), both = g[c] * from[c];
                    dhe[c] += factor * w * g[c];
                    dw[c] = factor * both;
                    to_r += both * six.sum(m, c);
                    to_y += both * w;
                }
                dr[e] = factor * to_r;
                dy[e] = value * to_y;
                if (dtable) taps.add(dw, C, 0, dtable[mine]);
            }
            clear(dr + end, rest);
            clear(dy + end, rest);
        }
    }
}

// Where no change of the table is followed and no gradient by r or y is asked for: all that a loss on forces needs.
template <typename T>
void second_scalar(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r,
                   const T* y, const T* ah, const T* ar, const T* ay, const T* grad, T* out, T* const* dh,
                   T* const* dtable) {
    const int64_t C = s.channels;
    const T value = T(s.couplings[0].value);
    const Terms<T> terms(spline);
#pragma omp parallel num_threads(rows.threads)
    {
        std::vector<T> room(3 * C);
        T *spare = room.data(), *dw = spare + C, *daw = dw + C;
        const int64_t mine = thread();
#pragma omp for schedule(static, 8)
        for (int64_t row = 0; row < rows.count; ++row) {
            const T* g = grad + rows.atom[row] * C;
            T* const to = out + rows.atom[row] * C;
            clear(to, C);
            for (int64_t e = rows.slot[row]; e < rows.slot[row] + rows.used[row]; ++e) {
                const Taps<T> taps(spline, terms, r, e, 2);
                const Six<T> six(table, taps.row, C);
                const T factor = value * y[e], change_r = ar ? ar[e] : 0;
                const auto n = taps.n[0], along = (factor * change_r) * taps.n[1] + (value * ay[e]) * n;
                const T *x = h + rows.senders[e] * C, *ax = ah + rows.senders[e] * C;
                T* const dhe = dh ? dh[mine] + rows.senders[e] * C : spare;
#pragma omp simd
                for (int64_t c = 0; c < C; ++c) {
                    const T w = factor * six.sum(n, c), aw = six.sum(along, c);
                    to[c] += w * ax[c] + aw * x[c];
                    dhe[c] += aw * g[c];
                    dw[c] = g[c] * ax[c];
                    daw[c] = g[c] * x[c];
                }
                if (dtable) taps.add2(dw, daw, factor * n, along, C, dtable[mine]);
            }
        }
    }
}

}  // namespace
