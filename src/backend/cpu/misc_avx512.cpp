#define MOESAIC_MISC_TABLE kMiscAvx512
#include "backend/cpu/misc_inl.h"
