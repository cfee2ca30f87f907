// The kernels of attention_amx.cpp with emulated tiles, for attention_test.cpp. No test framework
// is included here, for this file is compiled with AVX-512 flags.

#include "backend/cpu/kernels_attention.h"

namespace moesaic::backend::cpu {
extern const AttentionTable kAttentionAmxEmulated;
}

#define MOESAIC_EMULATE_TILES
#define MOESAIC_TILE_ATTENTION
#define MOESAIC_ATTENTION_TABLE kAttentionAmxEmulated
#include "backend/cpu/attention_inl.h"
