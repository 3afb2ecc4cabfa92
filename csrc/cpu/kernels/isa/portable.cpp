// Any CPU: vectors of the compiler's own, which become the baseline's (SSE2 on x86-64) or plain
// arithmetic.
#include "cpu/kernels/isa/compiler_vectors_inl.h"
#include "cpu/kernels/isa/isa.h"
#include "cpu/kernels/table_inl.h"

namespace bitinfer {
namespace {

struct Portable : CompilerVectors<16> {
  static constexpr int kTileRows = 1;
  static constexpr bool kHasTallTile = false;
  static constexpr int kTilePanels = 1;
  static constexpr int kDotRows = 1;
};

constexpr Kernels kTable = kernel_table<Portable>("portable");

}  // namespace

const Kernels& portable_kernels() { return kTable; }

}  // namespace bitinfer
