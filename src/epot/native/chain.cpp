// Dense layers with SiLU and additions between them: what epot/blocks/dense_chain.py says, some rows at a time.
//
// Rows go through all layers while they are in the cache, in buffers with padded rows. Gradients of
// weights are summed by each thread and then over threads, in this order always.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "products.h"
#include "silu.h"
#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 64;                 // rows at a time
constexpr int64_t NOTHING = -1, GIVEN = -2;   // what is added, as in Python

struct Chain {
    int64_t rows, layers, threads;
    const int64_t *widths, *plus;  // layers + 1; layers: z_k, -2 - k for what is given, or nothing
    const double *gains, *times;   // of SiLU, and of what is added
};

// Blocks of rows for all threads alike.
struct Blocks {
    int64_t rows, count, size;
    explicit Blocks(const Chain& chain) : rows(chain.rows) {
        const int64_t threads = std::max<int64_t>(chain.threads, 1);
        count = padded((rows + BLOCK - 1) / BLOCK, rows > BLOCK ? threads : 1);
        size = count ? (rows + count - 1) / count : 0;
        count = size ? (rows + size - 1) / size : 0;
    }
    int64_t begin(int64_t k) const { return k * size; }
    int64_t of(int64_t k) const { return std::min(size, rows - k * size); }
};

// Vectors of a tensor's rows, whose last one may not be whole. Nothing that counts reads what pads a buffer.
template <typename T> struct Part {
    typedef typename Vector<T>::type V;
    static constexpr int64_t lanes = sizeof(V) / sizeof(T);
    static inline V load(const T* from, int64_t left) {
        if (left >= lanes) return at<V>(from);
        V x{};
        std::memcpy(&x, from, left * sizeof(T));
        return x;
    }
    static inline void store(T* to, V x, int64_t left) {
        if (left >= lanes)
            at<V>(to) = x;
        else
            std::memcpy(to, &x, left * sizeof(T));
    }
};

// body(place in a tensor's rows, place in a buffer, column, columns that are left) for the vectors of all rows
template <typename T, typename F> inline void each(int64_t rows, int64_t n, int64_t ld, const F& body) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < n; c += Part<T>::lanes) body(r * n + c, r * ld + c, c, n - c);
}

// What all three need of the layers: sizes of padded rows, and where packed weights lie.
template <typename T> struct Layers {
    const Chain& chain;
    const int64_t n;
    std::vector<int64_t> ld, at_packed, at_summed;
    int64_t packed, summed, widest, all;
    Layers(const Chain& c, bool transposed) : chain(c), n(c.layers), packed(0), summed(0), widest(0), all(0) {
        for (int64_t i = 0; i <= n; ++i) {
            ld.push_back(padded(c.widths[i], panel<T>()));
            widest = std::max(widest, ld[i]);
            all += ld[i];
        }
        for (int64_t i = 0; i < n; ++i) {
            at_packed.push_back(packed);
            packed += transposed ? c.widths[i] * ld[i + 1] : c.widths[i + 1] * ld[i];
            at_summed.push_back(summed);
            summed += padded(c.widths[i + 1], TALL) * ld[i] + ld[i + 1];
        }
    }
    // (n_in, n_out) for values, (n_out, n_in) for gradients
    void pack_values(int64_t i, const T* w, T* to) const {
        pack<T>(chain.widths[i], chain.widths[i + 1], w, 1, chain.widths[i], to + at_packed[i]);
    }
    void pack_gradients(int64_t i, const T* w, T* to) const {
        pack<T>(chain.widths[i + 1], chain.widths[i], w, chain.widths[i], 1, to + at_packed[i]);
    }
};

// What is added to a layer: z_k, which lies in a buffer, or rows of a tensor.
template <typename T> struct Added {
    typedef typename Vector<T>::type V;
    const T *state = nullptr, *given = nullptr;
    const T times;
    Added(const Layers<T>& layers, int64_t i, T* const* states, const T* const* tensors, int64_t first)
        : times(layers.chain.times[i]) {
        const int64_t plus = layers.chain.plus[i];
        if (plus >= 0) state = states[plus];
        if (plus <= GIVEN) given = tensors[GIVEN - plus] + first * layers.chain.widths[i + 1];
    }
    inline V operator()(V x, int64_t row, int64_t place, int64_t left) const {
        if (state) return x + times * at<V>(state + place);
        return given ? x + times * Part<T>::load(given + row, left) : x;
    }
};

template <typename T>
void forward(const Chain& chain, const T* x, const T* const* given, const T* const* weights, const T* const* biases,
             T* out, T* const* pre) {
    typedef typename Vector<T>::type V;
    const Layers<T> layers(chain, true);
    const Blocks blocks(chain);
    const int64_t n = chain.layers, *widths = chain.widths;
    T* packed = space<T>(0, layers.packed);
#pragma omp parallel num_threads(chain.threads) if (chain.threads > 1 && blocks.count > 1)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; ++i) layers.pack_values(i, weights[i], packed);
        T* room = space<T>(1, blocks.size * (layers.all + layers.widest));
        std::vector<T*> z(n + 1);
        for (int64_t i = 0, k = 0; i <= n; k += blocks.size * layers.ld[i++]) z[i] = room + k;
        T* a = room + blocks.size * layers.all;
#pragma omp for schedule(static)
        for (int64_t k = 0; k < blocks.count; ++k) {
            const int64_t first = blocks.begin(k), rows = blocks.of(k);
            copy(z[0], layers.ld[0], x + first * widths[0], widths[0], widths[0], rows);
            for (int64_t i = 0; i < n; ++i) {
                const int64_t ld = layers.ld[i + 1], wide = widths[i + 1];
                const Added<T> added(layers, i, z.data(), given, first);
                const T *bias = biases[i], gain = chain.gains[i];
                T *to = z[i + 1], *as = pre[i] + first * wide;
                product<T>(rows, widths[i], wide, z[i], layers.ld[i], packed + layers.at_packed[i], nullptr, a, ld);
                each<T>(rows, wide, ld, [&](int64_t row, int64_t place, int64_t c, int64_t left) {
                    V rest, now = at<V>(a + place);
                    if (bias) now += Part<T>::load(bias + c, left);
                    Part<T>::store(as + row, now, left);
                    at<V>(to + place) = added(now * Silu<T>::sigma(now, rest) * gain, row, place, left);
                });
            }
            copy(out + first * widths[n], widths[n], z[n], layers.ld[n], widths[n], rows);
        }
    }
}

// Sums of each thread over the rows it had, put together in the order of the threads.
template <typename T>
void collect(const Layers<T>& layers, const T* sums, int64_t threads, T* const* d_weights, T* const* d_biases) {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < layers.n; ++i) {
        const int64_t n_in = layers.chain.widths[i], n_out = layers.chain.widths[i + 1], ld = layers.ld[i];
        for (int64_t t = 0; t < threads; ++t) {
            const T* part = sums + t * layers.summed + layers.at_summed[i];
            for (int64_t r = 0; d_weights[i] && r < n_out; ++r)
                for (int64_t c = 0; c < n_in; ++c) d_weights[i][r * n_in + c] += part[r * ld + c];
            part += padded(n_out, TALL) * ld;
            for (int64_t c = 0; d_biases && d_biases[i] && c < n_out; ++c) d_biases[i][c] += part[c];
        }
    }
}

// To e_i those of the layers that z_i was added to.
template <typename T> void add_others(const Chain& chain, int64_t i, int64_t size, T* const* e) {
    for (int64_t j = chain.layers - 1; j >= i; --j) {
        if (chain.plus[j] != i) continue;
        const T times = chain.times[j], *other = e[j + 1];
        for (int64_t k = 0; k < size; ++k) e[i][k] += times * other[k];
    }
}

// Gradients by x and by what is given; e_i where they are wanted; by weights and biases where x is.
template <typename T>
void backward(const Chain& chain, const T* grad, const T* const* extra, const T* const* weights, const T* const* pre,
              const T* x, const T* const* given, T* d_x, T* const* d_given, T* const* kept, T* const* d_weights,
              T* const* d_biases) {
    typedef typename Vector<T>::type V;
    const Layers<T> layers(chain, false);
    const Blocks blocks(chain);
    const int64_t n = chain.layers, *widths = chain.widths, threads = std::max<int64_t>(chain.threads, 1);
    T* packed = space<T>(0, layers.packed);
    T* sums = x ? space<T>(2, threads * layers.summed) : nullptr;
    if (x) clear(sums, threads * layers.summed);
#pragma omp parallel num_threads(chain.threads) if (chain.threads > 1 && blocks.count > 1)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; ++i) layers.pack_gradients(i, weights[i], packed);
        T* room = space<T>(1, blocks.size * (layers.all * (x ? 3 : 1) + layers.widest) + LANES);
        std::vector<T*> e(n + 1), z(n + 1), slopes(n + 1);
        for (int64_t i = 0, k = 0; i <= n; k += blocks.size * layers.ld[i++]) {
            e[i] = room + k;
            z[i] = e[i] + blocks.size * layers.all;
            slopes[i] = z[i] + blocks.size * layers.all;
        }
        T* c = room + blocks.size * layers.all * (x ? 3 : 1);
        T* sums_here = sums + (x ? thread() * layers.summed : 0);
#pragma omp for schedule(static)
        for (int64_t k = 0; k < blocks.count; ++k) {
            const int64_t first = blocks.begin(k), rows = blocks.of(k);
            if (x) copy(z[0], layers.ld[0], x + first * widths[0], widths[0], widths[0], rows);
            for (int64_t i = 0; x && i < n; ++i) {
                const int64_t wide = widths[i + 1];
                const Added<T> added(layers, i, z.data(), given, first);
                const T *as = pre[i] + first * wide, gain = chain.gains[i];
                T *to = z[i + 1], *slope = slopes[i + 1];
                each<T>(rows, wide, layers.ld[i + 1], [&](int64_t row, int64_t place, int64_t, int64_t left) {
                    V rest;
                    const V a = Part<T>::load(as + row, left), s = Silu<T>::sigma(a, rest);
                    at<V>(slope + place) = Silu<T>::slope(a, s, rest) * gain;
                    at<V>(to + place) = added(a * s * gain, row, place, left);
                });
            }
            copy(e[n], layers.ld[n], grad + first * widths[n], widths[n], widths[n], rows);
            for (int64_t i = n - 1; i >= 0; --i) {
                const int64_t ld = layers.ld[i + 1], wide = widths[i + 1], start = first * wide;
                T *up = e[i + 1], *sum = sums_here + layers.at_summed[i];
                T* of_bias = sum + padded(wide, TALL) * layers.ld[i];
                add_others(chain, i + 1, rows * ld, e.data());
                T* keep = kept ? kept[i] + start : nullptr;
                T* pass = chain.plus[i] <= GIVEN ? d_given[GIVEN - chain.plus[i]] + start : nullptr;
                const T *as = pre[i] + start, *slope = slopes[i + 1], *more = extra[i] ? extra[i] + start : nullptr;
                const T gain = chain.gains[i], times = chain.times[i];
                each<T>(rows, wide, ld, [&](int64_t row, int64_t place, int64_t column, int64_t left) {
                    const V now = at<V>(up + place);
                    if (keep) Part<T>::store(keep + row, now, left);
                    if (pass) Part<T>::store(pass + row, now * times, left);
                    V found, rest;
                    if (x) {
                        found = now * at<V>(slope + place);
                    } else {
                        const V a = Part<T>::load(as + row, left), s = Silu<T>::sigma(a, rest);
                        found = now * Silu<T>::slope(a, s, rest) * gain;
                    }
                    if (more) found += Part<T>::load(more + row, left);
                    at<V>(c + place) = found;
                    if (x) at<V>(of_bias + column) += found;
                });
                if (x) outer<T>(rows, wide, widths[i], c, ld, z[i], layers.ld[i], sum, layers.ld[i]);
                const T* weight = packed + layers.at_packed[i];
                product<T>(rows, wide, widths[i], c, ld, weight, nullptr, e[i], layers.ld[i]);
            }
            add_others(chain, 0, rows * layers.ld[0], e.data());
            copy(d_x + first * widths[0], widths[0], e[0], layers.ld[0], widths[0], rows);
        }
        if (x) collect(layers, sums, threads, d_weights, d_biases);
    }
}

// Along x' and what is given: v_n, t_i e_i s''(a_i), and c_i^T v_(i-1) for the weights of which that is wanted.
template <typename T>
void second(const Chain& chain, const T* along, const T* const* along_given, const T* const* weights,
            const T* const* pre, const T* const* e, T* d_grad, T* const* d_pre, T* const* d_weights) {
    typedef typename Vector<T>::type V;
    const Layers<T> layers(chain, true);
    const Blocks blocks(chain);
    const int64_t n = chain.layers, *widths = chain.widths, threads = std::max<int64_t>(chain.threads, 1);
    T *packed = space<T>(0, layers.packed), *sums = space<T>(2, threads * layers.summed);
    clear(sums, threads * layers.summed);
#pragma omp parallel num_threads(chain.threads) if (chain.threads > 1 && blocks.count > 1)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; ++i) layers.pack_values(i, weights[i], packed);
        T* room = space<T>(1, blocks.size * (layers.all + layers.widest) + LANES);
        std::vector<T*> v(n + 1);
        for (int64_t i = 0, k = 0; i <= n; k += blocks.size * layers.ld[i++]) v[i] = room + k;
        T *c = room + blocks.size * layers.all, *sums_here = sums + thread() * layers.summed;
#pragma omp for schedule(static)
        for (int64_t k = 0; k < blocks.count; ++k) {
            const int64_t first = blocks.begin(k), rows = blocks.of(k);
            copy(v[0], layers.ld[0], along + first * widths[0], widths[0], widths[0], rows);
            for (int64_t i = 0; i < n; ++i) {
                const int64_t ld = layers.ld[i + 1], wide = widths[i + 1], start = first * wide;
                const Added<T> added(layers, i, v.data(), along_given, first);
                const T *as = pre[i] + start, *up = e[i] + start;
                const T gain = chain.gains[i];
                T *t = v[i + 1], *bent = d_pre[i] + start, *sum = sums_here + layers.at_summed[i];
                product<T>(rows, widths[i], wide, v[i], layers.ld[i], packed + layers.at_packed[i], nullptr, t, ld);
                each<T>(rows, wide, ld, [&](int64_t row, int64_t place, int64_t, int64_t left) {
                    V rest;
                    const V a = Part<T>::load(as + row, left), above = Part<T>::load(up + row, left);
                    const V now = at<V>(t + place), s = Silu<T>::sigma(a, rest);
                    const V slope = Silu<T>::slope(a, s, rest) * gain;
                    at<V>(c + place) = above * slope;
                    Part<T>::store(bent + row, now * above * Silu<T>::bend(a, s, rest) * gain, left);
                    at<V>(t + place) = added(now * slope, row, place, left);
                });
                if (d_weights[i]) outer<T>(rows, wide, widths[i], c, ld, v[i], layers.ld[i], sum, layers.ld[i]);
            }
            copy(d_grad + first * widths[n], widths[n], v[n], layers.ld[n], widths[n], rows);
        }
        collect(layers, sums, threads, d_weights, static_cast<T* const*>(nullptr));
    }
}

}  // namespace

#define EXPORT(T, name)                                                                                                \
    extern "C" void forward_##name(const Chain* chain, const T* x, const T* const* given, const T* const* weights,     \
                                   const T* const* biases, T* out, T* const* pre) {                                    \
        forward<T>(*chain, x, given, weights, biases, out, pre);                                                       \
    }                                                                                                                  \
    extern "C" void backward_##name(const Chain* chain, const T* grad, const T* const* extra, const T* const* weights, \
                                    const T* const* pre, const T* x, const T* const* given, T* d_x,                    \
                                    T* const* d_given, T* const* kept, T* const* d_weights, T* const* d_biases) {      \
        backward<T>(*chain, grad, extra, weights, pre, x, given, d_x, d_given, kept, d_weights, d_biases);             \
    }                                                                                                                  \
    extern "C" void second_##name(const Chain* chain, const T* along, const T* const* along_given,                     \
                                  const T* const* weights, const T* const* pre, const T* const* e, T* d_grad,          \
                                  T* const* d_pre, T* const* d_weights) {                                              \
        second<T>(*chain, along, along_given, weights, pre, e, d_grad, d_pre, d_weights);                              \
    }

#include "precisions.h"
