#define MOESAIC_ROW_TABLE kRowsBaseline
#include "backend/cpu/rows_inl.h"
