// All interactions of SchNet and its readout in one call, and the way back to the pairs' vectors in another.
//
// What epot/models/schnet.py says in torch. With filters W_k from quintic splines of the distance, for atoms i
//
//     m_i = sum_j W_k(r_ij) * y_j,   y = P_k x,   x_i <- x_i + B_k s(A_k m_i + a_k) + b_k,   E_i = w . s(H x_i + h) + e,
//
// and, D_i being the gradient by m_i, per pair dE/dr_ij = D_i . (W_k'(r_ij) * y_j), and dE/dy_i = sum_j W_k(r_ij) * D_j:
// pairs come in both directions, so nothing is scattered. A thread has some receivers for the whole of a call and does
// everything for a few of them at a time, in the nearest cache; threads wait for each other once an interaction, and
// what is computed does not depend on how many there are. All widths are multiples of two vectors (zeros are added),
// and a matrix comes in panels of that width: rows of a panel follow each other.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "exp2.h"
#include "products.h"
#include "vectors.h"

namespace {

constexpr int TAPS = 6, MARGIN = 3;
constexpr int SLOPE = 8, WEIGHTS = 16;  // of a pair: six in the function, six in its slope, each in half of these
constexpr int64_t CHUNK = 32;           // receivers at a time

template <typename T> constexpr int64_t lanes() { return sizeof(typename Vector<T>::type) / sizeof(T); }

template <typename T> struct Layer {
    const T *table;                         // (rows, G)
    const T *project, *project_back;        // (F, G), (G, F)
    const T *inner, *inner_bias, *inner_back;  // A: (G, F), (F), (F, G)
    const T *outer, *outer_bias, *outer_back;  // B: (F, F), (F), (F, F)
};

template <typename T> struct Network {
    int64_t n_layers, n_rows, features, filters, hidden;  // widths with the zeros
    int64_t given_hidden, n_species, n_elements, silu;    // width without; whether the readout's activation is SiLU
    double step;
    const int64_t* species;  // row of an atomic number, from n_elements on where there is none
    const T *terms;          // (6, 16): of 1, x, .., x^5 in the six functions and in their slopes
    const T *embedding, *sent;              // of each element: x at the start, and y of the first interaction
    const T *last, *last_bias, *last_back;  // H: (F, hidden), (hidden), (hidden, F)
    const T *weight, *bias;                 // w (hidden), e
    const Layer<T>* layers;
};

struct Pairs {
    int64_t n_atoms, n_pairs, threads;
    const int64_t *numbers, *starts, *senders;  // starts: first pair of each receiver, and the number of pairs
    const double* vectors;
};

// Memory of a call, kept for the way back. Without a start the end is their number of bytes.
template <typename T> struct Room {
    char* next;
    T *weights, *sent, *slopes, *x, *last_slope, *grad[2], *dr;
    double* inverse;
    int64_t *kinds, *rows;

    template <typename S> S* take(int64_t n) {
        S* const start = reinterpret_cast<S*>(next);
        next += (n * int64_t(sizeof(S)) + 63) / 64 * 64;
        return start;
    }

    Room(const Network<T>& net, int64_t n_atoms, int64_t n_pairs, char* start) : next(start) {
        weights = take<T>(n_pairs * WEIGHTS);
        inverse = take<double>(n_pairs);
        rows = take<int64_t>(n_pairs);
        dr = take<T>(n_pairs);
        kinds = take<int64_t>(n_atoms);
        sent = take<T>((net.n_layers - 1) * n_atoms * net.filters);
        slopes = take<T>(net.n_layers * n_atoms * net.features);
        x = take<T>(n_atoms * net.features);  // on the way back: the gradient by it
        last_slope = take<T>(n_atoms * net.hidden);
        for (auto& one : grad) one = take<T>(n_atoms * net.filters);
    }
};

// ---- Activations ----

// Terms of the series of a logarithm.
template <typename T> constexpr int logarithm() { return sizeof(T) == 4 ? 9 : 18; }

// Value and slope of the shifted softplus, ln(e^a / 2 + 1 / 2), or of SiLU, of n numbers in place (whole vectors).
template <typename T, bool SILU> void activate(T* values, T* slopes, int64_t n) {
    typedef typename Vector<T>::type V;
    for (int64_t c = 0; c < n; c += lanes<T>()) {
        const V a = at<V>(values + c), size = a < T(0) ? -a : a;
        const V t = exp2<T>(size * T(-1.4426950408889634)), near = T(1) / (T(1) + t), far = t * near;  // t = exp(-|a|)
        const V s = a < T(0) ? far : near, rest = a < T(0) ? near : far;
        if (SILU) {
            at<V>(values + c) = a * s;
            at<V>(slopes + c) = s * (T(1) + a * rest);
        } else {  // log(1 + t) = 2 artanh(t / (2 + t))
            const V u = t / (T(2) + t), square = u * u;
            V series = V{};
            for (int m = logarithm<T>() - 1; m >= 0; --m) series = series * square + T(2.0 / (2 * m + 1));
            at<V>(values + c) = (a < T(0) ? V{} : a) + (u * series - T(0.6931471805599453));
            at<V>(slopes + c) = s;
        }
    }
}

// ---- Products of matrices ----

// out (n, N) = a (n, K) b + bias; b in panels.
template <typename T> void product(int64_t n, const T* a, int64_t K, const T* b, const T* bias, T* out, int64_t N) {
    product<T>(n, K, N, a, K, b, bias, out, N);
}

// out += x, or out *= x
template <typename T> void add(T* out, const T* x, int64_t n) {
    typedef typename Vector<T>::type V;
    for (int64_t c = 0; c < n; c += lanes<T>()) at<V>(out + c) += at<V>(x + c);
}
template <typename T> void multiply(T* out, const T* x, int64_t n) {
    typedef typename Vector<T>::type V;
    for (int64_t c = 0; c < n; c += lanes<T>()) at<V>(out + c) *= at<V>(x + c);
}

template <typename T> T total(typename Vector<T>::type x) {
    T sum = 0;
    for (int64_t k = 0; k < lanes<T>(); ++k) sum += x[k];
    return sum;
}

// ---- Sums over neighbors ----

template <typename T> struct Call {
    const Network<T>& net;
    const Pairs& pairs;
    const Room<T> room;
    const int64_t F = net.features, G = net.filters, H = net.hidden;

    Call(const Network<T>& n, const Pairs& p, char* memory) : net(n), pairs(p), room(n, p.n_atoms, p.n_pairs, memory) {}

    // y_j in interaction k
    const T* sender(int64_t k, int64_t j) const {
        return k ? room.sent + ((k - 1) * pairs.n_atoms + j) * G : net.sent + room.kinds[j] * G;
    }

    // Receivers of this thread: neighbors and layers of all receivers are shared out evenly.
    void share(int64_t& first, int64_t& last) const {
        int64_t me = 0, all = 1;
#ifdef _OPENMP
        me = omp_get_thread_num(), all = omp_get_num_threads();
#endif
        const int64_t each = F / 4, work = pairs.n_pairs + pairs.n_atoms * each;
        const auto begin = [&](int64_t t) {
            int64_t low = 0, high = pairs.n_atoms;
            while (low < high) {
                const int64_t middle = (low + high) / 2;
                if ((pairs.starts[middle] + middle * each) * all < work * t) low = middle + 1;
                else high = middle;
            }
            return low;
        };
        first = begin(me);
        last = me + 1 == all ? pairs.n_atoms : begin(me + 1);
    }

    // Where in the splines a pair is, and the weights of the six rows.
    void place(int64_t e) const {
        typedef typename Vector<T>::type V;
        const double* v = pairs.vectors + 3 * e;
        const double r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
        const double place = r / net.step + MARGIN, first = std::floor(place);
        // a distance that is none, or beyond the table, reads its ends: what comes of it is refused by name elsewhere
        room.rows[e] = first >= 0 ? int64_t(std::fmin(first, double(net.n_rows - TAPS))) : 0;
        room.inverse[e] = 1 / r;
        const T x = T(place - first);
        for (int64_t c = 0; c < WEIGHTS; c += lanes<T>()) {
            V sum = at<V>(net.terms + (TAPS - 1) * WEIGHTS + c);
            for (int q = TAPS - 2; q >= 0; --q) sum = sum * x + at<V>(net.terms + q * WEIGHTS + c);
            at<V>(room.weights + e * WEIGHTS + c) = sum;
        }
    }

    template <int N> void sum_part(int64_t k, int64_t i, int64_t c, T* out) const {
        typedef typename Vector<T>::type V;
        constexpr int64_t L = lanes<T>();
        V sums[N];
        for (int n = 0; n < N; ++n) sums[n] = V{};
        for (int64_t e = pairs.starts[i]; e < pairs.starts[i + 1]; ++e) {
            const T *w = room.weights + e * WEIGHTS, *from = net.layers[k].table + room.rows[e] * G + c;
            const T* y = sender(k, pairs.senders[e]) + c;
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) {
                const T* t = from + n * L;
                const V one = w[0] * at<V>(t) + w[1] * at<V>(t + G) + w[2] * at<V>(t + 2 * G);
                const V two = w[3] * at<V>(t + 3 * G) + w[4] * at<V>(t + 4 * G) + w[5] * at<V>(t + 5 * G);
                sums[n] += (one + two) * at<V>(y + n * L);
            }
        }
        for (int n = 0; n < N; ++n) at<V>(out + c + n * L) = sums[n];
    }

    // m_i
    void sum(int64_t k, int64_t i, T* out) const {
        int64_t c = 0;
        for (; c + 8 * lanes<T>() <= G; c += 8 * lanes<T>()) sum_part<8>(k, i, c, out);
        for (; c < G; c += 2 * lanes<T>()) sum_part<2>(k, i, c, out);
    }

    template <int N, bool BACK> void pull_part(int64_t k, int64_t i, int64_t c, const T* grads, T* out) const {
        typedef typename Vector<T>::type V;
        constexpr int64_t L = lanes<T>();
        V own[N], sums[N];
        for (int n = 0; n < N; ++n) {
            own[n] = at<V>(grads + i * G + c + n * L);
            sums[n] = V{};
        }
        for (int64_t e = pairs.starts[i]; e < pairs.starts[i + 1]; ++e) {
            const T *w = room.weights + e * WEIGHTS, *s = w + SLOPE;
            const T* from = net.layers[k].table + room.rows[e] * G + c;
            const T *y = sender(k, pairs.senders[e]) + c, *d = grads + pairs.senders[e] * G + c;
            V dot = V{};
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) {
                V value = V{}, slope = V{};
#pragma GCC unroll 6
                for (int t = 0; t < TAPS; ++t) {
                    const V one = at<V>(from + t * G + n * L);
                    if (BACK) value += w[t] * one;
                    slope += s[t] * one;
                }
                dot += own[n] * (slope * at<V>(y + n * L));
                if (BACK) sums[n] += value * at<V>(d + n * L);
            }
            room.dr[e] += total<T>(dot);
        }
        if (BACK)
            for (int n = 0; n < N; ++n) at<V>(out + c + n * L) = sums[n];
    }

    // Adds to dE/dr of the pairs of i; dE/dy_i is wanted beyond the first interaction.
    template <bool BACK> void pull(int64_t k, int64_t i, const T* grads, T* out) const {
        int64_t c = 0;
        for (; c + 4 * lanes<T>() <= G; c += 4 * lanes<T>()) pull_part<4, BACK>(k, i, c, grads, out);
        for (; c < G; c += 2 * lanes<T>()) pull_part<2, BACK>(k, i, c, grads, out);
    }

    // ---- Interactions ----

    // Interaction k of the receivers from first up to last, and what they send in the next one.
    void interact(int64_t k, int64_t first, int64_t last, T* m, T* h) const {
        const Layer<T>& layer = net.layers[k];
        const int64_t n = last - first;
        T *x = room.x + first * F, *slopes = room.slopes + (k * pairs.n_atoms + first) * F;
        for (int64_t i = first; i < last; ++i) {
            if (k == 0) std::memcpy(room.x + i * F, net.embedding + room.kinds[i] * F, F * sizeof(T));
            sum(k, i, m + (i - first) * G);
        }
        product(n, m, G, layer.inner, layer.inner_bias, h, F);
        activate<T, false>(h, slopes, n * F);
        product(n, h, F, layer.outer, layer.outer_bias, m, F);
        add(x, m, n * F);
        if (k + 1 < net.n_layers)
            product<T>(n, x, F, net.layers[k + 1].project, nullptr, room.sent + (k * pairs.n_atoms + first) * G, G);
    }

    void read_out(int64_t first, int64_t last, T* h, T* energy, T* hidden) const {
        const int64_t n = last - first;
        T* const slopes = room.last_slope + first * H;
        product(n, room.x + first * F, F, net.last, net.last_bias, h, H);
        (net.silu ? activate<T, true> : activate<T, false>)(h, slopes, n * H);
        for (int64_t i = first; i < last; ++i, h += H) {
            typedef typename Vector<T>::type V;
            V sum = V{};
            for (int64_t c = 0; c < H; c += lanes<T>()) sum += at<V>(h + c) * at<V>(net.weight + c);
            energy[i] = total<T>(sum) + net.bias[0];
            std::memcpy(hidden + i * net.given_hidden, h, net.given_hidden * sizeof(T));
        }
    }

    // The gradient by x after the last interaction from those by energies and by the hidden layer (either may be null).
    void read_back(int64_t first, int64_t last, const T* energy, const T* hidden, T* h) const {
        const int64_t n = last - first;
        for (int64_t i = first; i < last; ++i) {
            T* const d = h + (i - first) * H;
            for (int64_t c = 0; c < H; ++c) d[c] = energy ? energy[i] * net.weight[c] : T(0);
            for (int64_t c = 0; hidden && c < net.given_hidden; ++c) d[c] += hidden[i * net.given_hidden + c];
        }
        multiply(h, room.last_slope + first * H, n * H);
        product<T>(n, h, H, net.last_back, nullptr, room.x + first * F, F);
    }

    // The gradient by m of the receivers from that by x.
    void interact_back(int64_t k, int64_t first, int64_t last, T* h) const {
        const int64_t n = last - first;
        product<T>(n, room.x + first * F, F, net.layers[k].outer_back, nullptr, h, F);
        multiply(h, room.slopes + (k * pairs.n_atoms + first) * F, n * F);
        product<T>(n, h, F, net.layers[k].inner_back, nullptr, room.grad[k % 2] + first * G, G);
    }

    // dE/dr of the pairs, and the gradient by x before interaction k.
    void pull_back(int64_t k, int64_t first, int64_t last, T* m, T* h) const {
        const T* const grads = room.grad[k % 2];
        for (int64_t i = first; i < last; ++i) {
            if (k) pull<true>(k, i, grads, m + (i - first) * G);
            else pull<false>(k, i, grads, nullptr);
        }
        if (k == 0) return;
        product<T>(last - first, m, G, net.layers[k].project_back, nullptr, h, F);
        add(room.x + first * F, h, (last - first) * F);
    }

    // f(first, last) for a few receivers at a time.
    template <typename S> static void chunks(int64_t first, int64_t last, const S& f) {
        for (; first < last; first += CHUNK) f(first, std::min(first + CHUNK, last));
    }

    std::vector<T> scratch() const { return std::vector<T>(2 * CHUNK * std::max({F, G, H})); }

    void forward(T* energy, T* hidden) const {
#pragma omp parallel num_threads(pairs.threads) if (pairs.threads > 1)
        {
            std::vector<T> memory = scratch();
            T *m = memory.data(), *h = m + memory.size() / 2;
            int64_t first, last;
            share(first, last);
            for (int64_t e = pairs.starts[first]; e < pairs.starts[last]; ++e) place(e);
            for (int64_t k = 0; k < net.n_layers; ++k) {
                if (k) {
#pragma omp barrier
                }
                chunks(first, last, [&](int64_t p, int64_t q) { interact(k, p, q, m, h); });
            }
            chunks(first, last, [&](int64_t p, int64_t q) { read_out(p, q, h, energy, hidden); });
        }
    }

    void backward(const T* energy, const T* hidden, double* out) const {
#pragma omp parallel num_threads(pairs.threads) if (pairs.threads > 1)
        {
            std::vector<T> memory = scratch();
            T *m = memory.data(), *h = m + memory.size() / 2;
            int64_t first, last;
            share(first, last);
            const int64_t begin = pairs.starts[first], end = pairs.starts[last];
            clear(room.dr + begin, end - begin);
            chunks(first, last, [&](int64_t p, int64_t q) { read_back(p, q, energy, hidden, h); });
            for (int64_t k = net.n_layers - 1; k >= 0; --k) {
                chunks(first, last, [&](int64_t p, int64_t q) { interact_back(k, p, q, h); });
                if (k) {
#pragma omp barrier
                }
                chunks(first, last, [&](int64_t p, int64_t q) { pull_back(k, p, q, m, h); });
            }
            for (int64_t e = begin; e < end; ++e)
                for (int a = 0; a < 3; ++a)
                    out[3 * e + a] = double(room.dr[e]) * room.inverse[e] * pairs.vectors[3 * e + a];
        }
    }
};

// Bytes that a call needs.
template <typename T> int64_t room(const Network<T>& net, int64_t n_atoms, int64_t n_pairs) {
    return reinterpret_cast<intptr_t>(Room<T>(net, n_atoms, n_pairs, nullptr).next);
}

// 1 where an atomic number is none that the network knows, and then nothing is done.
template <typename T> int64_t forward(const Network<T>& net, const Pairs& pairs, char* memory, T* energy, T* hidden) {
    const Call<T> call(net, pairs, memory);
    for (int64_t i = 0; i < pairs.n_atoms; ++i) {
        const int64_t z = pairs.numbers[i];
        if (z < 0 || z >= net.n_species || net.species[z] >= net.n_elements) return 1;
        call.room.kinds[i] = net.species[z];
    }
    call.forward(energy, hidden);
    return 0;
}

}  // namespace

#define EXPORT(T, name)                                                                                           \
    extern "C" int64_t room_##name(const Network<T>* net, int64_t n_atoms, int64_t n_pairs) {                     \
        return room<T>(*net, n_atoms, n_pairs);                                                                   \
    }                                                                                                             \
    extern "C" int64_t forward_##name(const Network<T>* net, const Pairs* pairs, char* memory, T* energy,         \
                                      T* hidden) {                                                                \
        return forward<T>(*net, *pairs, memory, energy, hidden);                                                  \
    }                                                                                                             \
    extern "C" void backward_##name(const Network<T>* net, const Pairs* pairs, char* memory, const T* energy,     \
                                    const T* hidden, double* out) {                                               \
        Call<T>(*net, *pairs, memory).backward(energy, hidden, out);                                              \
    }

#include "precisions.h"
