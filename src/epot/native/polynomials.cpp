// MACE's symmetric contraction as sparse polynomials, one atom at a time.
//
//     B[o, c] = sum over entries of k[z, entry, c] x[i, c] x[j, c] ...      (up to four factors)
//
// in every channel c, with the coefficients of the atom's element z (epot/blocks/sparse_contraction.py). Channels are
// innermost. Atoms are dealt to threads in a fixed order.

#include <cstdint>
#include <cstring>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

struct Entry {
    int64_t out;        // component of the result
    int64_t n;          // factors
    int64_t factor[4];  // components of x
};

struct Shape {
    int64_t n_atoms, n_in, n_out, n_entries, channels, threads;
    int64_t degrees_in, degrees_out;
    const Entry* entries;
    const int64_t* species;  // which set of coefficients each atom has
};

inline int64_t thread() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// Components of an atom side by side, from one array for each degree; and back.
template <typename T> void load(T* x, T* const* from, int64_t degrees, int64_t atom, int64_t C) {
    for (int64_t l = 0; l < degrees; x += (2 * l + 1) * C, ++l)
        std::memcpy(x, from[l] + atom * (2 * l + 1) * C, sizeof(T) * (2 * l + 1) * C);
}

template <typename T> void store(const T* x, T* const* to, int64_t degrees, int64_t atom, int64_t C) {
    for (int64_t l = 0; l < degrees; x += (2 * l + 1) * C, ++l)
        std::memcpy(to[l] + atom * (2 * l + 1) * C, x, sizeof(T) * (2 * l + 1) * C);
}

#define CHANNELS _Pragma("omp simd") for (int64_t c = 0; c < C; ++c)

template <typename T, int FIXED>
void forward(const Shape& s, const T* k, T* const* in, T* const* out) {
    const int64_t C = FIXED ? FIXED : s.channels;
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<T> room((s.n_in + s.n_out) * C);
        T *x = room.data(), *b = x + s.n_in * C;
#pragma omp for schedule(static)
        for (int64_t atom = 0; atom < s.n_atoms; ++atom) {
            load(x, in, s.degrees_in, atom, C);
            std::memset(b, 0, sizeof(T) * s.n_out * C);
            const T* ke = k + s.species[atom] * s.n_entries * C;
            for (int64_t e = 0; e < s.n_entries; ++e, ke += C) {
                const Entry& one = s.entries[e];
                T* to = b + one.out * C;
                const T *p = x + one.factor[0] * C, *q = x + one.factor[1] * C, *r = x + one.factor[2] * C,
                        *t = x + one.factor[3] * C;
                switch (one.n) {
                    case 1: CHANNELS to[c] += ke[c] * p[c]; break;
                    case 2: CHANNELS to[c] += ke[c] * p[c] * q[c]; break;
                    case 3: CHANNELS to[c] += ke[c] * p[c] * (q[c] * r[c]); break;
                    default: CHANNELS to[c] += ke[c] * p[c] * (q[c] * r[c] * t[c]);
                }
            }
            store(b, out, s.degrees_out, atom, C);
        }
    }
}

// dx, and dk of each thread (or null).
template <typename T, int FIXED>
void backward(const Shape& s, const T* k, T* const* in, T* const* grads, T* const* dx, T* const* dk) {
    const int64_t C = FIXED ? FIXED : s.channels;
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<T> room((2 * s.n_in + s.n_out) * C);
        T *x = room.data(), *d = x + s.n_in * C, *g = d + s.n_in * C;
        const int64_t mine = thread();
#pragma omp for schedule(static)
        for (int64_t atom = 0; atom < s.n_atoms; ++atom) {
            load(x, in, s.degrees_in, atom, C);
            load(g, grads, s.degrees_out, atom, C);
            std::memset(d, 0, sizeof(T) * s.n_in * C);
            const int64_t first = s.species[atom] * s.n_entries * C;
            for (int64_t e = 0; e < s.n_entries; ++e) {
                const Entry& one = s.entries[e];
                const int64_t P = one.factor[0] * C, Q = one.factor[1] * C, R = one.factor[2] * C, U = one.factor[3] * C;
                const T *ke = k + first + e * C, *ge = g + one.out * C, *p = x + P, *q = x + Q, *r = x + R, *u = x + U;
                T *dp = d + P, *dq = d + Q, *dr = d + R, *du = d + U;
                T* dke = dk ? dk[mine] + first + e * C : nullptr;
                switch (one.n) {
                    case 1:
                        CHANNELS dp[c] += ge[c] * ke[c];
                        if (dke) CHANNELS dke[c] += ge[c] * p[c];
                        break;
                    case 2:
                        CHANNELS {
                            const T w = ge[c] * ke[c], pc = p[c], qc = q[c];
                            dp[c] += w * qc;
                            dq[c] += w * pc;
                        }
                        if (dke) CHANNELS dke[c] += ge[c] * p[c] * q[c];
                        break;
                    case 3:
                        CHANNELS {
                            const T w = ge[c] * ke[c], pc = p[c], qc = q[c], rc = r[c];
                            dp[c] += w * qc * rc;
                            dq[c] += w * pc * rc;
                            dr[c] += w * pc * qc;
                        }
                        if (dke) CHANNELS dke[c] += ge[c] * p[c] * (q[c] * r[c]);
                        break;
                    default:
                        CHANNELS {
                            const T w = ge[c] * ke[c], pc = p[c], qc = q[c], rc = r[c], uc = u[c];
                            dp[c] += w * qc * rc * uc;
                            dq[c] += w * pc * rc * uc;
                            dr[c] += w * pc * qc * uc;
                            du[c] += w * pc * qc * rc;
                        }
                        if (dke) CHANNELS dke[c] += ge[c] * p[c] * (q[c] * r[c] * u[c]);
                }
            }
            store(d, dx, s.degrees_in, atom, C);
        }
    }
}

// S = <ax, dE/dx> + <ak, dE/dk> (ak may be null), E = <g, B>: its gradients by g, x and k (of each thread, or null).
template <typename T, int FIXED>
void second(const Shape& s, const T* k, T* const* in, const T* ak, T* const* along, T* const* grads, T* const* dg,
            T* const* dx, T* const* dk) {
    const int64_t C = FIXED ? FIXED : s.channels;
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<T> room((3 * s.n_in + 2 * s.n_out) * C + C);
        T *x = room.data(), *a = x + s.n_in * C, *d = a + s.n_in * C, *g = d + s.n_in * C, *b = g + s.n_out * C;
        T* none = b + s.n_out * C;
        std::memset(none, 0, sizeof(T) * C);
        const int64_t mine = thread();
#pragma omp for schedule(static)
        for (int64_t atom = 0; atom < s.n_atoms; ++atom) {
            load(x, in, s.degrees_in, atom, C);
            load(a, along, s.degrees_in, atom, C);
            load(g, grads, s.degrees_out, atom, C);
            std::memset(d, 0, sizeof(T) * s.n_in * C);
            std::memset(b, 0, sizeof(T) * s.n_out * C);
            const int64_t first = s.species[atom] * s.n_entries * C;
            for (int64_t e = 0; e < s.n_entries; ++e) {
                const Entry& one = s.entries[e];
                const int64_t F[4] = {one.factor[0] * C, one.factor[1] * C, one.factor[2] * C, one.factor[3] * C};
                const T *ke = k + first + e * C, *ake = ak ? ak + first + e * C : none, *ge = g + one.out * C;
                const T *p = x + F[0], *q = x + F[1], *r = x + F[2], *u = x + F[3];
                const T *ap = a + F[0], *aq = a + F[1], *ar = a + F[2], *au = a + F[3];
                T *dp = d + F[0], *dq = d + F[1], *dr = d + F[2], *du = d + F[3], *to = b + one.out * C;
                T* dke = dk ? dk[mine] + first + e * C : nullptr;
                switch (one.n) {
                    case 1:
                        CHANNELS {
                            to[c] += ke[c] * ap[c] + ake[c] * p[c];
                            dp[c] += ge[c] * ake[c];
                        }
                        if (dke) CHANNELS dke[c] += ge[c] * ap[c];
                        break;
                    case 2:
                        CHANNELS {
                            const T w = ge[c] * ke[c], v = ge[c] * ake[c];
                            const T pc = p[c], qc = q[c], pa = ap[c], qa = aq[c];
                            to[c] += ke[c] * (pa * qc + pc * qa) + ake[c] * pc * qc;
                            dp[c] += w * qa + v * qc;
                            dq[c] += w * pa + v * pc;
                        }
                        if (dke) CHANNELS dke[c] += ge[c] * (ap[c] * q[c] + p[c] * aq[c]);
                        break;
                    case 3:
                        CHANNELS {
                            const T w = ge[c] * ke[c], v = ge[c] * ake[c];
                            const T pc = p[c], qc = q[c], rc = r[c], pa = ap[c], qa = aq[c], ra = ar[c];
                            const T pq = pc * qc, apq = pa * qc + pc * qa;
                            to[c] += ke[c] * (apq * rc + pq * ra) + ake[c] * pq * rc;
                            dp[c] += w * (qa * rc + qc * ra) + v * qc * rc;
                            dq[c] += w * (pa * rc + pc * ra) + v * pc * rc;
                            dr[c] += w * apq + v * pq;
                        }
                        if (dke) CHANNELS dke[c] += ge[c] * ((ap[c] * q[c] + p[c] * aq[c]) * r[c] + p[c] * q[c] * ar[c]);
                        break;
                    default:
                        CHANNELS {
                            const T w = ge[c] * ke[c], v = ge[c] * ake[c];
                            const T pc = p[c], qc = q[c], rc = r[c], uc = u[c];
                            const T pa = ap[c], qa = aq[c], ra = ar[c], ua = au[c];
                            const T pq = pc * qc, apq = pa * qc + pc * qa, ru = rc * uc, aru = ra * uc + rc * ua;
                            to[c] += ke[c] * (apq * ru + pq * aru) + ake[c] * pq * ru;
                            dp[c] += w * (qa * ru + qc * aru) + v * qc * ru;
                            dq[c] += w * (pa * ru + pc * aru) + v * pc * ru;
                            dr[c] += w * (apq * uc + pq * ua) + v * pq * uc;
                            du[c] += w * (apq * rc + pq * ra) + v * pq * rc;
                        }
                        if (dke)
                            CHANNELS {
                                const T pq = p[c] * q[c], apq = ap[c] * q[c] + p[c] * aq[c];
                                dke[c] += ge[c] * (apq * r[c] * u[c] + pq * (ar[c] * u[c] + r[c] * au[c]));
                            }
                }
            }
            store(d, dx, s.degrees_in, atom, C);
            store(b, dg, s.degrees_out, atom, C);
        }
    }
}

}  // namespace

#define BY_CHANNELS(kernel, T, ...)                       \
    switch (s->channels) {                                \
        case 16: kernel<T, 16>(__VA_ARGS__); break;       \
        case 32: kernel<T, 32>(__VA_ARGS__); break;       \
        case 64: kernel<T, 64>(__VA_ARGS__); break;       \
        case 128: kernel<T, 128>(__VA_ARGS__); break;     \
        default: kernel<T, 0>(__VA_ARGS__);               \
    }

#define EXPORT(T, name)                                                                                               \
    extern "C" void forward_##name(const Shape* s, const T* k, T* const* in, T* const* out) {                         \
        BY_CHANNELS(forward, T, *s, k, in, out)                                                                       \
    }                                                                                                                 \
    extern "C" void backward_##name(const Shape* s, const T* k, T* const* in, T* const* grads, T* const* dx,          \
                                    T* const* dk) {                                                                   \
        BY_CHANNELS(backward, T, *s, k, in, grads, dx, dk)                                                            \
    }                                                                                                                 \
    extern "C" void second_##name(const Shape* s, const T* k, T* const* in, const T* ak, T* const* along,             \
                                  T* const* grads, T* const* dg, T* const* dx, T* const* dk) {                        \
        BY_CHANNELS(second, T, *s, k, in, ak, along, grads, dg, dx, dk)                                               \
    }

EXPORT(float, f32)
EXPORT(double, f64)
