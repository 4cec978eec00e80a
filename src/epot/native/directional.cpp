// Sums over triplets k -> j -> i and their first and second gradients, one atom j at a time.
//
// The operator is that of epot/blocks/directional_sums.py; pairs are sorted by receiver, so those that reach j are rows
// that follow each other, and what is summed for the e-th of them belongs to its reverse j -> i:
//
//     y[l, f, c] = h[l, f, c] x[f, c],   h[l, f, c] = sum_n R[f, l, n] V[l, n, c],   T[e, c] = sum_lf P[l, f, e] y[l, f, c].
//
// P of an atom with K neighbors is an array (degrees, K, K), its diagonal zero. y is held for one atom, and T is a
// product of small matrices, made in registers. Atoms are dealt to threads in a fixed order.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace {

struct Shape {
    int64_t n_atoms, degrees, n, channels, threads;
    const int64_t* first;    // pair of each atom, and the number of pairs
    const int64_t* reverse;  // of each pair
    const int64_t* square;   // sum of K^2 of the atoms before
};

// out[m, c] = sum_k a[m sm + k sk] b[k, c] for R rows and N vectors.
template <typename T, typename V, int R, int N, bool ADD>
inline void tile(const T* a, int64_t sm, int64_t sk, const T* b, int64_t ldb, int64_t K, T* out, int64_t ldo) {
    constexpr int64_t lanes = sizeof(V) / sizeof(T);
    V sums[R][N];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < N; ++v) sums[r][v] = ADD ? at<V>(out + r * ldo + v * lanes) : V{};
    for (int64_t k = 0; k < K; ++k) {
        V row[N];
        for (int v = 0; v < N; ++v) row[v] = at<V>(b + k * ldb + v * lanes);
        for (int r = 0; r < R; ++r) {
            const T factor = a[r * sm + k * sk];
            for (int v = 0; v < N; ++v) sums[r][v] += factor * row[v];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < N; ++v) at<V>(out + r * ldo + v * lanes) = sums[r][v];
}

template <typename T, typename V, int N, bool ADD>
inline void column(const T* a, int64_t sm, int64_t sk, const T* b, int64_t ldb, int64_t M, int64_t K, T* out, int64_t ldo) {
    int64_t m = 0;
    for (; m + 5 <= M; m += 5) tile<T, V, 5, N, ADD>(a + m * sm, sm, sk, b, ldb, K, out + m * ldo, ldo);
    for (; m + 2 <= M; m += 2) tile<T, V, 2, N, ADD>(a + m * sm, sm, sk, b, ldb, K, out + m * ldo, ldo);
    for (; m < M; ++m) tile<T, V, 1, N, ADD>(a + m * sm, sm, sk, b, ldb, K, out + m * ldo, ldo);
}

// out (M, C) = or += a (M, K) b (K, C), a with any strides.
template <typename T, bool ADD>
void product(const T* a, int64_t sm, int64_t sk, const T* b, int64_t ldb, int64_t M, int64_t K, int64_t C, T* out, int64_t ldo) {
    typedef typename Vector<T>::type V;
    constexpr int64_t lanes = sizeof(V) / sizeof(T);
    int64_t c = 0;
    for (; c + 4 * lanes <= C; c += 4 * lanes) column<T, V, 4, ADD>(a, sm, sk, b + c, ldb, M, K, out + c, ldo);
    for (; c + 2 * lanes <= C; c += 2 * lanes) column<T, V, 2, ADD>(a, sm, sk, b + c, ldb, M, K, out + c, ldo);
    for (; c + lanes <= C; c += lanes) column<T, V, 1, ADD>(a, sm, sk, b + c, ldb, M, K, out + c, ldo);
    for (; c < C; ++c) column<T, T, 1, ADD>(a, sm, sk, b + c, ldb, M, K, out + c, ldo);
}

inline int64_t rounded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

template <typename T> inline T dot(const T* a, const T* b, int64_t n) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; ++k) sum += a[k] * b[k];
    return sum;
}

// What is held for one atom.
template <typename T> struct Room {
    std::vector<T> data;
    T* take(size_t part, size_t size) {  // one of six parts
        if (data.size() < 6 * size) data.resize(6 * size);
        return data.data() + part * (data.size() / 6);
    }
};

// h (degrees, K, C) = or += R V.
template <typename T, bool ADD> void filters(const Shape& s, const T* radial, const T* v, int64_t K, T* h) {
    const int64_t L = s.degrees, N = s.n, C = s.channels;
    for (int64_t l = 0; l < L; ++l)
        product<T, ADD>(radial + l * N, L * N, 1, v + l * N * C, C, K, N, C, h + l * K * C, C);
}

// y = h x, or y += h x.
template <typename T, bool ADD> void times(const T* h, const T* x, int64_t L, int64_t size, T* y) {
    for (int64_t l = 0; l < L; ++l)
#pragma omp simd
        for (int64_t k = 0; k < size; ++k)
            y[l * size + k] = (ADD ? y[l * size + k] : T(0)) + h[l * size + k] * x[k];
}

// V += R^T d_h, and where it is wanted dR = d_h V^T.
template <typename T> void unfilter(const Shape& s, const T* radial, const T* d_h, int64_t K, T* d_v) {
    const int64_t L = s.degrees, N = s.n, C = s.channels;
    for (int64_t l = 0; l < L; ++l)
        product<T, true>(radial + l * N, 1, L * N, d_h + l * K * C, C, N, K, C, d_v + l * N * C, C);
}

template <typename T, bool ADD> void to_radial(const Shape& s, const T* v, const T* d_h, int64_t K, T* d_radial) {
    const int64_t L = s.degrees, N = s.n, C = s.channels;
    for (int64_t f = 0; f < K; ++f)
        for (int64_t l = 0; l < L; ++l)
            for (int64_t n = 0; n < N; ++n) {
                const T found = dot(v + (l * N + n) * C, d_h + (l * K + f) * C, C);
                T& to = d_radial[(f * L + l) * N + n];
                to = ADD ? to + found : found;
            }
}

// dP[l, f, e] = sum_c y[l, f, c] D[e, c], zero for e = f.
template <typename T> void to_angles(const Shape& s, const T* y, const T* d, int64_t K, std::vector<T>& room, T* d_angles) {
    const int64_t L = s.degrees, C = s.channels, wide = rounded(K);
    room.resize((C + L * K) * wide);
    T *turned = room.data(), *made = turned + C * wide;
    clear(turned, C * wide);
    for (int64_t c = 0; c < C; ++c)
        for (int64_t e = 0; e < K; ++e) turned[c * wide + e] = d[e * C + c];
    product<T, false>(y, C, 1, turned, wide, L * K, C, wide, made, wide);
    for (int64_t l = 0, m = 0; l < L; ++l)
        for (int64_t f = 0; f < K; ++f, ++m) {
            std::memcpy(d_angles + m * K, made + m * wide, sizeof(T) * K);
            d_angles[m * K + f] = 0;
        }
}

template <typename T> void gather(const Shape& s, const T* grad, int64_t begin, int64_t K, T* d) {
    for (int64_t e = 0; e < K; ++e) std::memcpy(d + e * s.channels, grad + s.reverse[begin + e] * s.channels, sizeof(T) * s.channels);
}

template <typename T> void scatter(const Shape& s, const T* t, int64_t begin, int64_t K, T* out) {
    for (int64_t e = 0; e < K; ++e) std::memcpy(out + s.reverse[begin + e] * s.channels, t + e * s.channels, sizeof(T) * s.channels);
}

#define ATOMS                                                                            \
    _Pragma("omp parallel num_threads(s.threads) if (s.threads > 1)") {                  \
        Room<T> room;                                                                    \
        std::vector<T> more;                                                             \
        const int64_t L = s.degrees, N = s.n, C = s.channels;                            \
        (void)N;                                                                         \
        _Pragma("omp for schedule(static)") for (int64_t j = 0; j < s.n_atoms; ++j) {    \
            const int64_t begin = s.first[j], K = s.first[j + 1] - begin;                \
            if (!K) continue;                                                            \
            const size_t size = L * K * C;
#define END \
    }       \
    }

template <typename T>
void forward(const Shape& s, const T* x, const T* v, const T* radial, const T* angles, T* out) {
    ATOMS
    T *y = room.take(0, size), *t = room.take(1, size);
    filters<T, false>(s, radial + begin * L * N, v, K, y);
    times<T, false>(y, x + begin * C, L, K * C, y);
    product<T, false>(angles + L * s.square[j], 1, K, y, C, K, L * K, C, t, C);
    scatter(s, t, begin, K, out);
    END
}

// d_v: an array for each thread; d_radial and d_angles, d_v may be null.
template <typename T>
void backward(const Shape& s, const T* grad, const T* x, const T* v, const T* radial, const T* angles, T* d_x, T* d_v,
              T* d_radial, T* d_angles) {
    ATOMS
    T *h = room.take(0, size), *d_y = room.take(1, size), *y = room.take(2, size), *d = room.take(3, size);
    const T *own = x + begin * C, *p = angles + L * s.square[j];
    gather(s, grad, begin, K, d);
    filters<T, false>(s, radial + begin * L * N, v, K, h);
    product<T, false>(p, K, 1, d, C, L * K, K, C, d_y, C);
    clear(d_x + begin * C, K * C);
    for (int64_t l = 0; l < L; ++l)
#pragma omp simd
        for (int64_t k = 0; k < K * C; ++k) d_x[begin * C + k] += h[l * K * C + k] * d_y[l * K * C + k];
    if (d_angles) {
        times<T, false>(h, own, L, K * C, y);
        to_angles(s, y, d, K, more, d_angles + L * s.square[j]);
    }
    if (d_v || d_radial) {
        times<T, false>(d_y, own, L, K * C, d_y);
        if (d_v) unfilter(s, radial + begin * L * N, d_y, K, d_v + thread() * L * N * C);
        if (d_radial) to_radial<T, false>(s, v, d_y, K, d_radial + begin * L * N);
    }
    END
}

// Gradients of the derivative along (x1, v1, radial1, angles1), of which v1 may be null.
template <typename T>
void second(const Shape& s, const T* grad, const T* x, const T* v, const T* radial, const T* angles, const T* x1,
            const T* v1, const T* radial1, const T* angles1, T* d_grad, T* d_x, T* d_v, T* d_radial, T* d_angles) {
    ATOMS
    T *h = room.take(0, size), *h1 = room.take(1, size), *y = room.take(2, size), *y1 = room.take(3, size);
    T *d = room.take(4, size), *t = room.take(5, size);
    const T *own = x + begin * C, *own1 = x1 + begin * C, *p = angles + L * s.square[j], *p1 = angles1 + L * s.square[j];
    const T *r = radial + begin * L * N, *r1 = radial1 + begin * L * N;
    gather(s, grad, begin, K, d);
    filters<T, false>(s, r, v, K, h);
    filters<T, false>(s, r1, v, K, h1);
    if (v1) filters<T, true>(s, r, v1, K, h1);
    times<T, false>(h, own, L, K * C, y);
    times<T, false>(h1, own, L, K * C, y1);
    times<T, true>(h, own1, L, K * C, y1);
    product<T, false>(p, 1, K, y1, C, K, L * K, C, t, C);
    product<T, true>(p1, 1, K, y, C, K, L * K, C, t, C);
    scatter(s, t, begin, K, d_grad);
    if (d_angles) to_angles(s, y1, d, K, more, d_angles + L * s.square[j]);
    product<T, false>(p1, K, 1, d, C, L * K, K, C, y, C);   // dE/dy
    product<T, false>(p, K, 1, d, C, L * K, K, C, y1, C);   // dE/dy'
    clear(d_x + begin * C, K * C);
    for (int64_t l = 0; l < L; ++l)
#pragma omp simd
        for (int64_t k = 0; k < K * C; ++k) {
            const int64_t m = l * K * C + k;
            d_x[begin * C + k] += h1[m] * y1[m] + h[m] * y[m];
            y[m] = y[m] * own[k] + y1[m] * own1[k];
            y1[m] *= own[k];
        }
    if (d_v) {
        unfilter(s, r, y, K, d_v + thread() * L * N * C);
        unfilter(s, r1, y1, K, d_v + thread() * L * N * C);
    }
    if (d_radial) {
        to_radial<T, false>(s, v, y, K, d_radial + begin * L * N);
        if (v1) to_radial<T, true>(s, v1, y1, K, d_radial + begin * L * N);
    }
    END
}

// P_l of the angles and as many derivatives by their cosine, (orders + 1, degrees, K, K); all zero for e = f.
template <typename T> void legendre(const T* cosine, int64_t L, int64_t K, int64_t orders, T* p) {
    const int64_t n = K * K;
    std::fill(p, p + n, T(1));
    if (L > 1) std::memcpy(p + n, cosine, sizeof(T) * n);
    for (int64_t l = 1; l + 1 < L; ++l) {
        const T a = T(2 * l + 1) / T(l + 1), b = T(l) / T(l + 1);
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) p[(l + 1) * n + k] = a * cosine[k] * p[l * n + k] - b * p[(l - 1) * n + k];
    }
    for (int64_t q = 0; q < orders; ++q) {  // P'_(l+1) = P'_(l-1) + (2l + 1) P_l
        const T* lower = p + q * L * n;
        T* to = p + (q + 1) * L * n;
        clear(to, L * n);
        for (int64_t l = q; l + 1 < L; ++l)
#pragma omp simd
            for (int64_t k = 0; k < n; ++k)
                to[(l + 1) * n + k] = T(2 * l + 1) * lower[l * n + k] + (l ? to[(l - 1) * n + k] : T(0));
    }
    for (int64_t l = 0; l < (orders + 1) * L; ++l)
        for (int64_t e = 0; e < K; ++e) p[(l * K + e) * K + e] = 0;
}

// -(a_f . b_e + b_f . a_e), or -a_f . a_e where b is null.
template <typename T> void cosines(const T* a, const T* b, int64_t K, T* out) {
    for (int64_t f = 0; f < K; ++f)
        for (int64_t e = 0; e < K; ++e) {
            T sum = 0;
            for (int64_t k = 0; k < 3; ++k)
                sum -= b ? a[3 * f + k] * b[3 * e + k] + b[3 * f + k] * a[3 * e + k] : a[3 * f + k] * a[3 * e + k];
            out[f * K + e] = sum;
        }
}

// out_f -= sum_e (q_fe + q_ef) u_e of q = turn sum_l grad_l slopes_l; turn may be null.
template <typename T>
void to_units(const T* grad, const T* slopes, const T* turn, const T* u, int64_t L, int64_t K, T* q, T* out) {
    clear(q, K * K);
    for (int64_t l = 0; l < L; ++l)
#pragma omp simd
        for (int64_t k = 0; k < K * K; ++k) q[k] += grad[l * K * K + k] * slopes[l * K * K + k];
    if (turn)
        for (int64_t k = 0; k < K * K; ++k) q[k] *= turn[k];
    for (int64_t f = 0; f < K; ++f)
        for (int64_t e = 0; e < K; ++e)
            for (int64_t k = 0; k < 3; ++k) out[3 * f + k] -= (q[f * K + e] + q[e * K + f]) * u[3 * e + k];
}

#define ANGLES                                                                                        \
    _Pragma("omp parallel num_threads(s.threads) if (s.threads > 1)") {                               \
        std::vector<T> room;                                                                          \
        const int64_t L = s.degrees;                                                                  \
        _Pragma("omp for schedule(static)") for (int64_t j = 0; j < s.n_atoms; ++j) {                 \
            const int64_t begin = s.first[j], K = s.first[j + 1] - begin, n = K * K, at = L * s.square[j]; \
            room.resize((3 * L + 3) * n);                                                             \
            T *cosine = room.data(), *q = cosine + n, *turn = q + n, *p = turn + n;                   \
            (void)q, (void)turn, (void)p;                                                             \
            cosines<T>(units + 3 * begin, nullptr, K, cosine);

template <typename T> void angles(const Shape& s, const T* units, T* out) {
    ANGLES
    legendre(cosine, L, K, 0, out + at);
    END
}

template <typename T> void angles_backward(const Shape& s, const T* grad, const T* units, T* d_units) {
    ANGLES
    legendre(cosine, L, K, 1, p);
    clear(d_units + 3 * begin, 3 * K);
    to_units<T>(grad + at, p + L * n, nullptr, units + 3 * begin, L, K, q, d_units + 3 * begin);
    END
}

// Of sum_l grad_l P'_l c' with c' = -(u1 u^T + u u1^T); d_units may be null.
template <typename T>
void angles_second(const Shape& s, const T* along, const T* grad, const T* units, T* d_grad, T* d_units) {
    ANGLES
    const T *u = units + 3 * begin, *u1 = along + 3 * begin;
    legendre(cosine, L, K, d_units ? 2 : 1, p);
    cosines<T>(u, u1, K, turn);
    for (int64_t l = 0; l < L; ++l)
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) d_grad[at + l * n + k] = p[(L + l) * n + k] * turn[k];
    if (d_units) {
        clear(d_units + 3 * begin, 3 * K);
        to_units<T>(grad + at, p + 2 * L * n, turn, u, L, K, q, d_units + 3 * begin);
        to_units<T>(grad + at, p + L * n, nullptr, u1, L, K, q, d_units + 3 * begin);
    }
    END
}

// out = x * (rbf W), (rows, C): filters of few dimensions, made in registers. D of a pair is in the row of its receiver
// where that is given (the sum over pairs is then what is asked for). Null results are not wanted.
struct Rows {
    int64_t count, n, channels, threads;
    const int64_t* receivers;
};

template <typename T> struct Filter {
    const Rows& s;
    const T *rbf, *w;
    template <typename V> inline V of(int64_t p, int64_t c) const {
        V sum = V{};
        for (int64_t n = 0; n < s.n; ++n) sum += rbf[p * s.n + n] * at<V>(w + n * s.channels + c);
        return sum;
    }
};

template <typename T> struct Filtered {
    const Rows& s;
    const T *x, *rbf, *w;
    int64_t p;
    T* out;
    template <typename V> void run(int64_t c) const {
        const V made = Filter<T>{s, rbf, w}.template of<V>(p, c) * at<V>(x + p * s.channels + c);
        V& to = at<V>(out + (s.receivers ? s.receivers[p] : p) * s.channels + c);
        to = s.receivers ? to + made : made;
    }
};

// g = dE/d(filter) goes to one row of room, and g' too in the second gradient.
template <typename T> struct FilteredBack {
    const Rows& s;
    const T *grad, *x, *rbf, *w;
    int64_t p;
    T *d_x, *g;
    template <typename V> void run(int64_t c) const {
        const int64_t e = p * s.channels + c;
        const V d = at<V>(grad + (s.receivers ? s.receivers[p] : p) * s.channels + c);
        if (d_x) at<V>(d_x + e) = d * Filter<T>{s, rbf, w}.template of<V>(p, c);
        at<V>(g + c) = d * at<V>(x + e);
    }
};

template <typename T> struct FilteredSecond {
    const Rows& s;
    const T *grad, *x, *rbf, *w, *x1, *rbf1, *w1;
    int64_t p;
    T *d_grad, *d_x, *g, *g1;
    template <typename V> void run(int64_t c) const {
        const int64_t e = p * s.channels + c, row = (s.receivers ? s.receivers[p] : p) * s.channels + c;
        const V d = at<V>(grad + row), v = at<V>(x + e), v1 = at<V>(x1 + e);
        V f1 = Filter<T>{s, rbf1, w}.template of<V>(p, c);
        if (w1) f1 += Filter<T>{s, rbf, w1}.template of<V>(p, c);
        const V made = v1 * Filter<T>{s, rbf, w}.template of<V>(p, c) + v * f1;
        V& to = at<V>(d_grad + row);
        to = s.receivers ? to + made : made;
        at<V>(d_x + e) = d * f1;
        at<V>(g + c) = d * v1;
        at<V>(g1 + c) = d * v;
    }
};

// What some rows at a time give to the basis and to the weights, as products of matrices.
template <typename T> struct FilterRows {
    static constexpr int64_t most = 32;
    const Rows& s;
    const T* turned;  // W^T where vectors of basis functions are whole, else null
    std::vector<T> room;
    FilterRows(const Rows& rows, const std::vector<T>& of)
        : s(rows), turned(of.empty() ? nullptr : of.data()), room(2 * most * s.channels) {}
    T* g(int64_t row) { return room.data() + row * s.channels; }
    T* g1(int64_t row) { return room.data() + (most + row) * s.channels; }
    static std::vector<T> turn(const Rows& s, const T* w, bool wanted) {
        std::vector<T> to(wanted && s.n % (WIDE / sizeof(T)) == 0 ? s.n * s.channels : 0);
        for (int64_t n = 0; n < s.n && !to.empty(); ++n)
            for (int64_t c = 0; c < s.channels; ++c) to[c * s.n + n] = w[n * s.channels + c];
        return to;
    }
    void to_basis(int64_t rows, const T* w, T* d_rbf) {
        if (turned) return product<T, false>(g(0), s.channels, 1, turned, s.n, rows, s.channels, s.n, d_rbf, s.n);
        for (int64_t k = 0; k < rows; ++k)
            for (int64_t n = 0; n < s.n; ++n) d_rbf[k * s.n + n] = dot(g(k), w + n * s.channels, s.channels);
    }
    void to_weights(int64_t rows, const T* rbf, const T* from, T* d_w) const {
        product<T, true>(rbf, 1, s.n, from, s.channels, s.n, rows, s.channels, d_w, s.channels);
    }
};

// Sums over receivers are of rows that follow each other; one thread does them all.
template <typename T> void filtered(const Rows& s, const T* x, const T* rbf, const T* w, T* out) {
#pragma omp parallel for num_threads(s.threads) if (s.threads > 1 && !s.receivers)
    for (int64_t p = 0; p < s.count; ++p) by_channels<T>(s.channels, Filtered<T>{s, x, rbf, w, p, out});
}

template <typename T>
void filtered_backward(const Rows& s, const T* grad, const T* x, const T* rbf, const T* w, T* d_x, T* d_rbf, T* d_w) {
    const int64_t C = s.channels, most = FilterRows<T>::most;
    const std::vector<T> turned = FilterRows<T>::turn(s, w, d_rbf);
#pragma omp parallel num_threads(s.threads) if (s.threads > 1)
    {
        FilterRows<T> part(s, turned);
#pragma omp for schedule(static)
        for (int64_t start = 0; start < s.count; start += most) {
            const int64_t rows = std::min(most, s.count - start);
            for (int64_t k = 0; k < rows; ++k)
                by_channels<T>(C, FilteredBack<T>{s, grad, x, rbf, w, start + k, d_x, part.g(k)});
            if (d_rbf) part.to_basis(rows, w, d_rbf + start * s.n);
            if (d_w) part.to_weights(rows, rbf + start * s.n, part.g(0), d_w + thread() * s.n * C);
        }
    }
}

template <typename T>
void filtered_second(const Rows& s, const T* grad, const T* x, const T* rbf, const T* w, const T* x1, const T* rbf1,
                     const T* w1, T* d_grad, T* d_x, T* d_rbf, T* d_w) {
    const int64_t C = s.channels, most = FilterRows<T>::most;
    const std::vector<T> turned = FilterRows<T>::turn(s, w, d_rbf);
#pragma omp parallel num_threads(s.threads) if (s.threads > 1 && !s.receivers)
    {
        FilterRows<T> part(s, turned);
#pragma omp for schedule(static)
        for (int64_t start = 0; start < s.count; start += most) {
            const int64_t rows = std::min(most, s.count - start);
            for (int64_t k = 0; k < rows; ++k)
                by_channels<T>(C, FilteredSecond<T>{s, grad, x, rbf, w, x1, rbf1, w1, start + k, d_grad, d_x,
                                                    part.g(k), part.g1(k)});
            if (d_rbf) part.to_basis(rows, w, d_rbf + start * s.n);
            for (int64_t k = 0; d_rbf && w1 && k < rows; ++k)
                for (int64_t n = 0; n < s.n; ++n) d_rbf[(start + k) * s.n + n] += dot(part.g1(k), w1 + n * C, C);
            if (d_w) {
                part.to_weights(rows, rbf + start * s.n, part.g(0), d_w + thread() * s.n * C);
                part.to_weights(rows, rbf1 + start * s.n, part.g1(0), d_w + thread() * s.n * C);
            }
        }
    }
}

}  // namespace

#define EXPORT(T, name)                                                                                               \
    extern "C" void forward_##name(const Shape* s, const T* x, const T* v, const T* r, const T* p, T* out) {          \
        forward<T>(*s, x, v, r, p, out);                                                                              \
    }                                                                                                                 \
    extern "C" void backward_##name(const Shape* s, const T* g, const T* x, const T* v, const T* r, const T* p,       \
                                    T* dx, T* dv, T* dr, T* dp) {                                                     \
        backward<T>(*s, g, x, v, r, p, dx, dv, dr, dp);                                                               \
    }                                                                                                                 \
    extern "C" void second_##name(const Shape* s, const T* g, const T* x, const T* v, const T* r, const T* p,         \
                                  const T* x1, const T* v1, const T* r1, const T* p1, T* dg, T* dx, T* dv, T* dr,     \
                                  T* dp) {                                                                            \
        second<T>(*s, g, x, v, r, p, x1, v1, r1, p1, dg, dx, dv, dr, dp);                                             \
    }                                                                                                                 \
    extern "C" void angles_##name(const Shape* s, const T* u, T* out) { angles<T>(*s, u, out); }                      \
    extern "C" void angles_backward_##name(const Shape* s, const T* g, const T* u, T* du) {                           \
        angles_backward<T>(*s, g, u, du);                                                                             \
    }                                                                                                                 \
    extern "C" void angles_second_##name(const Shape* s, const T* a, const T* g, const T* u, T* dg, T* du) {          \
        angles_second<T>(*s, a, g, u, dg, du);                                                                        \
    }                                                                                                                 \
    extern "C" void filtered_##name(const Rows* s, const T* x, const T* b, const T* w, T* out) {                      \
        filtered<T>(*s, x, b, w, out);                                                                                \
    }                                                                                                                 \
    extern "C" void filtered_backward_##name(const Rows* s, const T* g, const T* x, const T* b, const T* w, T* dx,    \
                                             T* db, T* dw) {                                                          \
        filtered_backward<T>(*s, g, x, b, w, dx, db, dw);                                                             \
    }                                                                                                                 \
    extern "C" void filtered_second_##name(const Rows* s, const T* g, const T* x, const T* b, const T* w,             \
                                           const T* x1, const T* b1, const T* w1, T* dg, T* dx, T* db, T* dw) {       \
        filtered_second<T>(*s, g, x, b, w, x1, b1, w1, dg, dx, db, dw);                                               \
    }

#include "precisions.h"
