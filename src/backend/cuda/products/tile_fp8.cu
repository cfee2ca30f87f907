#include "backend/cuda/products/instances.cuh"

namespace moesaic::backend::cuda {

template void launch_tiles<E4M3>(const ProductArgs&, bool, const TileChoice&, int, const Launch&);

}  // namespace moesaic::backend::cuda
