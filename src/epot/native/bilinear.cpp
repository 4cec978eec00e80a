// GemNet's sums over triplets c -> a <- b with the bilinear layer that follows, and their first and second gradients.
//
// The operator is that of epot/blocks/gemnet_triplets.py; pairs are sorted by receiver, so those that end at an atom a
// are rows that follow each other, and
//
//     y[c, o] = sum_if W[o, i, f] B[c, i, f]
//     B[c, i, f] = sum_l R[c, i, l] S[c, l, f]
//     S[c, l, f] = sum_b P[l, c, b] x[b, f].
//
// P of an atom with K neighbors is an array (degrees, K, K), its diagonal zero. All of these are products of matrices.
// B, by far the largest, is held for a few atoms only and made again where it is wanted again. Groups of atoms are dealt
// to threads in a fixed order, and sums of each thread are added in the order of the threads.

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "products.h"
#include "vectors.h"

namespace {

constexpr int64_t ROWS = 32;  // edges of a group, at least: products with W should have as many rows

struct Shape {
    int64_t n_atoms, degrees, basis, channels, outputs, threads;
    const int64_t* first;   // pair of each atom, and the number of pairs
    const int64_t* square;  // sum of K^2 of the atoms before
};

struct Groups {
    std::vector<int64_t> first;  // atom of each group, and the number of atoms
    int64_t count, edges = 0, neighbors = 0;  // the most that a group has, and that an atom has
    explicit Groups(const Shape& s) {
        first.push_back(0);
        for (int64_t a = 0, rows = 0; a < s.n_atoms; ++a) {
            neighbors = std::max(neighbors, s.first[a + 1] - s.first[a]);
            rows += s.first[a + 1] - s.first[a];
            edges = std::max(edges, rows);
            if (rows < ROWS && a + 1 < s.n_atoms) continue;
            first.push_back(a + 1);
            rows = 0;
        }
        count = int64_t(first.size()) - 1;
    }
};

// W in the order of the products; channels are filled up with zeros to whole panels.
template <typename T> struct Weights {
    const int64_t depth;
    T *values, *gradients;
    static int64_t size(const Shape& s) {
        const int64_t depth = s.basis * padded(s.channels, panel<T>());
        return depth * (padded(s.outputs, panel<T>()) + 2 * s.outputs);
    }
    Weights(const Shape& s, const T* w, T* rows) : depth(s.basis * padded(s.channels, panel<T>())) {
        const int64_t O = s.outputs, F = s.channels;
        clear(rows, O * depth);
        copy(rows, padded(F, panel<T>()), w, F, F, O * s.basis);
        gradients = rows + O * depth;
        values = gradients + O * depth;
        pack<T>(depth, O, rows, 1, depth, values);
        pack<T>(O, depth, rows, depth, 1, gradients);
    }
};

// Where the arrays of a group lie; ld of an atom is its number of neighbors, filled up to whole panels.
template <typename T> struct Room {
    const Shape& s;
    const int64_t L, n, F, O, wide, depth, Lp, Op;
    T *P, *P1, *S, *S1, *D, *D1, *B, *H, *G, *y, *x, *xt, *x1, *xt1, *dx, *dP, *turned, *small;
    Room(const Shape& shape, const Groups& groups)
        : s(shape), L(s.degrees), n(s.basis), F(s.channels), O(s.outputs), wide(padded(F, panel<T>())), depth(n * wide),
          Lp(padded(L, panel<T>())), Op(padded(O, panel<T>())) {
        const int64_t E = groups.edges, K = groups.neighbors, ld = padded(K, panel<T>());
        const std::vector<std::pair<T**, int64_t>> parts = {
            {&P, L * K * ld}, {&P1, L * K * ld}, {&dP, L * K * ld}, {&S, K * L * wide}, {&S1, K * L * wide},
            {&D, K * L * wide}, {&D1, K * L * wide}, {&B, E * depth}, {&H, E * depth}, {&G, E * Op}, {&y, E * Op},
            {&x, K * wide}, {&x1, K * wide}, {&xt, F * ld}, {&xt1, F * ld}, {&dx, padded(K, TALL) * wide},
            {&turned, F * Lp}, {&small, n * Lp}};
        int64_t all = 0;
        for (const auto& part : parts) all += part.second + LANES;
        T* at = space<T>(1, all);
        for (const auto& part : parts) {
            *part.first = at;
            at += part.second + LANES;
        }
    }

    // P as (c, l, b)
    void angles(const T* p, int64_t K, int64_t ld, T* to) const {
        for (int64_t c = 0; c < K; ++c)
            for (int64_t l = 0; l < L; ++l) {
                const T* row = p + (l * K + c) * K;
                T* out = to + (c * L + l) * ld;
                std::copy(row, row + K, out);
                std::fill(out + K, out + ld, T(0));
            }
    }
    // S = or += P x, x packed
    template <bool ADD> void sum(const T* p, const T* rows, int64_t K, int64_t ld, T* sums) const {
        product<T, ADD>(K * L, K, F, p, ld, rows, nullptr, sums, wide);
    }
    // B = or += R S; what pads the channels is zero
    template <bool ADD> void join(const T* r, const T* sums, int64_t K, T* b) const {
        for (int64_t c = 0; c < K; ++c)
            multiply<T, ADD>(n, L, wide, r + c * n * L, L, 1, sums + c * L * wide, wide, b + c * depth, wide);
    }
    // dS = or += R^T H
    template <bool ADD> void part(const T* r, const T* h, int64_t K, T* d) const {
        for (int64_t c = 0; c < K; ++c)
            multiply<T, ADD>(L, n, wide, r + c * n * L, 1, L, h + c * depth, wide, d + c * L * wide, wide);
    }
    // dR = or += H S^T
    template <bool ADD> void to_radial(const T* h, const T* sums, int64_t K, T* out) const {
        for (int64_t c = 0; c < K; ++c) {
            for (int64_t l = 0; l < L; ++l)
                for (int64_t f = 0; f < F; ++f) turned[f * Lp + l] = sums[(c * L + l) * wide + f];
            multiply<T, false>(n, F, L, h + c * depth, wide, 1, turned, Lp, small, Lp);
            for (int64_t i = 0; i < n; ++i)
                for (int64_t l = 0; l < L; ++l) {
                    T& to = out[(c * n + i) * L + l];
                    to = ADD ? to + small[i * Lp + l] : small[i * Lp + l];
                }
        }
    }
    // dx = P^T dS, or the sum of two such, in whole rows
    void to_channels(const T* p, const T* d, const T* p1, const T* d1, int64_t K, int64_t ld, T* out) const {
        clear(dx, K * wide);
        outer<T>(K * L, K, wide, p, ld, d, wide, dx, wide);
        if (p1) outer<T>(K * L, K, wide, p1, ld, d1, wide, dx, wide);
        copy(out, F, dx, wide, F, K);
    }
    // dP = dS x^T, or the sum of two such, x turned and packed
    void to_angles(const T* d, const T* rows, const T* d1, const T* rows1, int64_t K, int64_t ld, T* out) const {
        product<T>(K * L, F, K, d, wide, rows, nullptr, dP, ld);
        if (d1) product<T, true>(K * L, F, K, d1, wide, rows1, nullptr, dP, ld);
        for (int64_t c = 0; c < K; ++c)
            for (int64_t l = 0; l < L; ++l) {
                const T* row = dP + (c * L + l) * ld;
                std::copy(row, row + K, out + (l * K + c) * K);
            }
    }
};

// The body of a loop over groups and, within, over their atoms.
#define GROUPS                                                                                                      \
    _Pragma("omp parallel num_threads(s.threads) if (s.threads > 1)") {                                             \
        Room<T> room(s, groups);                                                                                    \
        const int64_t n = room.n, F = room.F, O = room.O, L = room.L, Op = room.Op, depth = room.depth;             \
        _Pragma("omp for schedule(static)") for (int64_t g = 0; g < groups.count; ++g) {                            \
            const int64_t start = s.first[groups.first[g]], E = s.first[groups.first[g + 1]] - start;
#define ATOMS                                                                                                       \
            for (int64_t a = groups.first[g]; a < groups.first[g + 1]; ++a) {                                       \
                const int64_t begin = s.first[a], K = s.first[a + 1] - begin, ld = padded(K, panel<T>());           \
                const T *r = radial + begin * n * L, *p = angles + L * s.square[a], *own = x + begin * F;           \
                const int64_t place = (begin - start) * depth;
#define END }
#define DONE }}

template <typename T>
void forward(const Shape& s, const T* x, const T* radial, const T* angles, const T* w, T* out) {
    const Groups groups(s);
    const Weights<T> weights(s, w, space<T>(0, Weights<T>::size(s)));
    GROUPS
    ATOMS
    room.angles(p, K, ld, room.P);
    pack<T>(K, F, own, F, 1, room.x);
    room.template sum<false>(room.P, room.x, K, ld, room.S);
    room.template join<false>(r, room.S, K, room.B + place);
    END
    product<T>(E, depth, O, room.B, depth, weights.values, nullptr, room.y, Op);
    copy(out + start * O, O, room.y, Op, O, E);
    DONE
}

// Sums of each thread, one after the other.
template <typename T> void collect(const Shape& s, const T* sums, int64_t each, T* d_w) {
    const int64_t F = s.channels, wide = padded(F, panel<T>());
    for (int64_t t = 0; t < s.threads; ++t)
        for (int64_t k = 0; k < s.outputs * s.basis; ++k)
            for (int64_t f = 0; f < F; ++f) d_w[k * F + f] += sums[t * each + k * wide + f];
}

// Results that are null are not wanted; to d_w is added.
template <typename T>
void backward(const Shape& s, const T* grad, const T* x, const T* radial, const T* angles, const T* w, T* d_x,
              T* d_radial, T* d_angles, T* d_w) {
    const Groups groups(s);
    const Weights<T> weights(s, w, space<T>(0, Weights<T>::size(s)));
    const int64_t each = padded(s.outputs, TALL) * weights.depth;
    T* sums = d_w ? space<T>(2, s.threads * each) : nullptr;
    if (d_w) clear(sums, s.threads * each);
    GROUPS
    copy(room.G, Op, grad + start * O, O, O, E);
    product<T>(E, O, depth, room.G, Op, weights.gradients, nullptr, room.H, depth);
    ATOMS
    const T *h = room.H + place, *none = nullptr;
    room.angles(p, K, ld, room.P);
    if (d_radial || d_w) {
        pack<T>(K, F, own, F, 1, room.x);
        room.template sum<false>(room.P, room.x, K, ld, room.S);
    }
    if (d_w) room.template join<false>(r, room.S, K, room.B + place);
    if (d_radial) room.template to_radial<false>(h, room.S, K, d_radial + begin * n * L);
    room.template part<false>(r, h, K, room.D);
    if (d_x) room.to_channels(room.P, room.D, none, none, K, ld, d_x + begin * F);
    if (d_angles) {
        pack<T>(F, K, own, 1, F, room.xt);
        room.to_angles(room.D, room.xt, none, none, K, ld, d_angles + L * s.square[a]);
    }
    END
    if (d_w) outer<T>(E, O, depth, room.G, Op, room.B, depth, sums + thread() * each, depth);
    DONE
    if (d_w) collect(s, sums, each, d_w);
}

// The gradient of E = <x1, d_x> + <radial1, d_radial> + <angles1, d_angles> + <w1, d_w> (the last if it is not null):
// E = sum G (B1 W^T + B W1^T) with B1 = R1 S + R S1 and S1 = P1 x + P x1.
template <typename T>
void second(const Shape& s, const T* grad, const T* x, const T* radial, const T* angles, const T* w, const T* x1,
            const T* radial1, const T* angles1, const T* w1, T* d_grad, T* d_x, T* d_radial, T* d_angles, T* d_w) {
    const Groups groups(s);
    const int64_t size = Weights<T>::size(s);
    T* packed = space<T>(0, size * (w1 ? 2 : 1));
    const Weights<T> weights(s, w, packed), along(s, w1 ? w1 : w, packed + (w1 ? size : 0));
    const int64_t each = padded(s.outputs, TALL) * weights.depth;
    T* sums = d_w ? space<T>(2, s.threads * each) : nullptr;
    if (d_w) clear(sums, s.threads * each);
    GROUPS
    std::vector<T> more(w1 ? 2 * E * depth : 0);  // B and G W1
    T *plain = more.data(), *H1 = plain + (w1 ? E * depth : 0);
    copy(room.G, Op, grad + start * O, O, O, E);
    product<T>(E, O, depth, room.G, Op, weights.gradients, nullptr, room.H, depth);
    if (w1) product<T>(E, O, depth, room.G, Op, along.gradients, nullptr, H1, depth);
    ATOMS
    const T *r1 = radial1 + begin * n * L, *p1 = angles1 + L * s.square[a], *own1 = x1 + begin * F;
    const T *h = room.H + place, *h1 = H1 + (w1 ? place : 0);
    room.angles(p, K, ld, room.P);
    room.angles(p1, K, ld, room.P1);
    pack<T>(K, F, own, F, 1, room.x);
    pack<T>(K, F, own1, F, 1, room.x1);
    room.template sum<false>(room.P, room.x, K, ld, room.S);
    room.template sum<false>(room.P1, room.x, K, ld, room.S1);
    room.template sum<true>(room.P, room.x1, K, ld, room.S1);
    room.template join<false>(r1, room.S, K, room.B + place);
    room.template join<true>(r, room.S1, K, room.B + place);
    if (w1) room.template join<false>(r, room.S, K, plain + place);
    if (d_radial) {
        room.template to_radial<false>(h, room.S1, K, d_radial + begin * n * L);
        if (w1) room.template to_radial<true>(h1, room.S, K, d_radial + begin * n * L);
    }
    room.template part<false>(r1, h, K, room.D);  // by S
    if (w1) room.template part<true>(r, h1, K, room.D);
    room.template part<false>(r, h, K, room.D1);  // by S1
    if (d_x) room.to_channels(room.P, room.D, room.P1, room.D1, K, ld, d_x + begin * F);
    if (d_angles) {
        pack<T>(F, K, own, 1, F, room.xt);
        pack<T>(F, K, own1, 1, F, room.xt1);
        room.to_angles(room.D, room.xt, room.D1, room.xt1, K, ld, d_angles + L * s.square[a]);
    }
    END
    product<T>(E, depth, O, room.B, depth, weights.values, nullptr, room.y, Op);
    if (w1) product<T, true>(E, depth, O, plain, depth, along.values, nullptr, room.y, Op);
    copy(d_grad + start * O, O, room.y, Op, O, E);
    if (d_w) outer<T>(E, O, depth, room.G, Op, room.B, depth, sums + thread() * each, depth);
    DONE
    if (d_w) collect(s, sums, each, d_w);
}

}  // namespace

#define EXPORT(T, name)                                                                                                \
    extern "C" void forward_##name(const Shape* s, const T* x, const T* r, const T* p, const T* w, T* out) {           \
        forward<T>(*s, x, r, p, w, out);                                                                               \
    }                                                                                                                  \
    extern "C" void backward_##name(const Shape* s, const T* g, const T* x, const T* r, const T* p, const T* w, T* dx, \
                                    T* dr, T* dp, T* dw) {                                                             \
        backward<T>(*s, g, x, r, p, w, dx, dr, dp, dw);                                                                \
    }                                                                                                                  \
    extern "C" void second_##name(const Shape* s, const T* g, const T* x, const T* r, const T* p, const T* w,          \
                                  const T* x1, const T* r1, const T* p1, const T* w1, T* dg, T* dx, T* dr, T* dp,      \
                                  T* dw) {                                                                             \
        second<T>(*s, g, x, r, p, w, x1, r1, p1, w1, dg, dx, dr, dp, dw);                                              \
    }

#include "precisions.h"
