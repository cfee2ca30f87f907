#include "backend/cpu/isa.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>

#include "backend/ops.h"
#include "base/error.h"

namespace moesaic::backend::cpu {
namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf cpuid(unsigned leaf, unsigned subleaf) {
  Leaf out;
  if (__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) return {};
  return out;
}

bool bit(unsigned word, int index) { return ((word >> index) & 1u) != 0; }

/// The register states that the operating system saves: XCR0.
uint64_t enabled_states(const Leaf& basic) {
  if (!bit(basic.ecx, 27)) return 0;  // OSXSAVE
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

/// Tile data is a large state that Linux gives a process on request only
/// (linux/Documentation/arch/x86/xstate.rst).
bool request_tiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::vector<Isa> detect() {
  std::vector<Isa> found = {Isa::kBaseline};
  const Leaf basic = cpuid(1, 0);
  const Leaf extended = cpuid(7, 0);
  const Leaf extended1 = cpuid(7, 1);
  const uint64_t states = enabled_states(basic);
  constexpr uint64_t kYmm = 0x6;
  constexpr uint64_t kZmm = 0xe6;
  constexpr uint64_t kTiles = 0x60000;

  const bool avx2 = (states & kYmm) == kYmm && bit(basic.ecx, 12) && bit(basic.ecx, 29) &&
                    bit(extended.ebx, 5);  // FMA, F16C, AVX2
  if (!avx2) return found;
  found.push_back(Isa::kAvx2);

  const bool vnni = (states & kZmm) == kZmm && bit(extended.ebx, 16) && bit(extended.ebx, 17) &&
                    bit(extended.ebx, 30) && bit(extended.ebx, 31) &&
                    bit(extended.ecx, 11);  // F, DQ, BW, VL, VNNI
  if (!vnni) return found;
  found.push_back(Isa::kVnni);

  if (!bit(extended1.eax, 5)) return found;  // BF16
  found.push_back(Isa::kAvx512);

  const bool amx = (states & kTiles) == kTiles && bit(extended.edx, 24) && bit(extended.edx, 22) &&
                   request_tiles();  // AMX-TILE, AMX-BF16
  if (amx) found.push_back(Isa::kAmx);
  return found;
}

struct Name {
  std::string_view name, title;
};
constexpr std::array<Name, 5> kNames = {{{"baseline", "SSE2"},
                                         {"avx2", "AVX2"},
                                         {"avx512vnni", "AVX-512 VNNI"},
                                         {"avx512", "AVX-512 BF16"},
                                         {"amx", "AMX BF16"}}};

}  // namespace

std::string_view to_string(Isa isa) { return kNames[static_cast<size_t>(isa)].name; }
std::string_view title(Isa isa) { return kNames[static_cast<size_t>(isa)].title; }

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

Isa isa_from_name(const std::string& name) {
  if (name.empty() || name == "auto") return available_isas().back();
  for (Isa isa : available_isas()) {
    if (name == to_string(isa)) return isa;
  }
  std::string has;
  for (Isa isa : available_isas())
    has += fmt::format("{}{}", has.empty() ? "" : ", ", to_string(isa));
  throw base::UsageError(
      fmt::format("no instruction set '{}' on this machine; it has: {}", name, has));
}

}  // namespace moesaic::backend::cpu

namespace moesaic::backend {

std::vector<std::string> available_cpu_isas() {
  std::vector<std::string> names;
  for (cpu::Isa isa : cpu::available_isas()) names.emplace_back(cpu::to_string(isa));
  return names;
}

}  // namespace moesaic::backend
