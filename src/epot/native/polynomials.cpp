// MACE's symmetric contraction as sparse polynomials, one atom at a time.
//
//     B[o, c] = sum over terms of k[z, term, c] x[p, c] x[q, c] x[s, c] x[r, c]
//
// in every channel c, with the coefficients of the atom's element z (epot/blocks/sparse_contraction.py). Terms that have
// p, q and s in common follow each other: their product, and the way back through it, is worked out once for all of
// them. x has a last component that is 1, for terms with fewer factors. Atoms are dealt to threads in a fixed order.

#include <vector>

#include "vectors.h"

namespace {

struct Group {
    int64_t p, q, s, end;  // factors in common, and the first term of the next group
};

struct Term {
    int64_t r, out;  // last factor, component of the result
};

struct Shape {
    int64_t n_atoms, n_in, n_out, n_groups, n_terms, channels, threads;
    int64_t degrees_in, degrees_out;
    const Group* groups;
    const Term* terms;
    const int64_t* species;  // which set of coefficients each atom has
};

constexpr int64_t MOST = 64;  // components, the one that is 1 included

// Components of an atom from one array for each degree, at a channel; and back.
template <typename V, typename T> inline void load(V* x, T* const* from, int64_t degrees, int64_t atom, int64_t C, int64_t c) {
    for (int64_t l = 0; l < degrees; ++l)
        for (int64_t m = 0; m < 2 * l + 1; ++m) *x++ = at<V>(from[l] + (atom * (2 * l + 1) + m) * C + c);
}

template <typename V, typename T>
inline void store(const V* x, T* const* to, int64_t degrees, int64_t atom, int64_t C, int64_t c) {
    for (int64_t l = 0; l < degrees; ++l)
        for (int64_t m = 0; m < 2 * l + 1; ++m) at<V>(to[l] + (atom * (2 * l + 1) + m) * C + c) = *x++;
}

template <typename T> struct Values {
    const Shape& s;
    int64_t atom;
    const T* k;
    T *const *in, *const *out;

    template <typename V> void run(int64_t c) const {
        const int64_t C = s.channels;
        V x[MOST], b[MOST];
        load<V, T>(x, in, s.degrees_in, atom, C, c);
        x[s.n_in] = V{} + 1;
        for (int64_t o = 0; o < s.n_out; ++o) b[o] = V{};
        for (int64_t n = 0, e = 0; n < s.n_groups; ++n) {
            const Group& g = s.groups[n];
            const V product = x[g.p] * x[g.q] * x[g.s];
            for (; e < g.end; ++e) b[s.terms[e].out] += at<V>(k + e * C + c) * product * x[s.terms[e].r];
        }
        store<V, T>(b, out, s.degrees_out, atom, C, c);
    }
};

template <typename T> struct First {
    const Shape& s;
    int64_t atom;
    const T* k;
    T *const *in, *const *grads, *const *dx;
    T* dk;  // of this thread and element, or null

    template <typename V> void run(int64_t c) const {
        const int64_t C = s.channels;
        V x[MOST], d[MOST], g[MOST];
        load<V, T>(x, in, s.degrees_in, atom, C, c);
        load<V, T>(g, grads, s.degrees_out, atom, C, c);
        x[s.n_in] = V{} + 1;
        for (int64_t i = 0; i <= s.n_in; ++i) d[i] = V{};
        for (int64_t n = 0, e = 0; n < s.n_groups; ++n) {
            const Group& one = s.groups[n];
            const V p = x[one.p], q = x[one.q], r = x[one.s], product = p * q * r;
            V sum = V{};
            for (; e < one.end; ++e) {
                const V from = g[s.terms[e].out], w = from * at<V>(k + e * C + c), last = x[s.terms[e].r];
                d[s.terms[e].r] += w * product;
                sum += w * last;
                if (dk) at<V>(dk + e * C + c) += from * product * last;
            }
            d[one.p] += sum * q * r;
            d[one.q] += sum * p * r;
            d[one.s] += sum * p * q;
        }
        store<V, T>(d, dx, s.degrees_in, atom, C, c);
    }
};

// S = <ax, dE/dx> + <ak, dE/dk>, E = <g, B>: its gradients by g (dg), x and k. ak may be null.
template <typename T> struct Second {
    const Shape& s;
    int64_t atom;
    const T *k, *ak;
    T *const *in, *const *along, *const *grads, *const *dg, *const *dx;
    T* dk;

    template <typename V> void run(int64_t c) const {
        const int64_t C = s.channels;
        V x[MOST], a[MOST], d[MOST], g[MOST], b[MOST];
        load<V, T>(x, in, s.degrees_in, atom, C, c);
        load<V, T>(a, along, s.degrees_in, atom, C, c);
        load<V, T>(g, grads, s.degrees_out, atom, C, c);
        x[s.n_in] = V{} + 1;
        a[s.n_in] = V{};
        for (int64_t i = 0; i <= s.n_in; ++i) d[i] = V{};
        for (int64_t o = 0; o < s.n_out; ++o) b[o] = V{};
        for (int64_t n = 0, e = 0; n < s.n_groups; ++n) {
            const Group& one = s.groups[n];
            const V p = x[one.p], q = x[one.q], r = x[one.s], ap = a[one.p], aq = a[one.q], ar = a[one.s];
            const V qr = q * r, aqr = aq * r + q * ar, product = p * qr, change = ap * qr + p * aqr;
            V sum = V{}, asum = V{};  // what multiplies the change of the product, and the product
            for (; e < one.end; ++e) {
                const int64_t last = s.terms[e].r, out = s.terms[e].out;
                const V from = g[out], ke = at<V>(k + e * C + c), w = from * ke, y = x[last], ay = a[last];
                const V moved = change * y + product * ay;
                b[out] += ke * moved;
                d[last] += w * change;
                sum += w * y;
                asum += w * ay;
                if (ak) {
                    const V ake = at<V>(ak + e * C + c), v = from * ake;
                    b[out] += ake * product * y;
                    d[last] += v * product;
                    asum += v * y;
                }
                if (dk) at<V>(dk + e * C + c) += from * moved;
            }
            d[one.p] += sum * aqr + asum * qr;
            d[one.q] += sum * (ap * r + p * ar) + asum * p * r;
            d[one.s] += sum * (ap * q + p * aq) + asum * p * q;
        }
        store<V, T>(d, dx, s.degrees_in, atom, C, c);
        store<V, T>(b, dg, s.degrees_out, atom, C, c);
    }
};

}  // namespace

#define ATOMS _Pragma("omp parallel for schedule(static) num_threads(s->threads)") \
    for (int64_t atom = 0; atom < s->n_atoms; ++atom)
#define OF(k) ((k) ? (k) + s->species[atom] * s->n_terms * s->channels : nullptr)

#define EXPORT(T, name)                                                                                               \
    extern "C" void forward_##name(const Shape* s, const T* k, T* const* in, T* const* out) {                         \
        ATOMS by_channels<T>(s->channels, Values<T>{*s, atom, OF(k), in, out});                                       \
    }                                                                                                                 \
    extern "C" void backward_##name(const Shape* s, const T* k, T* const* in, T* const* grads, T* const* dx,          \
                                    T* const* dk) {                                                                   \
        ATOMS by_channels<T>(s->channels,                                                                             \
                             First<T>{*s, atom, OF(k), in, grads, dx, dk ? OF(dk[thread()]) : nullptr});              \
    }                                                                                                                 \
    extern "C" void second_##name(const Shape* s, const T* k, T* const* in, const T* ak, T* const* along,             \
                                  T* const* grads, T* const* dg, T* const* dx, T* const* dk) {                        \
        ATOMS by_channels<T>(s->channels, Second<T>{*s, atom, OF(k), OF(ak), in, along, grads, dg, dx,                \
                                                    dk ? OF(dk[thread()]) : nullptr});                                \
    }

EXPORT(float, f32)
EXPORT(double, f64)
