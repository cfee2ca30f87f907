#pragma once

// For tests: writes matrices as quantising tools do, each format by its published description, and
// says in floats which values it wrote. Shares nothing with what reads them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "model/loader_testing.h"

namespace moesaic::model::testing {

/// What is wrong with a matrix as written; its floats are right all the same.
enum class Fault { kNone, kScale, kNibbles, kZero };

/// A matrix [n, k] as it is to be written: its tensors by what follows the module's name, and the
/// values that they stand for.
struct Written {
  std::map<std::string, FakeTensor> tensors;
  std::vector<float> values;
};
using Writer = std::function<Written(const std::vector<float>&, int64_t n, int64_t k, Fault)>;

template <typename T>
FakeTensor raw(const std::string& dtype, const tensor::Shape& shape, const std::vector<T>& values) {
  FakeTensor made;
  made.shape = shape;
  made.raw_dtype = dtype;
  made.raw_bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return made;
}

inline FakeTensor floats(tensor::DType dtype, const tensor::Shape& shape,
                         const std::vector<float>& values) {
  return {.dtype = dtype, .shape = shape, .values = values, .raw_dtype = {}, .raw_bytes = {}};
}

inline float rounded(tensor::DType dtype, float value) {
  std::array<std::byte, 4> bytes{};
  tensor::store_float(dtype, bytes.data(), 0, value);
  return tensor::load_float(dtype, bytes.data(), 0);
}

/// A matrix of integers of `bits`: w = (q - z) s, each output's inputs in groups.
struct Integers {
  int64_t n, k, bits, groups;
  bool zeros;                  ///< else z is the middle
  std::vector<int64_t> group;  ///< of each input
  std::vector<int> q, z;       ///< [n, k], [n, groups]; not below 0
  std::vector<float> s;        ///< [n, groups]
  bool swapped = false;        ///< every two integers in a word have each other's place

  static constexpr tensor::DType kScales = tensor::DType::kF16;

  Integers(const std::vector<float>& w, int64_t outputs, int64_t inputs, int64_t width,
           int64_t group_size, bool with_zeros, bool reordered = false)
      : n(outputs), k(inputs), bits(width), zeros(with_zeros) {
    const int64_t size = group_size > 0 ? group_size : k;
    groups = (k + size - 1) / size;
    for (int64_t i = 0; i < k; ++i) group.push_back(i / size);
    if (reordered) std::shuffle(group.begin(), group.end(), std::mt19937(5));
    q.resize(static_cast<size_t>(n * k));
    for (int64_t o = 0; o < n; ++o) {
      for (int64_t g = 0; g < groups; ++g) quantise(w, o, g);
    }
  }

  int& value(int64_t o, int64_t i) { return q[static_cast<size_t>(o * k + i)]; }
  int zero(int64_t o, int64_t g) const { return z[static_cast<size_t>(o * groups + g)]; }
  float scale(int64_t o, int64_t g) const { return s[static_cast<size_t>(o * groups + g)]; }

  void quantise(const std::vector<float>& w, int64_t o, int64_t g) {
    const int most = (1 << bits) - 1;
    float low = 0;
    float high = 0;
    for (int64_t i = 0; i < k; ++i) {
      if (group[static_cast<size_t>(i)] != g) continue;
      low = std::min(low, w[static_cast<size_t>(o * k + i)]);
      high = std::max(high, w[static_cast<size_t>(o * k + i)]);
    }
    const int middle = 1 << (bits - 1);
    const float step = zeros ? (high - low) / static_cast<float>(most)
                             : std::max(high, -low) / static_cast<float>(std::max(1, middle - 1));
    s.push_back(rounded(kScales, std::max(step, 1e-3f)));
    // One is left free at the top, for a fault that moves all zero points by one.
    z.push_back(zeros ? std::clamp(static_cast<int>(std::lround(-low / s.back())), 1, most - 1)
                      : middle);
    for (int64_t i = 0; i < k; ++i) {
      if (group[static_cast<size_t>(i)] != g) continue;
      const auto at = static_cast<size_t>(o * k + i);
      q[at] = std::clamp(static_cast<int>(std::lround(w[at] / s.back())) + z.back(), 0, most);
    }
  }

  std::vector<float> values(double unit = 1) const {
    std::vector<float> all;
    for (int64_t o = 0; o < n; ++o) {
      for (int64_t i = 0; i < k; ++i) {
        const int64_t g = group[static_cast<size_t>(i)];
        all.push_back(
            static_cast<float>(static_cast<double>(q[static_cast<size_t>(o * k + i)] - zero(o, g)) *
                               scale(o, g) * unit));
      }
    }
    return all;
  }

  /// Goes wrong as asked; values() was taken before.
  void spoil(Fault fault) {
    if (fault == Fault::kScale) {
      std::rotate(s.begin(), s.begin() + groups, s.end());  // each output has its neighbour's
    } else if (fault == Fault::kZero) {
      for (int& each : z) ++each;
    }
    swapped = fault == Fault::kNibbles;
  }

  /// Words of rows x cols integers that share words along the columns, value `place(j)` of a word's
  /// own in its j-th bits.
  std::vector<uint32_t> words(int64_t rows, int64_t cols,
                              const std::function<int(int64_t, int64_t)>& at,
                              const std::function<int64_t(int64_t)>& place = {}) const {
    const int64_t each = 32 / bits;
    std::vector<uint32_t> all;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t first = 0; first < cols; first += each) {
        uint32_t word = 0;
        for (int64_t j = 0; j < each; ++j) {
          const int64_t col = first + (place ? place(j) : j);
          const int64_t bit = (swapped ? j ^ 1 : j) * bits;
          if (col < cols) word |= static_cast<uint32_t>(at(row, col)) << bit;
        }
        all.push_back(word);
      }
    }
    return all;
  }

  template <typename T>
  static std::vector<T> turned(const std::vector<T>& from, int64_t rows, int64_t cols) {
    std::vector<T> to;
    for (int64_t col = 0; col < cols; ++col) {
      for (int64_t row = 0; row < rows; ++row)
        to.push_back(from[static_cast<size_t>(row * cols + col)]);
    }
    return to;
  }
};

/// AutoAWQ's gemm: words along the outputs, whose j-th bits hold output 0, 2, 4, 6, 1, 3, 5, 7.
inline Written write_awq_gemm(Integers m, Fault fault) {
  Written made{.tensors = {}, .values = m.values()};
  m.spoil(fault);
  const auto order = [](int64_t j) {
    return std::array<int64_t, 8>{0, 2, 4, 6, 1, 3, 5, 7}[static_cast<size_t>(j)];
  };
  made.tensors[".qweight"] =
      raw("I32", {m.k, m.n / 8},
          m.words(
              m.k, m.n, [&](int64_t i, int64_t o) { return m.value(o, i); }, order));
  made.tensors[".qzeros"] =
      raw("I32", {m.groups, m.n / 8},
          m.words(
              m.groups, m.n, [&](int64_t g, int64_t o) { return m.zero(o, g); }, order));
  made.tensors[".scales"] =
      floats(Integers::kScales, {m.groups, m.n}, Integers::turned(m.s, m.n, m.groups));
  return made;
}

/// AutoAWQ's gemv for groups of 32: words along the inputs, and of zero points along the groups,
/// padded to four words.
inline Written write_awq_gemv(Integers m, Fault fault) {
  Written made{.tensors = {}, .values = m.values()};
  m.spoil(fault);
  const int64_t padded = (m.groups + 31) / 32 * 32;
  std::vector<float> scales;
  for (int64_t o = 0; o < m.n; ++o) {
    for (int64_t g = 0; g < padded; ++g) scales.push_back(g < m.groups ? m.scale(o, g) : 0.0f);
  }
  made.tensors[".qweight"] =
      raw("I32", {m.n, m.k / 8},
          m.words(m.n, m.k, [&](int64_t o, int64_t i) { return m.value(o, i); }));
  made.tensors[".qzeros"] = raw(
      "I32", {m.n, padded / 8},
      m.words(m.n, padded, [&](int64_t o, int64_t g) { return g < m.groups ? m.zero(o, g) : 0; }));
  made.tensors[".scales"] = floats(Integers::kScales, {m.n, padded}, scales);
  return made;
}

/// GPTQ: words along the inputs, [words, outputs]; zero points along the outputs, stored less
/// `stored_less`.
inline Written write_gptq(Integers m, int stored_less, bool with_order, Fault fault) {
  Written made{.tensors = {}, .values = m.values()};
  m.spoil(fault);
  const int64_t each = 32 / m.bits;
  const auto along = m.words(m.n, m.k, [&](int64_t o, int64_t i) { return m.value(o, i); });
  made.tensors[".qweight"] =
      raw("I32", {m.k / each, m.n}, Integers::turned(along, m.n, m.k / each));
  made.tensors[".qzeros"] =
      raw("I32", {m.groups, m.n / each},
          m.words(m.groups, m.n, [&](int64_t g, int64_t o) { return m.zero(o, g) - stored_less; }));
  made.tensors[".scales"] =
      floats(Integers::kScales, {m.groups, m.n}, Integers::turned(m.s, m.n, m.groups));
  if (with_order) {
    made.tensors[".g_idx"] =
        raw("I32", {m.k}, std::vector<int32_t>(m.group.begin(), m.group.end()));
  }
  return made;
}

/// compressed-tensors' pack-quantized.
inline Written write_packed(Integers m, bool with_order, Fault fault) {
  Written made{.tensors = {}, .values = m.values()};
  m.spoil(fault);
  const int64_t each = 32 / m.bits;
  made.tensors[".weight_packed"] =
      raw("I32", {m.n, (m.k + each - 1) / each},
          m.words(m.n, m.k, [&](int64_t o, int64_t i) { return m.value(o, i); }));
  made.tensors[".weight_scale"] = floats(Integers::kScales, {m.n, m.groups}, m.s);
  made.tensors[".weight_shape"] = raw("I64", {2}, std::vector<int64_t>{m.n, m.k});
  if (m.zeros) {
    const auto along = m.words(m.groups, m.n, [&](int64_t g, int64_t o) { return m.zero(o, g); });
    const int64_t rows = (m.n + each - 1) / each;
    made.tensors[".weight_zero_point"] =
        raw("I32", {rows, m.groups}, Integers::turned(along, m.groups, rows));
  }
  if (with_order) {
    made.tensors[".weight_g_idx"] =
        raw("I32", {m.k}, std::vector<int32_t>(m.group.begin(), m.group.end()));
  }
  return made;
}

/// compressed-tensors' int-quantized: bytes; q and z less 128.
inline Written write_bytes(Integers m, Fault fault) {
  Written made{.tensors = {}, .values = m.values()};
  m.spoil(fault);
  const auto lowered = [](const std::vector<int>& from) {
    std::vector<int8_t> to;
    for (int each : from) to.push_back(static_cast<int8_t>(each - 128));
    return to;
  };
  made.tensors[".weight"] = raw("I8", {m.n, m.k}, lowered(m.q));
  made.tensors[".weight_scale"] = floats(Integers::kScales, {m.n, m.groups}, m.s);
  if (m.zeros) made.tensors[".weight_zero_point"] = raw("I8", {m.n, m.groups}, lowered(m.z));
  return made;
}

/// bitsandbytes' LLM.int8: w = q SCB / 127.
inline Written write_scb(Integers m, Fault fault) {
  std::vector<float> scb;
  for (const float each : m.s) scb.push_back(each * 127);
  m.s = scb;
  Written made = write_bytes(m, Fault::kNone);
  made.values = m.values(1.0 / 127);
  m.spoil(fault);
  made.tensors.erase(".weight_scale");
  made.tensors[".SCB"] = floats(tensor::DType::kF32, {m.n}, m.s);
  made.tensors[".weight_format"] = raw("U8", {}, std::vector<uint8_t>{0});
  return made;
}

/// E4M3 without infinities: sign, 4 bits of exponent biased by 7, 3 of mantissa.
inline double e4m3(int bits) {
  const int exponent = bits >> 3 & 15;
  const int mantissa = bits & 7;
  if ((bits & 127) == 127) return HUGE_VAL;
  const double magnitude = exponent == 0 ? mantissa / 8.0 * std::pow(2.0, -6)
                                         : (1 + mantissa / 8.0) * std::pow(2.0, exponent - 7);
  return (bits & 128) != 0 ? -magnitude : magnitude;
}

/// The code of the value nearest to `wanted`; the codes' values are book[0], book[1], ...
template <typename Value>
uint8_t nearest_code(const std::vector<Value>& book, double wanted) {
  size_t best = 0;
  for (size_t code = 0; code < book.size(); ++code) {
    if (std::fabs(book[code] - wanted) < std::fabs(book[best] - wanted)) best = code;
  }
  return static_cast<uint8_t>(best);
}

template <typename Value>
std::vector<double> code_book(int codes, const Value& value) {
  std::vector<double> book;
  for (int code = 0; code < codes; ++code) book.push_back(value(code));
  return book;
}

/// E2M1: sign, 2 bits of exponent biased by 1, one of mantissa.
inline double e2m1(int bits) {
  const int exponent = bits >> 1 & 3;
  const double magnitude =
      exponent == 0 ? (bits & 1) / 2.0 : (1 + (bits & 1) / 2.0) * std::pow(2.0, exponent - 1);
  return (bits & 8) != 0 ? -magnitude : magnitude;
}

/// FP8 values with a scale for each block of `bn` x `bk`; 0: all.
inline Written write_fp8(const std::vector<float>& w, int64_t n, int64_t k, int64_t bn, int64_t bk,
                         tensor::DType dtype, const tensor::Shape& shape, const std::string& scale,
                         Fault fault) {
  const int64_t block_n = bn > 0 ? bn : n;
  const int64_t block_k = bk > 0 ? bk : k;
  const int64_t cols = (k + block_k - 1) / block_k;
  std::vector<float> scales(static_cast<size_t>((n + block_n - 1) / block_n * cols), 1e-3f);
  const auto of = [&](int64_t o, int64_t i) -> float& {
    return scales[static_cast<size_t>(o / block_n * cols + i / block_k)];
  };
  for (int64_t o = 0; o < n; ++o) {
    for (int64_t i = 0; i < k; ++i) {
      of(o, i) = std::max(of(o, i), std::fabs(w[static_cast<size_t>(o * k + i)]) / 448);
    }
  }
  for (float& each : scales) each = rounded(dtype, each);
  Written made;
  const std::vector<double> book = code_book(256, e4m3);
  std::vector<uint8_t> bytes;
  for (int64_t o = 0; o < n; ++o) {
    for (int64_t i = 0; i < k; ++i) {
      bytes.push_back(nearest_code(book, double{w[static_cast<size_t>(o * k + i)]} / of(o, i)));
      made.values.push_back(static_cast<float>(book[bytes.back()] * of(o, i)));
    }
  }
  if (fault == Fault::kScale && scales.size() == 1) scales[0] *= 1.1f;
  if (fault == Fault::kScale) std::rotate(scales.begin(), scales.begin() + 1, scales.end());
  tensor::Shape scale_shape = shape;
  if (shape.size() == 2) scale_shape = {static_cast<int64_t>(scales.size()) / cols, cols};
  made.tensors[".weight"] = raw("F8_E4M3", {n, k}, bytes);
  made.tensors[scale] = floats(dtype, scale_shape, scales);
  return made;
}

/// E2M1 codes, two to a byte, the first low, in groups along the inputs. `outer` 0: the groups'
/// scales are powers of two in a byte each (MXFP4); else E4M3, which `outer` multiplies (NVFP4).
inline Written write_e2m1(const std::vector<float>& w, int64_t n, int64_t k, int64_t size,
                          double outer, Fault fault) {
  Written made;
  const std::vector<double> book = code_book(16, e2m1);
  const std::vector<double> positive = code_book(127, e4m3);
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> scales;
  for (int64_t first = 0; first < n * k; first += size) {
    double most = 0;
    for (int64_t i = first; i < first + size; ++i) {
      most = std::max(most, std::fabs(double{w[static_cast<size_t>(i)]}));
    }
    double scale = 0;
    if (outer == 0) {
      const int exponent = static_cast<int>(std::ceil(std::log2(std::max(most, 1e-6) / 6)));
      scales.push_back(static_cast<uint8_t>(exponent + 127));
      scale = std::pow(2.0, exponent);
    } else {
      scales.push_back(nearest_code(positive, most / 6 / outer));
      scale = e4m3(scales.back()) * outer;
    }
    for (int64_t i = first; i < first + size; ++i) {
      const uint8_t code =
          nearest_code(book, scale == 0 ? 0 : double{w[static_cast<size_t>(i)]} / scale);
      made.values.push_back(static_cast<float>(book[code] * scale));
      if (i % 2 == 0) {
        bytes.push_back(code);
      } else {
        bytes.back() |= static_cast<uint8_t>(code << 4);
      }
    }
  }
  if (fault == Fault::kScale) std::rotate(scales.begin(), scales.begin() + 1, scales.end());
  if (fault == Fault::kNibbles) {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(byte << 4 | byte >> 4);
  }
  made.tensors["values"] = raw("U8", {n, k / 2}, bytes);
  made.tensors["scales"] = raw(outer == 0 ? "U8" : "F8_E4M3", {n, k / size}, scales);
  return made;
}

/// bitsandbytes' NF4 with its code book (Dettmers et al., 2023, appendix E): blocks of 64 along the
/// whole matrix, two to a byte, the first high. `nested`: the blocks' scales are codes of 8 bits
/// times one scale for 256 of them, plus their mean.
inline Written write_nf4(const std::vector<float>& w, int64_t n, int64_t k, bool nested,
                         Fault fault) {
  const std::vector<float> book = {-1.0f,        -0.69619280f, -0.52507305f, -0.39491749f,
                                   -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
                                   0.07958030f,  0.16093020f,  0.24611230f,  0.33791524f,
                                   0.44070983f,  0.56261700f,  0.72295684f,  1.0f};
  std::vector<float> scale_book;
  for (int i = 0; i < 256; ++i) scale_book.push_back(static_cast<float>(i - 127) / 128.0f);
  const int64_t blocks = (n * k + 63) / 64;
  std::vector<float> scales(static_cast<size_t>(blocks), 1e-3f);
  for (size_t i = 0; i < w.size(); ++i) scales[i / 64] = std::max(scales[i / 64], std::fabs(w[i]));
  std::vector<uint8_t> codes;
  std::vector<float> outer;
  const float mean = 0.125f;
  for (int64_t first = 0; nested && first < blocks; first += 256) {
    float most = 0;
    const int64_t end = std::min(blocks, first + 256);
    for (int64_t b = first; b < end; ++b) {
      most = std::max(most, std::fabs(scales[static_cast<size_t>(b)] - mean));
    }
    outer.push_back(most);
    for (int64_t b = first; b < end; ++b) {
      float& scale = scales[static_cast<size_t>(b)];
      codes.push_back(nearest_code(scale_book, double{scale - mean} / most));
      scale = scale_book[codes.back()] * most + mean;
    }
  }
  Written made;
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < w.size(); ++i) {
    const uint8_t code = nearest_code(book, double{w[i]} / scales[i / 64]);
    made.values.push_back(static_cast<float>(double{book[code]} * scales[i / 64]));
    if (i % 2 == 0) {
      bytes.push_back(static_cast<uint8_t>(code << 4));
    } else {
      bytes.back() |= code;
    }
  }
  if (fault == Fault::kNibbles) {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(byte << 4 | byte >> 4);
  }
  if (fault == Fault::kScale) {
    std::rotate(scales.begin(), scales.begin() + 1, scales.end());
    if (nested) std::rotate(codes.begin(), codes.begin() + 1, codes.end());
  }
  std::string state =
      "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", "
      "\"shape\": [" +
      std::to_string(n) + ", " + std::to_string(k) + "]";
  if (nested) {
    state += ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.125";
  }
  state += "}";
  const auto count = static_cast<int64_t>(bytes.size());
  made.tensors[".weight"] = raw("U8", {count, 1}, bytes);
  made.tensors[".weight.quant_map"] = floats(tensor::DType::kF32, {16}, book);
  made.tensors[".weight.quant_state.bitsandbytes__nf4"] = raw(
      "U8", {static_cast<int64_t>(state.size())}, std::vector<char>(state.begin(), state.end()));
  if (nested) {
    made.tensors[".weight.absmax"] = raw("U8", {blocks}, codes);
    made.tensors[".weight.nested_quant_map"] = floats(tensor::DType::kF32, {256}, scale_book);
    made.tensors[".weight.nested_absmax"] =
        floats(tensor::DType::kF32, {static_cast<int64_t>(outer.size())}, outer);
  } else {
    made.tensors[".weight.absmax"] = floats(tensor::DType::kF32, {blocks}, scales);
  }
  return made;
}

}  // namespace moesaic::model::testing
