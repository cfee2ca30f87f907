#include "backend/cpu/kernel_tables.h"

namespace moesaic::backend::cpu {

const KernelTable& kernel_table(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return kKernelsAvx2;
    case Isa::kVnni:
      return kKernelsVnni;
    case Isa::kAvx512:
      return kKernelsAvx512;
    case Isa::kAmx:
      return kKernelsAmx;
    case Isa::kBaseline:
      break;
  }
  return kKernelsBaseline;
}

}  // namespace moesaic::backend::cpu
