// Loops that compilers must unroll.
#pragma once

namespace bitinfer {
namespace {

#define BITINFER_INLINE __attribute__((always_inline))

template <int... I>
struct Indices {};
template <int kCount, int... I>
struct IndicesUpTo : IndicesUpTo<kCount - 1, kCount - 1, I...> {};
template <int... I>
struct IndicesUpTo<0, I...> {
  using type = Indices<I...>;
};
template <int kValue>
struct Index {
  constexpr operator int() const { return kValue; }
};

template <class Body, int... I>
BITINFER_INLINE inline void unroll(const Body& body, Indices<I...>) {
  (body(Index<I>{}), ...);
}

// body(0), body(1), .. with constants. Compilers keep arrays in registers only if every index is a
// constant before they start; GCC unrolls loops too late for that, which costs a sixth of the
// speed.
template <int kCount, class Body>
BITINFER_INLINE inline void unroll(const Body& body) {
  unroll(body, typename IndicesUpTo<kCount>::type{});
}

}  // namespace
}  // namespace bitinfer
