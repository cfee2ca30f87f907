#include "backend/cpu/integers_inl.h"
#include "backend/cpu/tiles_inl.h"

namespace moesaic::backend::cpu {

const KernelTable kKernelsAmx = {
    .bf16_rows = true,
    .row_tiles = true,
    .gemm = gemm_amx,
    .round_rows = round_rows,
    .dummy_tile = dummy_tile,
    .peak = peak_amx,
    .read = read_all,
    .integers = &kIntegers,
};

}  // namespace moesaic::backend::cpu
