// SOAP without derivatives: densities from neighbors, and spectra from densities, one atom at a time.
//
// What epot/features/soap_gaussians.py, soap_density.py and soap_contract.py do in many operations:
//
//     R_ln(r) = sum_k mix_lnk exp2(rate_lk r^2),   S_lm(r) = r^l Y_lm,   c_nlm = sum_j R_ln(r_j) S_lm(r_j)
//     p_q = weight_q sum_m c_(first(q) l(q) m) c_(second(q) l(q) m)
//
// Polynomials have neighbors side by side in a vector register, everything else has radial functions; R, c and p are
// products of small matrices. (To mix sums over neighbors would be fewer products, and lose half a digit: terms of the
// mixing cancel.)

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "exp2.h"
#include "vectors.h"

namespace {

template <typename T> inline int64_t rounded(int64_t n) {
    constexpr int64_t lanes = 64 / sizeof(T);
    return (n + lanes - 1) / lanes * lanes;
}

constexpr int MOST = WIDE == 64 ? 16 : 12;  // rows of a tile: their sums stay in registers

// out[m, :] = sum_k a[m sm + k sk] b[k, :], M rows and one vector of columns.
template <typename T, int M>
void tile(const T* a, int64_t sm, int64_t sk, const T* b, int64_t ldb, int64_t K, T* out, int64_t ldo) {
    typedef typename Vector<T>::type V;
    V sums[M];
    for (int m = 0; m < M; ++m) sums[m] = V{};
    for (int64_t k = 0; k < K; ++k) {
        const V row = at<V>(b + k * ldb);
        for (int m = 0; m < M; ++m) sums[m] += a[m * sm + k * sk] * row;
    }
    for (int m = 0; m < M; ++m) at<V>(out + m * ldo) = sums[m];
}

template <typename T, int M = MOST>
inline void rows(int64_t m, const T* a, int64_t sm, int64_t sk, const T* b, int64_t ldb, int64_t K, T* out, int64_t ldo) {
    if (m == M) return tile<T, M>(a, sm, sk, b, ldb, K, out, ldo);
    if constexpr (M > 1) rows<T, M - 1>(m, a, sm, sk, b, ldb, K, out, ldo);
}

// Products with any number of rows; columns in whole vectors, of which more may be read and written than there are.
template <typename T>
void product(const T* a, int64_t sm, int64_t sk, const T* b, int64_t ldb, int64_t M, int64_t K, int64_t C, T* out, int64_t ldo) {
    constexpr int64_t lanes = WIDE / sizeof(T);
    for (int64_t c = 0; c < C; c += lanes)
        for (int64_t m = 0; m < M; m += MOST)
            rows<T>(std::min<int64_t>(M - m, MOST), a + m * sm, sm, sk, b + c, ldb, K, out + m * ldo + c, ldo);
}

struct Density {
    int64_t n_atoms, n_pairs, n_species, n_max, l_max, threads;
    double reach;
    const int64_t *receivers, *senders, *species;
};

// Neighbors of one atom, sorted by species; arrays of a length that is whole vectors, zero at their end.
template <typename T> struct Neighbors {
    std::vector<T> data;
    std::vector<int64_t> starts, kept;
    int64_t count, wide;
    T *x, *y, *z, *square, *weight, *solid, *powers, *radial, *sums;

    void find(const Density& s, int64_t begin, int64_t end, const T* vectors, const T* weights) {
        const T most = T(s.reach) * T(s.reach);
        starts.assign(s.n_species + 2, 0);
        kept.clear();
        for (int64_t p = begin; p < end; ++p) {
            const T *v = vectors + 3 * p, r = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
            if (!(r < most)) continue;
            kept.push_back(p);
            ++starts[s.species[s.senders[p]] + 2];
        }
        for (int64_t k = 2; k < s.n_species + 2; ++k) starts[k] += starts[k - 1];
        count = kept.size();
        room(s);
        for (const int64_t p : kept) {
            const T* v = vectors + 3 * p;
            const int64_t to = starts[s.species[s.senders[p]] + 1]++;
            x[to] = v[0], y[to] = v[1], z[to] = v[2];
            square[to] = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
            weight[to] = weights ? weights[p] : T(1);
        }
    }

    void room(const Density& s) {
        wide = rounded<T>(count);
        const int64_t n = rounded<T>(s.n_max), m = (s.l_max + 1) * (s.l_max + 1);
        const size_t size = (5 + m + 2 * n) * wide + (2 * s.l_max + 1) * n;
        if (data.size() < size) data.resize(size + size / 4);
        T* next = data.data();
        for (T** part : {&x, &y, &z, &square, &weight}) {
            *part = next;
            next += wide;
            for (int64_t k = count; k < wide; ++k) (*part)[k] = 0;
        }
        solid = next;
        powers = solid + m * wide;
        radial = powers + n * wide;
        sums = radial + n * wide;
    }

    // weight r^l Y_lm / N_lm, (components, wide): the recursion of epot/features/angular.py.
    void harmonics(int64_t l_max, const T* lower) {
        typedef typename Vector<T>::type V;
        constexpr int64_t lanes = sizeof(V) / sizeof(T);
        for (int64_t p = 0; p < wide; p += lanes) {
            const V a = at<V>(x + p), b = at<V>(y + p), c = at<V>(z + p), rr = at<V>(square + p), w = at<V>(weight + p);
            T* to = solid + p;
            at<V>(to) = w;
            if (l_max) at<V>(to + wide) = w * b, at<V>(to + 2 * wide) = w * c, at<V>(to + 3 * wide) = w * a;
            for (int64_t l = 2; l <= l_max; ++l) {
                const T *last = to + (l - 1) * (l - 1) * wide, *before = to + (l - 2) * (l - 2) * wide;
                const T* factor = lower + (l - 2) * (l - 2);
                T* now = to + l * l * wide;
                const V first = at<V>(last), end = at<V>(last + (2 * l - 2) * wide);
                at<V>(now) = b * end + a * first;
                at<V>(now + wide) = c * first;
                for (int64_t m = 2; m <= 2 * l - 2; ++m)
                    at<V>(now + m * wide) = c * at<V>(last + (m - 1) * wide) - factor[m - 2] * rr * at<V>(before + (m - 2) * wide);
                at<V>(now + (2 * l - 1) * wide) = c * end;
                at<V>(now + 2 * l * wide) = a * end - b * first;
            }
        }
    }

    // R_ln of one degree, (neighbors, n).
    void functions(const T* rates, const T* mix, int64_t n_max) {
        typedef typename Vector<T>::type V;
        constexpr int64_t lanes = sizeof(V) / sizeof(T);
        const int64_t n = rounded<T>(n_max);
        for (int64_t k = 0; k < n; k += lanes) {
            const V rate = at<V>(rates + k);
            for (int64_t p = 0; p < count; ++p) at<V>(powers + p * n + k) = exp2<T>(rate * square[p]);
        }
        product<T>(powers, n, 1, mix, n, count, n_max, n, radial, n);
    }
};

// rates (degrees, n) and mix (degrees, n_max, n) with n rounded up; factors N_lm; out (atoms, components, channels).
template <typename T>
void density(const Density& s, const T* vectors, const T* weights, const T* rates, const T* mix, const T* factors,
             const T* lower, const T* center, T* out) {
    const int64_t n = rounded<T>(s.n_max), channels = s.n_species * s.n_max, components = (s.l_max + 1) * (s.l_max + 1);
    std::vector<int64_t> first(s.n_atoms + 1, 0);
    for (int64_t p = 0; p < s.n_pairs; ++p) ++first[s.receivers[p] + 1];
    for (int64_t i = 0; i < s.n_atoms; ++i) first[i + 1] += first[i];
#pragma omp parallel num_threads(s.threads) if (s.threads > 1)
    {
        Neighbors<T> near;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.n_atoms; ++i) {
            T* to = out + i * components * channels;
            near.find(s, first[i], first[i + 1], vectors, weights);
            near.harmonics(s.l_max, lower);
            for (int64_t l = 0; l <= s.l_max; ++l) {
                near.functions(rates + l * n, mix + l * s.n_max * n, s.n_max);
                for (int64_t a = 0; a < s.n_species; ++a) {
                    const int64_t begin = near.starts[a], count = near.starts[a + 1] - begin;
                    T* here = to + l * l * channels + a * s.n_max;
                    if (!count) {
                        for (int64_t m = 0; m <= 2 * l; ++m) clear(here + m * channels, s.n_max);
                        continue;
                    }
                    product<T>(near.solid + l * l * near.wide + begin, near.wide, 1, near.radial + begin * n, n, 2 * l + 1, count,
                               n, near.sums, n);
                    for (int64_t m = 0; m <= 2 * l; ++m) {
                        const T factor = factors[l * l + m];
                        for (int64_t k = 0; k < s.n_max; ++k) here[m * channels + k] = factor * near.sums[m * n + k];
                    }
                }
            }
            const T* own = center + s.species[i] * channels;
            for (int64_t k = 0; k < channels; ++k) to[k] += own[k];
        }
    }
}

// Blocks of components that lie in rows of one matrix a_l b_l^T, in the order of the result.
struct Spectrum {
    int64_t n_atoms, components, channels, n_max, summed, n_blocks, size, threads;
    const int64_t* blocks;  // (n_blocks, 5): degree, first row, rows, first column, columns
    const int64_t* runs;    // for each row its first component's column in the block, and how many components
};

// weights (size): everything that a component is multiplied by, with as many numbers behind it as a vector has.
template <typename T> void spectrum(const Spectrum& s, const T* coefficients, const T* weights, T* out) {
    typedef typename Vector<T>::type V;
    constexpr int64_t lanes = sizeof(V) / sizeof(T);
    const int64_t each = s.components * s.channels;
    int64_t largest = 0;
    for (int64_t b = 0; b < s.n_blocks; ++b) largest = std::max(largest, s.blocks[5 * b + 2] * rounded<T>(s.blocks[5 * b + 4]));
#pragma omp parallel num_threads(s.threads) if (s.threads > 1)
    {
        std::vector<T> own(each + lanes, T(0)), other(s.components * s.n_max + lanes, T(0)), made(largest + lanes);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.n_atoms; ++i) {
            std::memcpy(own.data(), coefficients + i * each, sizeof(T) * each);
            const T* right = own.data();
            int64_t wide = s.channels;
            if (s.summed) {  // over species
                right = other.data(), wide = s.n_max;
                clear(other.data(), s.components * s.n_max);
                for (int64_t m = 0; m < s.components; ++m)
                    for (int64_t k = 0; k < s.channels; ++k) other[m * s.n_max + k % s.n_max] += own[m * s.channels + k];
            }
            T *to = out + i * s.size, *const end = to + s.size;
            const T* weight = weights;
            const int64_t *block = s.blocks, *run = s.runs;
            for (int64_t b = 0; b < s.n_blocks; ++b, block += 5) {
                const int64_t l = block[0], n = rounded<T>(block[4]);
                product<T>(own.data() + l * l * s.channels + block[1], 1, s.channels, right + l * l * wide + block[3], wide,
                           block[2], 2 * l + 1, n, made.data(), n);
                for (int64_t r = 0; r < block[2]; ++r, run += 2) {
                    const T* from = made.data() + r * n + run[0];
                    const int64_t length = run[1];
                    if (to + rounded<T>(length) <= end)  // what is too much is written over by what follows
                        for (int64_t k = 0; k < length; k += lanes) at<V>(to + k) = at<V>(from + k) * at<V>(weight + k);
                    else
                        for (int64_t k = 0; k < length; ++k) to[k] = from[k] * weight[k];
                    to += length, weight += length;
                }
            }
        }
    }
}

}  // namespace

#define EXPORT(T, name)                                                                                           \
    extern "C" void density_##name(const Density* s, const T* vectors, const T* weights, const T* rates,          \
                                   const T* mix, const T* factors, const T* lower, const T* center, T* out) {     \
        density<T>(*s, vectors, weights, rates, mix, factors, lower, center, out);                                \
    }                                                                                                             \
    extern "C" void spectrum_##name(const Spectrum* s, const T* coefficients, const T* weights, T* out) {         \
        spectrum<T>(*s, coefficients, weights, out);                                                              \
    }

EXPORT(float, f32)
EXPORT(double, f64)
