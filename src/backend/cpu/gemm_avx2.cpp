#include "backend/cpu/integers_inl.h"

namespace moesaic::backend::cpu {

const KernelTable kKernelsAvx2 = {
    .bf16_rows = false,
    .row_tiles = false,
    .gemm = gemm,
    .round_rows = nullptr,
    .dummy_tile = dummy_tile,
    .peak = peak,
    .read = read_all,
    .integers = &kIntegers,
};

}  // namespace moesaic::backend::cpu
