#define MOESAIC_MISC_TABLE kMiscBaseline
#include "backend/cpu/misc_inl.h"
