#define MOESAIC_ROW_TABLE kRowsVnni
#include "backend/cpu/rows_inl.h"
