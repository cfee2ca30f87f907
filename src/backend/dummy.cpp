#include "backend/dummy_inl.h"
#include "backend/weights.h"

namespace moesaic::backend {

float dummy_value(uint64_t seed, int64_t row, int64_t col) {
  return dummy_from_key(dummy_row_key(seed, row), static_cast<uint32_t>(col));
}

MatrixSource dummy_source(const MatrixDesc& desc, uint64_t seed) {
  return {.parts = {{.part = {}, .rows = desc.n, .seed = seed}}};
}

ExpertsSource dummy_source(const ExpertsDesc& desc, uint64_t seed) {
  ExpertsSource source;
  for (int64_t e = 0; e < desc.experts; ++e, seed += 3) {
    source.gate.push_back({.part = {}, .rows = desc.width, .seed = seed});
    source.up.push_back({.part = {}, .rows = desc.width, .seed = seed + 1});
    source.down.push_back({.part = {}, .rows = desc.hidden, .seed = seed + 2});
  }
  return source;
}

}  // namespace moesaic::backend
