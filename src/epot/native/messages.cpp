// Equivariant messages and their first and second gradients, one receiver at a time.
//
// The operator is that of epot/blocks/spline_messages.py. For a path p = (l1, l2, l3), a slot e of receiver i with
// sender j, and every channel c,
//
//     G_p[i, m2, m1, c] += Y[e, m2] R[e, p, c] h[j, m1, c],        R[e] = sum over six t of N_t(r_e) table[first(r_e) + t],
//
// a quintic spline in the distance, and then M[l3][i, m3, p, c] = sum of C_p[m1 m2 m3] G_p[i, m2, m1, c]. G is held for
// one receiver, and so is its gradient; only M is an array of all atoms. Channels are innermost everywhere: every inner
// loop is a vector operation on numbers that lie side by side. Rows are dealt to threads in a fixed order, so that sums
// do not depend on which is faster.

#include <cstdint>
#include <vector>

#include "messages.h"
#include "scalar_messages.h"

namespace {

// Partial sums to sums.
template <typename T> inline void finish(const T* partial, int64_t n, T* out) {
    for (int64_t b = 0; b < n; ++b) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < LANES; ++k) sum += partial[b * LANES + k];
        out[b] = sum;
    }
}

template <typename T> inline T dot(const T* a, const T* b, int64_t n) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; ++k) sum += a[k] * b[k];
    return sum;
}

// M of an atom from its G, which is [path m2 m1][channel].
template <typename T> void couple(const Shape& s, const T* g, T* const* out, int64_t atom) {
    const int64_t C = s.channels;
    for (int64_t d = 0; d < s.n_degrees; ++d) clear(out[d] + atom * s.sizes[d] * C, s.sizes[d] * C);
    for (int64_t k = 0; k < s.n_couplings; ++k) {
        const Coupling& one = s.couplings[k];
        const T value = T(one.value);
        const T* from = g + one.g * C;
        T* to = out[one.degree] + (atom * s.sizes[one.degree] + one.to) * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) to[c] += value * from[c];
    }
}

// The gradient by G of an atom from that by its M.
template <typename T> void uncouple(const Shape& s, T* g, T* const* grads, int64_t atom) {
    const int64_t C = s.channels;
    clear(g, s.n_g * C);
    for (int64_t k = 0; k < s.n_couplings; ++k) {
        const Coupling& one = s.couplings[k];
        const T value = T(one.value);
        T* to = g + one.g * C;
        const T* from = grads[one.degree] + (atom * s.sizes[one.degree] + one.to) * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) to[c] += value * from[c];
    }
}

// Calls f<number of components>(first path, last path) for the paths of each degree l2 of the harmonics.
#define BY_HARMONIC(f)                                                        \
    for (int64_t p = 0, q = 0; p < s.n_paths; p = q) {                        \
        while (q < s.n_paths && s.paths[q].y == s.paths[p].y) ++q;            \
        switch (s.paths[p].n_y) {                                             \
            case 1: f<V, 1>(c, p, q); break;                                  \
            case 3: f<V, 3>(c, p, q); break;                                  \
            case 5: f<V, 5>(c, p, q); break;                                  \
            case 7: f<V, 7>(c, p, q); break;                                  \
            case 9: f<V, 9>(c, p, q); break;                                  \
            case 11: f<V, 11>(c, p, q); break;                                \
            case 13: f<V, 13>(c, p, q); break;                                \
            default: f<V, 15>(c, p, q);                                       \
        }                                                                     \
    }

constexpr int EDGES = 4;  // messages added to G at a time, so that it is read and written less often

template <typename T> struct Add {  // messages of some edges, to G
    const Shape& s;
    T* g;
    const T *w, *h[EDGES], *y[EDGES];

    template <typename V, int N> void degree(int64_t c, int64_t p, int64_t last) const {
        const int64_t C = s.channels, size = s.n_paths * C;
        for (; p < last; ++p) {
            const Path& path = s.paths[p];
            const V w0 = at<V>(w + p * C + c), w1 = at<V>(w + size + p * C + c);
            const V w2 = at<V>(w + 2 * size + p * C + c), w3 = at<V>(w + 3 * size + p * C + c);
            for (int64_t a = 0; a < path.n_h; ++a) {
                const int64_t from = (path.h + a) * C + c;
                const V x0 = w0 * at<V>(h[0] + from), x1 = w1 * at<V>(h[1] + from);
                const V x2 = w2 * at<V>(h[2] + from), x3 = w3 * at<V>(h[3] + from);
                T* to = g + (path.g + a) * C + c;
                for (int b = 0; b < N; ++b) {
                    V& sum = at<V>(to + b * path.n_h * C);
                    sum = sum + y[0][path.y + b] * x0 + y[1][path.y + b] * x1 + y[2][path.y + b] * x2 +
                          y[3][path.y + b] * x3;
                }
            }
        }
    }
    template <typename V> void run(int64_t c) const { BY_HARMONIC(degree) }
};

template <typename T>
void forward(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r, const T* y,
             T* const* out) {
    const int64_t C = s.channels, size = s.n_paths * C;
    const Terms<T> terms(spline);
#pragma omp parallel num_threads(rows.threads)
    {
        std::vector<T> room(EDGES * size + s.n_g * C);
        T *w = room.data(), *g = w + EDGES * size;
#pragma omp for schedule(static, 8)
        for (int64_t row = 0; row < rows.count; ++row) {
            clear(g, s.n_g * C);
            const int64_t end = rows.slot[row] + rows.used[row];
            for (int64_t e = rows.slot[row]; e < end; e += EDGES) {
                Add<T> add{s, g, w, {}, {}};
                for (int64_t k = 0; k < EDGES; ++k) {
                    const int64_t own = e + k < end ? e + k : e;  // with weights of zero, if there are no more
                    add.h[k] = h + rows.senders[own] * s.n_h * C;
                    add.y[k] = y + own * s.n_y;
                    if (own == e + k) Taps<T>(spline, terms, r, own, 1).values(table, size, 0, w + k * size);
                    else clear(w + k * size, size);
                }
                by_channels<T>(C, add);
            }
            couple(s, g, out, rows.atom[row]);
        }
    }
}

template <typename T> struct Pull {  // gradients of one edge
    const Shape& s;
    const T *g, *w, *h, *y;
    T *dw, *dh, *sums;  // sums: dE/dY, LANES partial sums of each

    template <typename V, int N> void degree(int64_t c, int64_t p, int64_t last) const {
        const int64_t C = s.channels, first = s.paths[p].y;
        V own[N];
        for (int b = 0; b < N; ++b) own[b] = V{};
        for (; p < last; ++p) {
            const Path& path = s.paths[p];
            const V wp = at<V>(w + p * C + c);
            V to_w = V{};
            for (int64_t a = 0; a < path.n_h; ++a) {
                const int64_t from = (path.h + a) * C + c;
                const V ha = at<V>(h + from), x = wp * ha;
                const T* gs = g + (path.g + a) * C + c;
                V u = V{};
                for (int b = 0; b < N; ++b) {
                    const V gb = at<V>(gs + b * path.n_h * C);
                    u += y[first + b] * gb;
                    own[b] += x * gb;
                }
                to_w += u * ha;
                at<V>(dh + from) += u * wp;
            }
            at<V>(dw + p * C + c) = to_w;
        }
        for (int b = 0; b < N; ++b) at<V>(sums + (first + b) * LANES) += own[b];
    }
    template <typename V> void run(int64_t c) const { BY_HARMONIC(degree) }
};

// dh and dtable of each thread, or null; dr and dy of each slot.
template <typename T>
void backward(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r, const T* y,
              T* const* grads, T* const* dh, T* const* dtable, T* dr, T* dy) {
    const int64_t C = s.channels, size = s.n_paths * C;
    const Terms<T> terms(spline);
#pragma omp parallel num_threads(rows.threads)
    {
        std::vector<T> room(3 * size + (s.n_g + s.n_h) * C + s.n_y * LANES);
        T *w = room.data(), *slope = w + size, *dw = slope + size, *g = dw + size, *sums = g + s.n_g * C;
        T* const spare = sums + s.n_y * LANES;
        const int64_t mine = thread();
#pragma omp for schedule(static, 8)
        for (int64_t row = 0; row < rows.count; ++row) {
            uncouple(s, g, grads, rows.atom[row]);
            const int64_t end = rows.slot[row] + rows.used[row], rest = rows.width[row] - rows.used[row];
            for (int64_t e = rows.slot[row]; e < end; ++e) {
                const Taps<T> taps(spline, terms, r, e, 2);
                taps.values2(table, size, w, slope);
                clear(sums, s.n_y * LANES);
                const int64_t from = rows.senders[e] * s.n_h * C;
                T* const dhe = dh ? dh[mine] + from : spare;
                by_channels<T>(C, Pull<T>{s, g, w, h + from, y + e * s.n_y, dw, dhe, sums});
                finish(sums, s.n_y, dy + e * s.n_y);
                dr[e] = dot(dw, slope, size);
                if (dtable) taps.add(dw, size, 0, dtable[mine]);
            }
            clear(dr + end, rest);
            clear(dy + end * s.n_y, rest * s.n_y);
        }
    }
}

template <typename T> struct PullAlong {  // gradients of the derivative along (ah, aw, ay), of one edge
    const Shape& s;
    const T *g, *w, *h, *y, *aw, *ah, *ay;
    T *to, *dw, *daw, *dh, *sums;

    template <typename V, int N> void degree(int64_t c, int64_t p, int64_t last) const {
        const int64_t C = s.channels, first = s.paths[p].y;
        V own[N];
        for (int b = 0; b < N; ++b) own[b] = V{};
        for (; p < last; ++p) {
            const Path& path = s.paths[p];
            const V wp = at<V>(w + p * C + c), awp = at<V>(aw + p * C + c);
            V to_w = V{}, to_aw = V{};
            for (int64_t a = 0; a < path.n_h; ++a) {
                const int64_t from = (path.h + a) * C + c;
                const V ha = at<V>(h + from), aha = at<V>(ah + from), x = wp * ha, ax = wp * aha + awp * ha;
                const int64_t offset = (path.g + a) * C + c;
                V u = V{}, au = V{};
                for (int b = 0; b < N; ++b) {
                    const int64_t k = offset + b * path.n_h * C;
                    const V gb = at<V>(g + k);
                    u += y[first + b] * gb;
                    au += ay[first + b] * gb;
                    own[b] += ax * gb;
                    at<V>(to + k) += y[first + b] * ax + ay[first + b] * x;
                }
                at<V>(dh + from) += awp * u + wp * au;
                to_w += u * aha + au * ha;
                to_aw += u * ha;
            }
            at<V>(dw + p * C + c) = to_w;
            at<V>(daw + p * C + c) = to_aw;
        }
        for (int b = 0; b < N; ++b) at<V>(sums + (first + b) * LANES) += own[b];
    }
    template <typename V> void run(int64_t c) const { BY_HARMONIC(degree) }
};

// S is E with one factor at a time replaced by its change: ah of h, atable of table, ar of r, ay of y. Its gradients by
// D (out), h and table (of each thread), r and y (of each slot, or null both).
template <typename T>
void second(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r, const T* y,
            const T* ah, const T* atable, const T* ar, const T* ay, T* const* grads, T* const* out,
            T* const* dh, T* const* dtable, T* dr, T* dy) {
    const int64_t C = s.channels, size = s.n_paths * C;
    const Terms<T> terms(spline);
#pragma omp parallel num_threads(rows.threads)
    {
        std::vector<T> room(7 * size + (2 * s.n_g + s.n_h) * C + s.n_y * LANES);
        T *w = room.data(), *slope = w + size, *bend = slope + size, *aw = bend + size, *aslope = aw + size;
        T *dw = aslope + size, *daw = dw + size, *g = daw + size, *to = g + s.n_g * C, *sums = to + s.n_g * C;
        T* const spare = sums + s.n_y * LANES;
        const int64_t mine = thread();
#pragma omp for schedule(static, 8)
        for (int64_t row = 0; row < rows.count; ++row) {
            uncouple(s, g, grads, rows.atom[row]);
            clear(to, s.n_g * C);
            const int64_t end = rows.slot[row] + rows.used[row], rest = rows.width[row] - rows.used[row];
            for (int64_t e = rows.slot[row]; e < end; ++e) {
                const Taps<T> taps(spline, terms, r, e, 3);
                const T change_r = ar ? ar[e] : 0;
                taps.values2(table, size, w, slope);
                if (atable) taps.values2(atable, size, aw, aslope);
                else clear(aw, 2 * size);  // and aslope, which follows
#pragma omp simd
                for (int64_t k = 0; k < size; ++k) aw[k] += change_r * slope[k];
                if (dr) {
                    taps.values(table, size, 2, bend);
#pragma omp simd
                    for (int64_t k = 0; k < size; ++k) aslope[k] += change_r * bend[k];
                }
                clear(sums, s.n_y * LANES);
                const int64_t from = rows.senders[e] * s.n_h * C;
                T* const dhe = dh ? dh[mine] + from : spare;
                by_channels<T>(C, PullAlong<T>{s, g, w, h + from, y + e * s.n_y, aw, ah + from, ay + e * s.n_y, to, dw,
                                               daw, dhe, sums});
                if (dr) {
                    finish(sums, s.n_y, dy + e * s.n_y);
                    dr[e] = dot(dw, slope, size) + dot(daw, aslope, size);
                }
                if (dtable) {
                    taps.add2(dw, daw, taps.n[0], taps.n[1] * change_r, size, dtable[mine]);
                }
            }
            couple(s, to, out, rows.atom[row]);
            if (dr) {
                clear(dr + end, rest);
                clear(dy + end * s.n_y, rest * s.n_y);
            }
        }
    }
}

}  // namespace

#define EXPORT(T, name)                                                                                               \
    extern "C" void forward_##name(const Shape* s, const Rows* rows, const Spline* spline, const T* h, const T* table, \
                                   const T* r, const T* y, T* const* out) {                                           \
        if (scalar(*s)) forward_scalar<T>(*s, *rows, *spline, h, table, r, y, out[0]);                                \
        else forward<T>(*s, *rows, *spline, h, table, r, y, out);                                                     \
    }                                                                                                                 \
    extern "C" void backward_##name(const Shape* s, const Rows* rows, const Spline* spline, const T* h,               \
                                    const T* table, const T* r, const T* y, T* const* grads, T* const* dh,           \
                                    T* const* dtable, T* dr, T* dy) {                                                             \
        if (scalar(*s)) backward_scalar<T>(*s, *rows, *spline, h, table, r, y, grads[0], dh, dtable, dr, dy);         \
        else backward<T>(*s, *rows, *spline, h, table, r, y, grads, dh, dtable, dr, dy);                              \
    }                                                                                                                 \
    extern "C" void second_##name(const Shape* s, const Rows* rows, const Spline* spline, const T* h, const T* table, \
                                  const T* r, const T* y, const T* ah, const T* atable, const T* ar, const T* ay,     \
                                  T* const* grads, T* const* out, T* const* dh, T* const* dtable, T* dr, T* dy) {      \
        if (scalar(*s) && !atable && !dr)                                                                             \
            second_scalar<T>(*s, *rows, *spline, h, table, r, y, ah, ar, ay, grads[0], out[0], dh, dtable);           \
        else second<T>(*s, *rows, *spline, h, table, r, y, ah, atable, ar, ay, grads, out, dh, dtable, dr, dy);       \
    }

#include "precisions.h"
