#define MOESAIC_TILE_ATTENTION
#define MOESAIC_ATTENTION_TABLE kAttentionAmx
#include "backend/cpu/attention_inl.h"
