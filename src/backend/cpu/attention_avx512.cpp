#define MOESAIC_ATTENTION_TABLE kAttentionAvx512
#include "backend/cpu/attention_inl.h"
