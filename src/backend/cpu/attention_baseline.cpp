#define MOESAIC_ATTENTION_TABLE kAttentionBaseline
#include "backend/cpu/attention_inl.h"
