#define MOESAIC_ROW_TABLE kRowsAvx2
#include "backend/cpu/rows_inl.h"
