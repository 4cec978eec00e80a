// Equivariant messages and their first and second gradients, one receiver at a time.
//
// The operator is that of epot/blocks/spline_messages.py. For a path p = (l1, l2, l3), a slot e of receiver i with
// sender j, and every channel c,
//
//     G_p[i, m2, m1, c] += Y[e, m2] R[e, p, c] h[j, m1, c],        R[e] = sum over six t of N_t(r_e) table[first(r_e) + t],
//
// a quintic spline in the distance, and then M[l3][i, m3, p, c] = sum of C_p[m1 m2 m3] G_p[i, m2, m1, c]. G is held for
// one receiver, and so is its gradient; only M is an array of all atoms. Channels are innermost everywhere: every inner loop is a vector operation on numbers
// that lie side by side. Rows are dealt to threads in a fixed order, so that sums do not depend on which is faster.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

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

// ---- Messages of scalars: one path of one component, so nothing but the filter and its slope is held for a pair ----

inline bool scalar(const Shape& s) {
    return s.n_paths == 1 && s.n_h == 1 && s.n_y == 1 && s.n_degrees == 1 && s.sizes[0] == 1 && s.n_couplings == 1;
}

// The six rows of a table that a pair reads.
template <typename T> struct Six {
    const T *a, *b, *c, *d, *e, *f;

    Six(const T* table, int64_t row, int64_t size)
        : a(table + row * size), b(a + size), c(b + size), d(c + size), e(d + size), f(e + size) {}
    template <typename N> T sum(const N& n, int64_t k) const {
        return (n[0] * a[k] + n[1] * b[k]) + (n[2] * c[k] + n[3] * d[k]) + (n[4] * e[k] + n[5] * f[k]);
    }
};

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
