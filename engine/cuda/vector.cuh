// Vectors of 8 and 16 bytes.
#pragma once
#include <stdint.h>
#include <string.h>

// A vector in one access. The host's compiler would take it apart, and the counters would see its parts.
#ifndef NOC_EMULATED
template <class V> static __device__ __forceinline__ V get(const void *from)
{
    return *(const V *)from;
}

template <class V> static __device__ __forceinline__ void put(void *to, const V &v)
{
    *(V *)to = v;
}
#else
template <int BYTES> struct word;
template <> struct word<8> {
    typedef uint64_t type;
};
template <> struct word<16> {
    typedef unsigned __int128 type;
};

template <class V> static inline V get(const void *from)
{
    typename word<sizeof(V)>::type bits = *(const typename word<sizeof(V)>::type *)from;
    V v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

template <class V> static inline void put(void *to, const V &v)
{
    typename word<sizeof(V)>::type bits;
    memcpy(&bits, &v, sizeof v);
    *(typename word<sizeof(V)>::type *)to = bits;
}
#endif
