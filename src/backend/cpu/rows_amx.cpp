#define MOESAIC_ROW_TABLE kRowsAmx
#include "backend/cpu/rows_inl.h"
