// The table of one instruction set.
#pragma once

#include "cpu/kernels/embed_inl.h"
#include "cpu/kernels/layer_norm_inl.h"
#include "cpu/kernels/pack_inl.h"
#include "cpu/kernels/product_inl.h"
#include "cpu/kernels/softmax_inl.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/values_inl.h"

namespace bitinfer {
namespace {

template <class V>
constexpr Kernels kernel_table(const char* name) {
  return Kernels{name,
                 products_run,
                 popcount_probe<V>,
                 store_sums<V, Rows, Panels>,
                 pack_codes<V, Rows, Panels>,
                 store_distances<V, Rows, Panels>,
                 store_sums<V, ByteRows, BytePanels>,
                 pack_codes<V, ByteRows, BytePanels>,
                 store_distances<V, ByteRows, BytePanels>,
                 embed<V>,
                 pack_greater<V>,
                 pack_not_less<V>,
                 quantize<V>,
                 least_value,
                 value_codes<V>,
                 affine<V>,
                 layer_norm<V>,
                 probability_bits<V>,
                 row_sums<V>,
                 probability_codes<V>};
}

}  // namespace
}  // namespace bitinfer
