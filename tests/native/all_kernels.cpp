// The kernels with the shapes that they have on AVX-512, 16 channels a vector and tiles of 4 or 5
// rows and two panels, for any machine.
#include "all_kernels.h"

// How vectors of 64 bytes are passed depends on the compiler's flags; they are not, all is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

#include "cpu/kernels/isa/compiler_vectors_inl.h"
#include "cpu/kernels/table_inl.h"

namespace bitinfer::test {
namespace {

struct Wide : CompilerVectors<64> {
  static constexpr int kTileRows = 4;
  static constexpr bool kHasTallTile = true;
  static constexpr int kTilePanels = 2;
  static constexpr int kDotRows = 8;
};

constexpr Kernels kTable = kernel_table<Wide>("wide");

}  // namespace

std::vector<Kernels> all_kernels() {
  std::vector<Kernels> all{kTable};
  for (const std::string& isa : available_isas()) all.push_back(kernels_for(isa));
  return all;
}

}  // namespace bitinfer::test
