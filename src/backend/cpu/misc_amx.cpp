#define MOESAIC_TILE_ATTENTION
#define MOESAIC_MISC_TABLE kMiscAmx
#include "backend/cpu/misc_inl.h"
