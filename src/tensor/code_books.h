#pragma once

// The code books of GGUF's IQ types: an entry stands for eight values of two bits each, or four of
// three, which say where among the few magnitudes that occur a value is; the first one lowest.

#include <array>
#include <cstdint>

namespace moesaic::tensor {

extern const std::array<uint16_t, 256> kIq2Xxs;
extern const std::array<uint16_t, 512> kIq2Xs;
extern const std::array<uint16_t, 1024> kIq2S;
extern const std::array<uint16_t, 256> kIq3Xxs;
extern const std::array<uint16_t, 512> kIq3S;
extern const std::array<uint16_t, 2048> kIq1;

}  // namespace moesaic::tensor
