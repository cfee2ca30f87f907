#pragma once

// The instruction sets that the CPU kernels are compiled for. Kernel tables are picked by this at
// run time; nothing else in the program asks the processor what it can do.

#include <string>
#include <string_view>
#include <vector>

namespace moesaic::backend::cpu {

/// Each includes those before it.
enum class Isa {
  kBaseline,  ///< x86-64: SSE2
  kAvx2,      ///< AVX2, FMA, F16C
  kVnni,      ///< AVX-512 F, BW, VL, DQ, VNNI
  kAvx512,    ///< and BF16
  kAmx,       ///< AMX tiles with bf16
};

/// "baseline", "avx2", "avx512vnni", "avx512", "amx".
std::string_view to_string(Isa isa);

/// For a person: "AVX-512 BF16".
std::string_view title(Isa isa);

/// The sets that this processor and operating system run, best last. The first call asks Linux for
/// leave to use AMX tiles, for the whole process, so it must come before threads use them.
const std::vector<Isa>& available_isas();

/// The set called `name`, or the best one when it is empty or "auto". Throws UsageError when it is
/// unknown or this machine lacks it, naming those it has.
Isa isa_from_name(const std::string& name);

}  // namespace moesaic::backend::cpu
