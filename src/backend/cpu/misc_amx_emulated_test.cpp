// The kernels of misc_amx.cpp with emulated tiles, for attention_test.cpp. No test framework is
// included here, for this file is compiled with AVX-512 flags.

#include "backend/cpu/kernels_misc.h"

namespace moesaic::backend::cpu {
extern const MiscTable kMiscAmxEmulated;
}

#define MOESAIC_EMULATE_TILES
#define MOESAIC_TILE_ATTENTION
#define MOESAIC_MISC_TABLE kMiscAmxEmulated
#include "backend/cpu/misc_inl.h"
