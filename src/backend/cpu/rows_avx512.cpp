#define MOESAIC_ROW_TABLE kRowsAvx512
#include "backend/cpu/rows_inl.h"
