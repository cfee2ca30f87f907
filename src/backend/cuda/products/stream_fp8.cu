#include "backend/cuda/products/instances.cuh"

namespace moesaic::backend::cuda {

template void launch_stream<E4M3>(const ProductArgs&, Role, bool, int, int, const Launch&);
template void launch_portable_tiles<E4M3>(const ProductArgs&, bool, int, const Launch&);

}  // namespace moesaic::backend::cuda
