#define MOESAIC_MISC_TABLE kMiscAvx2
#include "backend/cpu/misc_inl.h"
