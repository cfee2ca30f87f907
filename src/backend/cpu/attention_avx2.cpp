#define MOESAIC_ATTENTION_TABLE kAttentionAvx2
#include "backend/cpu/attention_inl.h"
