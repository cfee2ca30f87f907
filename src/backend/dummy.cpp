#include "backend/dummy_inl.h"
#include "backend/ops.h"

namespace moesaic::backend {

float dummy_value(uint64_t seed, int64_t row, int64_t col) {
  return dummy_from_key(dummy_row_key(seed, row), static_cast<uint32_t>(col));
}

}  // namespace moesaic::backend
