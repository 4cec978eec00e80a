// Polynomials of an atom's features, and their first and second gradients: epot/blocks/contraction_kernels.py says which.
//
// One channel of the atoms of one element at a time, as many atoms side by side as fit a vector. x = (1, A), M are the
// monomials of degree N-1 in x, and G = D M, in blocks, the gradient of N B. Nothing of this is stored for all atoms.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
    typedef float V __attribute__((vector_size(64)));
};
template <>
struct Lanes<double> {
    typedef double V __attribute__((vector_size(64)));
};

struct Tables {
    int64_t degree, n_variables, n_outputs, n_blocks, n_steps, n_columns, n_entries;
    const int64_t* rows;     // of each block
    const int64_t* columns;  // of each block
    const int64_t* back;     // output * n_variables + variable of each row of all blocks
    const int64_t* sizes;    // how many monomials each step makes
    const int64_t* left;     // of all steps: which monomial of the step before
    const int64_t* right;    // and which variable
};

struct Atoms {
    int64_t n_atoms, channels, n_elements, threads;
    const int64_t* ends;  // of the atoms of each element
};

template <typename T>
struct Work {
    using V = typename Lanes<T>::V;
    static constexpr int64_t W = sizeof(V) / sizeof(T);
    const Tables& t;
    const Atoms& a;
    std::vector<V> x, h, m, dm, spare, dspare, rows, g, dx;
    std::vector<int32_t> output, variable;  // of each row
    std::vector<int32_t> row;               // of each output and variable

    Work(const Tables& t, const Atoms& a) : t(t), a(a) {
        int64_t most = std::max<int64_t>(t.n_columns, 1), n_rows = t.n_outputs * t.n_variables;
        for (int64_t s = 0; s < t.n_steps; ++s) most = std::max(most, t.sizes[s]);
        for (auto* v : {&x, &h, &dx}) v->resize(t.n_variables);
        for (auto* v : {&m, &dm, &spare, &dspare}) v->resize(most);
        rows.resize(n_rows);
        g.resize(t.n_outputs);
        row.resize(n_rows);
        for (int64_t r = 0; r < n_rows; ++r) {
            row[t.back[r]] = r;
            output.push_back(t.back[r] / t.n_variables);
            variable.push_back(t.back[r] % t.n_variables);
        }
    }

    // Rows of an array (rows, channels, atoms), zero beyond the last atom.
    void load(const T* from, int64_t count, int64_t channel, int64_t first, int64_t lanes, V* to) const {
        for (int64_t i = 0; i < count; ++i) {
            const T* row = from + (i * a.channels + channel) * a.n_atoms + first;
            V v = {};
            if (lanes == W)
                __builtin_memcpy(&v, row, sizeof(V));
            else
                for (int64_t l = 0; l < lanes; ++l) v[l] = row[l];
            to[i] = v;
        }
    }

    void store(T* to, int64_t count, int64_t channel, int64_t first, int64_t lanes, const V* from, T factor) const {
        for (int64_t i = 0; i < count; ++i) {
            T* row = to + (i * a.channels + channel) * a.n_atoms + first;
            V v = from[i] * factor;
            if (lanes == W)
                __builtin_memcpy(row, &v, sizeof(V));
            else
                for (int64_t l = 0; l < lanes; ++l) row[l] = v[l];
        }
    }

    void features(const T* from, int64_t channel, int64_t first, int64_t lanes, T constant, std::vector<V>& to) const {
        to[0] = V{} + constant;
        load(from, t.n_variables - 1, channel, first, lanes, &to[1]);
    }

    void powers() {
        if (t.degree == 1) {
            m[0] = V{} + T(1);
            return;
        }
        const int64_t *left = t.left, *right = t.right;
        if (t.degree == 2) {
            for (int64_t k = 0; k < t.sizes[0]; ++k) m[k] = x[left[k]];
            return;
        }
        for (int64_t s = 0; s < t.n_steps; ++s) {
            const V* before = s ? spare.data() : x.data();
            for (int64_t k = 0; k < t.sizes[s]; ++k) m[k] = before[left[k]] * x[right[k]];
            left += t.sizes[s], right += t.sizes[s];
            if (s + 1 < t.n_steps) std::copy(m.begin(), m.begin() + t.sizes[s], spare.begin());
        }
    }

    // The derivative of the monomials along h as well.
    void directional() {
        powers();
        if (t.degree == 1) {
            dm[0] = V{};
            return;
        }
        const int64_t *left = t.left, *right = t.right;
        if (t.degree == 2) {
            for (int64_t k = 0; k < t.sizes[0]; ++k) dm[k] = h[left[k]];
            return;
        }
        for (int64_t s = 0; s < t.n_steps; ++s) {  // spare holds the products of the step before the last
            const V *before = s ? spare.data() : x.data(), *change = s ? dspare.data() : h.data();
            for (int64_t k = 0; k < t.sizes[s]; ++k)
                dm[k] = change[left[k]] * x[right[k]] + before[left[k]] * h[right[k]];
            left += t.sizes[s], right += t.sizes[s];
            if (s + 1 < t.n_steps) std::copy(dm.begin(), dm.begin() + t.sizes[s], dspare.begin());
        }
    }

    template <int R>
    static void some_rows(const T* d, int64_t columns, const V* by, V* to) {
        constexpr int U = R > 4 ? 1 : R > 2 ? 2 : 4;  // sums at work at the same time: a sum waits for itself
        V sum[U][R] = {};
        int64_t k = 0;
        for (; k + U <= columns; k += U)
            for (int u = 0; u < U; ++u) {
                V v = by[k + u];
                for (int r = 0; r < R; ++r) sum[u][r] += v * d[r * columns + k + u];
            }
        for (; k < columns; ++k)
            for (int r = 0; r < R; ++r) sum[0][r] += by[k] * d[r * columns + k];
        for (int r = 0; r < R; ++r) {
            for (int u = 1; u < U; ++u) sum[0][r] += sum[u][r];
            to[r] = sum[0][r];
        }
    }

    // rows = D m, block by block
    void product(const T* d, const V* by) {
        V* to = rows.data();
        for (int64_t b = 0; b < t.n_blocks; ++b) {
            int64_t left = t.rows[b], columns = t.columns[b];
            for (; left >= 8; left -= 8, to += 8, d += 8 * columns) some_rows<8>(d, columns, by, to);
            switch (left) {
                case 7: some_rows<7>(d, columns, by, to); break;
                case 6: some_rows<6>(d, columns, by, to); break;
                case 5: some_rows<5>(d, columns, by, to); break;
                case 4: some_rows<4>(d, columns, by, to); break;
                case 3: some_rows<3>(d, columns, by, to); break;
                case 2: some_rows<2>(d, columns, by, to); break;
                case 1: some_rows<1>(d, columns, by, to); break;
            }
            to += left, d += left * columns, by += columns;
        }
    }

    void over_variables(const V* y, std::vector<V>& out) {  // out_o = sum_i rows_oi y_i
        const int32_t* r = row.data();
        for (int64_t o = 0; o < t.n_outputs; ++o) {
            V sum[4] = {};
            for (int64_t i = 0; i < t.n_variables; ++i) sum[i & 3] += rows[r[i]] * y[i];
            r += t.n_variables;
            out[o] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
    }

    void over_outputs() {  // dx_i = sum_o g_o rows_oi
        for (int64_t i = 0; i < t.n_variables; ++i) {
            V sum = {};
            for (int64_t o = 0; o < t.n_outputs; ++o) sum += rows[row[o * t.n_variables + i]] * g[o];
            dx[i] = sum;
        }
    }

    static T sum(V v) {
        T total = 0;
        for (int64_t l = 0; l < W; ++l) total += v[l];
        return total;
    }
};

// Rows and monomials of all atoms of one channel and element, for sums over atoms.
template <typename T>
struct Outer {
    using V = typename Lanes<T>::V;
    std::vector<V> rows, m;
    int64_t most = 0, used = 0;

    void start(const Tables& t, int64_t blocks) {
        used = 0, most = blocks;
        rows.resize(t.n_outputs * t.n_variables * blocks);
        m.resize(t.n_columns * blocks);
    }

    void add(const Work<T>& w, const V* y) {
        const Tables& t = w.t;
        for (size_t r = 0; r < w.rows.size(); ++r)
            rows[r * most + used] = w.g[w.output[r]] * y[w.variable[r]];
        for (int64_t k = 0; k < t.n_columns; ++k) m[k * most + used] = w.m[k];
        ++used;
    }

    template <int R>
    void some_rows(const V* row, const V* by, int64_t columns, T factor, T* out) const {
        for (int64_t k = 0; k < columns; ++k) {
            V sum[R] = {};
            for (int64_t b = 0; b < used; ++b)
                for (int r = 0; r < R; ++r) sum[r] += row[r * most + b] * by[k * most + b];
            for (int r = 0; r < R; ++r) out[r * columns + k] = factor * Work<T>::sum(sum[r]);
        }
    }

    void finish(const Tables& t, T factor, T* out) const {
        const V *row = rows.data(), *by = m.data();
        for (int64_t b = 0; b < t.n_blocks; ++b) {
            int64_t left = t.rows[b], columns = t.columns[b];
            for (; left >= 4; left -= 4, row += 4 * most, out += 4 * columns)
                some_rows<4>(row, by, columns, factor, out);
            for (; left > 0; --left, row += most, out += columns) some_rows<1>(row, by, columns, factor, out);
            by += columns * most;
        }
    }
};

template <typename T, typename Step, typename End>
void each(const Tables& t, const Atoms& a, Step step, End end) {
#pragma omp parallel num_threads(a.threads)
    {
        Work<T> w(t, a);
        Outer<T> outer;
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t z = 0; z < a.n_elements; ++z)
            for (int64_t c = 0; c < a.channels; ++c) {
                int64_t first = z ? a.ends[z - 1] : 0, last = a.ends[z];
                outer.start(t, (last - first + w.W - 1) / w.W);
                int64_t at = (z * a.channels + c) * t.n_entries;
                for (; first < last; first += w.W) step(w, outer, at, c, first, std::min(last - first, w.W));
                end(outer, at);
            }
    }
}

template <typename T>
void values(const Tables& t, const Atoms& a, const T* features, const T* weights, T* out) {
    auto step = [&](Work<T>& w, Outer<T>&, int64_t at, int64_t c, int64_t first, int64_t lanes) {
        w.features(features, c, first, lanes, 1, w.x);
        w.powers();
        w.product(weights + at, w.m.data());
        w.over_variables(w.x.data(), w.g);
        w.store(out, t.n_outputs, c, first, lanes, w.g.data(), T(1) / t.degree);
    };
    each<T>(t, a, step, [](Outer<T>&, int64_t) {});
}

template <typename T>
void first_gradient(const Tables& t, const Atoms& a, const T* grad, const T* features, const T* weights, T* d_features,
                    T* d_weights) {
    auto step = [&](Work<T>& w, Outer<T>& outer, int64_t at, int64_t c, int64_t first, int64_t lanes) {
        w.features(features, c, first, lanes, 1, w.x);
        w.load(grad, t.n_outputs, c, first, lanes, w.g.data());
        w.powers();
        if (d_features) {
            w.product(weights + at, w.m.data());
            w.over_outputs();
            w.store(d_features, t.n_variables - 1, c, first, lanes, &w.dx[1], 1);
        }
        if (d_weights) outer.add(w, w.x.data());
    };
    each<T>(t, a, step, [&](Outer<T>& outer, int64_t at) {
        if (d_weights) outer.finish(t, T(1) / t.degree, d_weights + at);
    });
}

template <typename T>
void second_gradient(const Tables& t, const Atoms& a, const T* along, const T* grad, const T* features,
                     const T* weights, T* d_grad, T* d_features, T* d_weights) {
    auto step = [&](Work<T>& w, Outer<T>& outer, int64_t at, int64_t c, int64_t first, int64_t lanes) {
        w.features(features, c, first, lanes, 1, w.x);
        w.features(along, c, first, lanes, 0, w.h);
        w.directional();
        if (d_grad) {
            w.product(weights + at, w.m.data());
            w.over_variables(w.h.data(), w.g);
            w.store(d_grad, t.n_outputs, c, first, lanes, w.g.data(), 1);
        }
        w.load(grad, t.n_outputs, c, first, lanes, w.g.data());
        if (d_features) {
            w.product(weights + at, w.dm.data());
            w.over_outputs();
            w.store(d_features, t.n_variables - 1, c, first, lanes, &w.dx[1], 1);
        }
        if (d_weights) outer.add(w, w.h.data());
    };
    each<T>(t, a, step, [&](Outer<T>& outer, int64_t at) {
        if (d_weights) outer.finish(t, 1, d_weights + at);
    });
}

}  // namespace

#define EXPORT(T, name)                                                                                             \
    extern "C" void values_##name(const Tables* t, const Atoms* a, const T* features, const T* weights, T* out) {   \
        values<T>(*t, *a, features, weights, out);                                                                  \
    }                                                                                                               \
    extern "C" void first_##name(const Tables* t, const Atoms* a, const T* grad, const T* features, const T* weights, \
                                 T* d_features, T* d_weights) {                                                     \
        first_gradient<T>(*t, *a, grad, features, weights, d_features, d_weights);                                  \
    }                                                                                                               \
    extern "C" void second_##name(const Tables* t, const Atoms* a, const T* along, const T* grad, const T* features, \
                                  const T* weights, T* d_grad, T* d_features, T* d_weights) {                       \
        second_gradient<T>(*t, *a, along, grad, features, weights, d_grad, d_features, d_weights);                  \
    }

EXPORT(float, f32)
EXPORT(double, f64)
