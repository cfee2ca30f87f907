// The AMX kernels with emulated tiles, for products_test.cpp. No test framework is included here,
// for this file is compiled with AVX-512 flags.

#define MOESAIC_EMULATE_TILES
#include "backend/cpu/tiles_inl.h"

namespace moesaic::backend::cpu {

extern const KernelTable kKernelsAmxEmulated;
const KernelTable kKernelsAmxEmulated = {
    .bf16_rows = true,
    .row_tiles = true,
    .gemm = gemm_amx,
    .round_rows = round_rows,
    .dummy_tile = dummy_tile,
    .peak = peak_amx,
    .read = read_all,
};

}  // namespace moesaic::backend::cpu
