#include "backend/cpu/integers_inl.h"

namespace moesaic::backend::cpu {

const KernelTable kKernelsAvx512 = {
    .bf16_rows = true,
    .row_tiles = false,
    .gemm = gemm,
    .round_rows = round_rows,
    .dummy_tile = dummy_tile,
    .peak = peak,
    .read = read_all,
    .integers = &kIntegers,
};

}  // namespace moesaic::backend::cpu
