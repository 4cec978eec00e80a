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

#ifdef _OPENMP
#include <omp.h>
#endif

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

inline int64_t thread() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

template <typename T> struct Taps {
    int64_t row;
    T n[3][TAPS];  // weights in the function and in its first and second derivative by the distance

    Taps(const Spline& s, const T* r, int64_t e, int orders) {
        const double place = double(r[e]) / s.step + MARGIN, first = std::floor(place);
        const T x = T(place - first);
        T powers[TAPS] = {1, x, x * x, x * x * x, x * x * x * x, x * x * x * x * x}, scale = 1;
        row = int64_t(first) + (s.kinds ? s.kinds[e] * s.n_rows : 0);
        for (int k = 0; k < orders; ++k, scale /= T(s.step)) {
            T sums[TAPS] = {0, 0, 0, 0, 0, 0};
            for (int q = 0; q < TAPS; ++q)
                for (int t = 0; t < TAPS; ++t) sums[t] += powers[q] * T(s.terms[q * 3 * TAPS + k * TAPS + t]);
            for (int t = 0; t < TAPS; ++t) n[k][t] = sums[t] * scale;
        }
    }

    void values(const T* table, int64_t size, int order, T* out) const {
        const T* a = table + row * size;
        const T *b = a + size, *c = b + size, *d = c + size, *e = d + size, *f = e + size;
        const T* w = n[order];
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

    void add(const T* x, int64_t size, int order, T* table) const {
        for (int t = 0; t < TAPS; ++t) {
            const T w = n[order][t];
            T* to = table + (row + t) * size;
#pragma omp simd
            for (int64_t k = 0; k < size; ++k) to[k] += w * x[k];
        }
    }
};

template <typename T> inline void clear(T* x, int64_t n) { std::memset(x, 0, sizeof(T) * n); }

template <typename T> inline T dot(const T* a, const T* b, int64_t n) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < n; ++k) total += a[k] * b[k];
    return total;
}

template <typename T> inline T sum(const T* a, int64_t n) {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < n; ++k) total += a[k];
    return total;
}

// M of an atom from its G.
template <typename T, int FIXED>
void couple(const Shape& s, const T* g, T* const* out, int64_t atom) {
    const int64_t C = FIXED ? FIXED : s.channels;
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
template <typename T, int FIXED>
void uncouple(const Shape& s, T* g, T* const* grads, int64_t atom) {
    const int64_t C = FIXED ? FIXED : s.channels;
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

template <typename T, int FIXED>
void forward(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r, const T* y,
             T* const* out) {
    const int64_t C = FIXED ? FIXED : s.channels, size = s.n_paths * C;
#pragma omp parallel num_threads(rows.threads)
    {
        std::vector<T> room(size + C + s.n_g * C);
        T *w = room.data(), *x = w + size, *g = x + C;
#pragma omp for schedule(static, 8)
        for (int64_t row = 0; row < rows.count; ++row) {
            clear(g, s.n_g * C);
            for (int64_t e = rows.slot[row]; e < rows.slot[row] + rows.used[row]; ++e) {
                Taps<T>(spline, r, e, 1).values(table, size, 0, w);
                const T* he = h + rows.senders[e] * s.n_h * C;
                const T* ye = y + e * s.n_y;
                for (int64_t p = 0; p < s.n_paths; ++p) {
                    const Path& path = s.paths[p];
                    const T* wp = w + p * C;
                    const int64_t stride = path.n_h * C;
                    for (int64_t a = 0; a < path.n_h; ++a) {
                        const T* ha = he + (path.h + a) * C;
                        T* to = g + (path.g + a) * C;
#pragma omp simd
                        for (int64_t c = 0; c < C; ++c) x[c] = wp[c] * ha[c];
                        for (int64_t b = 0; b < path.n_y; ++b) {
                            const T value = ye[path.y + b];
                            T* gb = to + b * stride;
#pragma omp simd
                            for (int64_t c = 0; c < C; ++c) gb[c] += value * x[c];
                        }
                    }
                }
            }
            couple<T, FIXED>(s, g, out, rows.atom[row]);
        }
    }
}

// dh of each slot; dtable of each thread, or null; dr and dy of each slot.
template <typename T, int FIXED>
void backward(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r, const T* y,
              T* const* grads, T* dh, T* const* dtable, T* dr, T* dy) {
    const int64_t C = FIXED ? FIXED : s.channels, size = s.n_paths * C;
#pragma omp parallel num_threads(rows.threads)
    {
        std::vector<T> room(3 * size + 2 * C + s.n_y * C + s.n_g * C);
        T *w = room.data(), *slope = w + size, *dw = slope + size, *x = dw + size, *u = x + C, *sums = u + C;
        T* g = sums + s.n_y * C;
        const int64_t mine = thread();
#pragma omp for schedule(static, 8)
        for (int64_t row = 0; row < rows.count; ++row) {
            uncouple<T, FIXED>(s, g, grads, rows.atom[row]);
            const int64_t end = rows.slot[row] + rows.used[row], rest = rows.width[row] - rows.used[row];
            for (int64_t e = rows.slot[row]; e < end; ++e) {
                const Taps<T> taps(spline, r, e, 2);
                taps.values2(table, size, w, slope);
                const T* he = h + rows.senders[e] * s.n_h * C;
                const T* ye = y + e * s.n_y;
                T* dhe = dh + e * s.n_h * C;
                clear(dhe, s.n_h * C);
                clear(dw, size);
                clear(sums, s.n_y * C);
                for (int64_t p = 0; p < s.n_paths; ++p) {
                    const Path& path = s.paths[p];
                    const T* wp = w + p * C;
                    T* dwp = dw + p * C;
                    const int64_t stride = path.n_h * C;
                    for (int64_t a = 0; a < path.n_h; ++a) {
                        const T* ha = he + (path.h + a) * C;
                        T* dha = dhe + (path.h + a) * C;
                        const T* from = g + (path.g + a) * C;
#pragma omp simd
                        for (int64_t c = 0; c < C; ++c) {
                            x[c] = wp[c] * ha[c];
                            u[c] = 0;
                        }
                        for (int64_t b = 0; b < path.n_y; ++b) {
                            const T value = ye[path.y + b];
                            const T* gb = from + b * stride;
                            T* sb = sums + (path.y + b) * C;
#pragma omp simd
                            for (int64_t c = 0; c < C; ++c) {
                                u[c] += value * gb[c];
                                sb[c] += x[c] * gb[c];
                            }
                        }
#pragma omp simd
                        for (int64_t c = 0; c < C; ++c) {
                            dwp[c] += u[c] * ha[c];
                            dha[c] += u[c] * wp[c];
                        }
                    }
                }
                dr[e] = dot(dw, slope, size);
                for (int64_t b = 0; b < s.n_y; ++b) dy[e * s.n_y + b] = sum(sums + b * C, C);
                if (dtable) taps.add(dw, size, 0, dtable[mine]);
            }
            clear(dh + end * s.n_h * C, rest * s.n_h * C);
            clear(dr + end, rest);
            clear(dy + end * s.n_y, rest * s.n_y);
        }
    }
}

// S is E with one factor at a time replaced by its change: ah of h, atable of table, ar of r, ay of y. Its gradients by
// D (out), h (of each slot), table (of each thread), r and y (of each slot).
template <typename T, int FIXED>
void second(const Shape& s, const Rows& rows, const Spline& spline, const T* h, const T* table, const T* r, const T* y,
            const T* ah, const T* atable, const T* ar, const T* ay, T* const* grads, T* const* out, T* dh,
            T* const* dtable, T* dr, T* dy) {
    const int64_t C = FIXED ? FIXED : s.channels, size = s.n_paths * C;
#pragma omp parallel num_threads(rows.threads)
    {
        std::vector<T> room(7 * size + 4 * C + s.n_y * C + 2 * s.n_g * C);
        T *w = room.data(), *slope = w + size, *bend = slope + size, *aw = bend + size, *aslope = aw + size;
        T *dw = aslope + size, *daw = dw + size, *x = daw + size, *ax = x + C, *u = ax + C, *au = u + C, *sums = au + C;
        T *g = sums + s.n_y * C, *to = g + s.n_g * C;
        const int64_t mine = thread();
#pragma omp for schedule(static, 8)
        for (int64_t row = 0; row < rows.count; ++row) {
            uncouple<T, FIXED>(s, g, grads, rows.atom[row]);
            clear(to, s.n_g * C);
            const int64_t end = rows.slot[row] + rows.used[row], rest = rows.width[row] - rows.used[row];
            for (int64_t e = rows.slot[row]; e < end; ++e) {
                const Taps<T> taps(spline, r, e, 3);
                const T change_r = ar ? ar[e] : 0;
                taps.values2(table, size, w, slope);
                taps.values(table, size, 2, bend);
                if (atable) {
                    taps.values2(atable, size, aw, aslope);
#pragma omp simd
                    for (int64_t k = 0; k < size; ++k) {
                        aw[k] += change_r * slope[k];
                        aslope[k] += change_r * bend[k];
                    }
                } else {
#pragma omp simd
                    for (int64_t k = 0; k < size; ++k) {
                        aw[k] = change_r * slope[k];
                        aslope[k] = change_r * bend[k];
                    }
                }
                const T* he = h + rows.senders[e] * s.n_h * C;
                const T* ahe = ah + rows.senders[e] * s.n_h * C;
                const T* ye = y + e * s.n_y;
                const T* aye = ay + e * s.n_y;
                T* dhe = dh + e * s.n_h * C;
                clear(dhe, s.n_h * C);
                clear(dw, 2 * size);  // and daw, which follows
                clear(sums, s.n_y * C);
                for (int64_t p = 0; p < s.n_paths; ++p) {
                    const Path& path = s.paths[p];
                    const T *wp = w + p * C, *awp = aw + p * C;
                    T *dwp = dw + p * C, *dawp = daw + p * C;
                    const int64_t stride = path.n_h * C;
                    for (int64_t a = 0; a < path.n_h; ++a) {
                        const T *ha = he + (path.h + a) * C, *aha = ahe + (path.h + a) * C;
                        T* dha = dhe + (path.h + a) * C;
                        const int64_t offset = (path.g + a) * C;
#pragma omp simd
                        for (int64_t c = 0; c < C; ++c) {
                            x[c] = wp[c] * ha[c];
                            ax[c] = wp[c] * aha[c] + awp[c] * ha[c];
                            u[c] = 0;
                            au[c] = 0;
                        }
                        for (int64_t b = 0; b < path.n_y; ++b) {
                            const T value = ye[path.y + b], change = aye[path.y + b];
                            const T* gb = g + offset + b * stride;
                            T* tb = to + offset + b * stride;
                            T* sb = sums + (path.y + b) * C;
#pragma omp simd
                            for (int64_t c = 0; c < C; ++c) {
                                u[c] += value * gb[c];
                                au[c] += change * gb[c];
                                sb[c] += ax[c] * gb[c];
                                tb[c] += value * ax[c] + change * x[c];
                            }
                        }
#pragma omp simd
                        for (int64_t c = 0; c < C; ++c) {
                            dha[c] += awp[c] * u[c] + wp[c] * au[c];
                            dwp[c] += u[c] * aha[c] + au[c] * ha[c];
                            dawp[c] += u[c] * ha[c];
                        }
                    }
                }
                dr[e] = dot(dw, slope, size) + dot(daw, aslope, size);
                for (int64_t b = 0; b < s.n_y; ++b) dy[e * s.n_y + b] = sum(sums + b * C, C);
                if (dtable) {
                    taps.add(dw, size, 0, dtable[mine]);
                    if (change_r != 0) {
#pragma omp simd
                        for (int64_t k = 0; k < size; ++k) daw[k] *= change_r;
                        taps.add(daw, size, 1, dtable[mine]);
                    }
                }
            }
            couple<T, FIXED>(s, to, out, rows.atom[row]);
            clear(dh + end * s.n_h * C, rest * s.n_h * C);
            clear(dr + end, rest);
            clear(dy + end * s.n_y, rest * s.n_y);
        }
    }
}

// Sums over the slots of which an atom is the sender: those of the reverse pairs are the slots of its row.
template <typename T>
void gather(const Rows& rows, const int64_t* back, int64_t n, const T* slots, T* out) {
#pragma omp parallel for schedule(static, 16) num_threads(rows.threads)
    for (int64_t row = 0; row < rows.count; ++row) {
        T* to = out + rows.atom[row] * n;
        clear(to, n);
        for (int64_t e = rows.slot[row]; e < rows.slot[row] + rows.used[row]; ++e) {
            const T* from = slots + back[e] * n;
#pragma omp simd
            for (int64_t c = 0; c < n; ++c) to[c] += from[c];
        }
    }
}

}  // namespace

#define BY_CHANNELS(kernel, T, ...)                       \
    switch (s->channels) {                                \
        case 16: kernel<T, 16>(__VA_ARGS__); break;       \
        case 32: kernel<T, 32>(__VA_ARGS__); break;       \
        case 64: kernel<T, 64>(__VA_ARGS__); break;       \
        case 96: kernel<T, 96>(__VA_ARGS__); break;       \
        case 128: kernel<T, 128>(__VA_ARGS__); break;     \
        case 256: kernel<T, 256>(__VA_ARGS__); break;     \
        default: kernel<T, 0>(__VA_ARGS__);               \
    }

#define EXPORT(T, name)                                                                                               \
    extern "C" void forward_##name(const Shape* s, const Rows* rows, const Spline* spline, const T* h, const T* table, \
                                   const T* r, const T* y, T* const* out) {                                           \
        BY_CHANNELS(forward, T, *s, *rows, *spline, h, table, r, y, out)                                              \
    }                                                                                                                 \
    extern "C" void backward_##name(const Shape* s, const Rows* rows, const Spline* spline, const T* h,               \
                                    const T* table, const T* r, const T* y, T* const* grads, T* dh, T* const* dtable, \
                                    T* dr, T* dy) {                                                                   \
        BY_CHANNELS(backward, T, *s, *rows, *spline, h, table, r, y, grads, dh, dtable, dr, dy)                       \
    }                                                                                                                 \
    extern "C" void second_##name(const Shape* s, const Rows* rows, const Spline* spline, const T* h, const T* table, \
                                  const T* r, const T* y, const T* ah, const T* atable, const T* ar, const T* ay,     \
                                  T* const* grads, T* const* out, T* dh, T* const* dtable, T* dr, T* dy) {            \
        BY_CHANNELS(second, T, *s, *rows, *spline, h, table, r, y, ah, atable, ar, ay, grads, out, dh, dtable, dr,    \
                    dy)                                                                                               \
    }                                                                                                                 \
    extern "C" void gather_##name(const Rows* rows, const int64_t* back, int64_t n, const T* slots, T* out) {         \
        gather<T>(*rows, back, n, slots, out);                                                                        \
    }

EXPORT(float, f32)
EXPORT(double, f64)
