// Channels that lie side by side, a vector register at a time.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int64_t LANES = 16;  // of the longest vector

// Bytes of this processor's registers: of longer vectors GCC compares and converts numbers one at a time.
#if defined(__AVX512F__)
#define WIDE 64
#elif defined(__AVX__)
#define WIDE 32
#else
#define WIDE 16
#endif

template <typename T> struct Vector { typedef T type __attribute__((vector_size(WIDE), aligned(sizeof(T)), may_alias)); };

template <typename V, typename T> inline V& at(T* x) { return *reinterpret_cast<V*>(x); }
template <typename V, typename T> inline const V& at(const T* x) { return *reinterpret_cast<const V*>(x); }

// body.run<V>(c) for c = 0 .. C in steps of a vector V; the rest of the channels one at a time.
template <typename T, typename F> inline void by_channels(int64_t C, const F& body) {
    typedef typename Vector<T>::type V;
    constexpr int64_t lanes = sizeof(V) / sizeof(T);
    int64_t c = 0;
    for (; c + lanes <= C; c += lanes) body.template run<V>(c);
    for (; c < C; ++c) body.template run<T>(c);
}

template <typename T> inline void clear(T* x, int64_t n) { std::memset(x, 0, sizeof(T) * n); }

inline int64_t thread() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

}  // namespace
