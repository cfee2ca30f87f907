#pragma once

#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"

namespace moesaic::backend::cpu {

/// The kernels of an instruction set, which the caller knows this machine to have.
const KernelTable& kernel_table(Isa isa);

}  // namespace moesaic::backend::cpu
