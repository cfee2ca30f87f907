#include "backend/host/host_ops.h"

namespace moesaic::backend {

Routing Routing::dense(int64_t rows) {
  Routing routing;
  routing.rows = rows;
  routing.top_k = 1;
  routing.experts.assign(static_cast<size_t>(rows), 0);
  routing.weights.assign(static_cast<size_t>(rows), 1.0f);
  return routing;
}

}  // namespace moesaic::backend
