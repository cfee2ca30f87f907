#define MOESAIC_ATTENTION_TABLE kAttentionVnni
#include "backend/cpu/attention_inl.h"
