// Products of planes (Rows, Panels) and of bytes (ByteRows, BytePanels) with what becomes of them.
#pragma once

#include <cstdint>

#include "cpu/kernels/byte_product_inl.h"
#include "cpu/kernels/epilogues_inl.h"
#include "cpu/kernels/plane_product_inl.h"
#include "cpu/kernels/table.h"

namespace bitinfer {
namespace {

// One counter per instruction set, since everything here is local to its file.
uint64_t product_count = 0;
inline uint64_t products_run() { return __atomic_load_n(&product_count, __ATOMIC_RELAXED); }

template <class V, class Left, class Right, class Epilogue>
void product(const Left& a, const Right& b, const Epilogue& epilogue) {
  multiply<V>(a, b, epilogue);
  epilogue.finish();
  __atomic_fetch_add(&product_count, 1, __ATOMIC_RELAXED);
}

template <class V, class Left, class Right>
void store_sums(const Left& a, const Right& b, const StoreSums& to) {
  product<V>(a, b, SumsEpilogue<V>{b.cols, to});
}

template <class V, class Left, class Right>
void pack_codes(const Left& a, const Right& b, const PackCodes& to) {
  if (BitEpilogue<V>::fits(to.flips)) {
    product<V>(a, b, BitEpilogue<V>(a.count, b.panel_count, to));
  } else {
    product<V>(a, b, CodesEpilogue<V>(a.count, b.panel_count, to));
  }
}

template <class V, class Left, class Right>
void store_distances(const Left& a, const Right& b, const StoreDistances& to) {
  product<V>(a, b, DistanceEpilogue<V>{a.count, b.cols, to});
}

}  // namespace
}  // namespace bitinfer
