#pragma once

// What the operator cases need: the operators under test, random inputs from a seed, packed weights
// and comparisons.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/host/host_ops.h"
#include "backend/raw_address.h"
#include "base/memory.h"

namespace moesaic::backend::testing {

using Floats = std::vector<float>;

/// Operators under test: "reference", or an instruction set of the cpu backend. All are listed,
/// also those that this machine lacks, so that a skipped test names what was not tested.
inline const std::vector<std::string>& subjects() {
  static const std::vector<std::string> names = {"reference",  "baseline", "avx2",
                                                 "avx512vnni", "avx512",   "amx"};
  return names;
}

inline bool machine_has(const std::string& subject) {
  const std::vector<std::string> isas = available_cpu_isas();
  return subject == "reference" || std::find(isas.begin(), isas.end(), subject) != isas.end();
}

/// A pool of that many threads; kept, since it takes longer to start than most cases run.
inline base::ThreadPool& pool_of(int threads) {
  static std::map<int, std::unique_ptr<base::ThreadPool>> kept;
  auto& pool = kept[threads];
  if (pool == nullptr) pool = std::make_unique<base::ThreadPool>(threads, /*pin=*/false);
  return *pool;
}

/// The subject's operators.
inline HostOps& ops_of(const std::string& subject, int threads = 2) {
  base::ThreadPool& pool = pool_of(threads);  // before `kept`, so that it outlives it
  static std::map<std::pair<std::string, int>, std::unique_ptr<HostOps>> kept;
  auto& ops = kept[{subject, threads}];
  if (ops == nullptr) {
    ops = subject == "reference" ? make_reference_ops() : make_cpu_ops(pool, subject);
  }
  return *ops;
}

inline HostOps& reference() { return ops_of("reference"); }

/// Standard normal times `scale`.
inline Floats random_floats(uint64_t seed, int64_t count, float scale = 1.0f) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  Floats values(static_cast<size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

inline float rounded(DType dtype, float value) {
  uint32_t storage = 0;
  tensor::store_float(dtype, &storage, 0, value);
  return tensor::load_float(dtype, &storage, 0);
}

inline Floats rounded(DType dtype, Floats values) {
  for (float& value : values) value = rounded(dtype, value);
  return values;
}

inline SourcePart part_of(const tensor::View& view) {
  return {.part = {.values = view}, .rows = view.shape[0]};
}
inline SourcePart part_of(const Floats& values, int64_t rows, int64_t cols) {
  return part_of({DType::kF32, {rows, cols}, reinterpret_cast<const std::byte*>(values.data())});
}

/// Bytes on the heap, aligned as packed weights are and of exactly the size asked for, so that
/// AddressSanitizer sees a kernel that reads past them.
class Bytes {
 public:
  explicit Bytes(size_t size)
      : size_(size),
        data_(static_cast<std::byte*>(::operator new(size, std::align_val_t{64})), Free{}) {
    // NaN in every float type: what nobody wrote must not be used.
    std::memset(data_.get(), 0xff, size);
  }
  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  size_t size_;
  std::unique_ptr<std::byte, Free> data_;
};

struct PackedMatrix {
  Bytes bytes;
  Matrix matrix;
};

inline PackedMatrix pack_matrix(HostOps& ops, const MatrixDesc& desc, const MatrixSource& source) {
  PackedMatrix packed{Bytes(ops.packed_bytes(desc)), {}};
  for (int64_t unit = 0; unit < ops.pack_units(desc); ++unit) {
    ops.pack(desc, source, unit, packed.bytes.data());
  }
  packed.matrix = {desc, RawAddress::of(packed.bytes.data())};
  return packed;
}

struct PackedExperts {
  Bytes bytes;
  Experts experts;
};

inline PackedExperts pack_experts(HostOps& ops, const ExpertsDesc& desc,
                                  const ExpertsSource& source) {
  PackedExperts packed{Bytes(ops.packed_bytes(desc)), {}};
  for (int64_t unit = 0; unit < ops.pack_units(desc); ++unit) {
    ops.pack(desc, source, unit, packed.bytes.data());
  }
  packed.experts = {desc, RawAddress::of(packed.bytes.data())};
  return packed;
}

/// Holds every difference to `tolerance` and their root mean square to an eighth of it, both as
/// shares of the root mean square of what is expected: the second is what a systematic error of the
/// size of single roundings breaks.
inline void expect_close(const Floats& expected, const Floats& actual, double tolerance,
                         const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size()) << what;
  if (expected.empty()) return;
  double squares = 1e-30;
  double errors = 0;
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(static_cast<double>(expected[i]) - actual[i]);
    if (!(difference <= worst)) worst = difference;  // a NaN stays
    errors += difference * difference;
    squares += static_cast<double>(expected[i]) * expected[i];
  }
  const double size = std::sqrt(squares / static_cast<double>(expected.size()));
  EXPECT_LE(worst / size, tolerance) << what << ", worst";
  EXPECT_LE(std::sqrt(errors / static_cast<double>(expected.size())) / size, tolerance / 8)
      << what << ", mean";
}

/// Bit for bit the same, so that -0 differs from 0 and a NaN equals itself.
inline void expect_same_bits(const float* expected, const float* actual, int64_t count,
                             const std::string& what) {
  if (count == 0) return;
  int64_t different = 0;
  int64_t first = -1;
  for (int64_t i = 0; i < count; ++i) {
    if (std::memcmp(expected + i, actual + i, sizeof(float)) == 0) continue;
    if (different++ == 0) first = i;
  }
  EXPECT_EQ(different, 0) << what << ": of " << count << " values, first at " << first << ": "
                          << expected[first < 0 ? 0 : first] << " and "
                          << actual[first < 0 ? 0 : first];
}

/// A test of one subject and one row of a table of cases, skipped with its reason where the machine
/// lacks the instruction set.
template <typename Case>
class OpTest : public ::testing::TestWithParam<std::tuple<std::string, Case>> {
 protected:
  void SetUp() override {
    if (!machine_has(subject())) {
      GTEST_SKIP() << "this machine does not have the instruction set " << subject();
    }
  }
  const std::string& subject() const { return std::get<0>(this->GetParam()); }
  const Case& row() const { return std::get<1>(this->GetParam()); }
  HostOps& ops(int threads = 2) const { return ops_of(subject(), threads); }
};

/// "avx2_gqa_4": the name of a parametrised test. A Case has a member `name`.
struct CaseName {
  template <typename Info>
  std::string operator()(const Info& info) const {
    return std::get<0>(info.param) + "_" + std::string(std::get<1>(info.param).name);
  }
};

inline constexpr DType kF32 = DType::kF32;
inline constexpr DType kBF16 = DType::kBF16;
inline constexpr DType kF16 = DType::kF16;

/// Sums in float against sums in double, for what is not rounded on the way.
inline constexpr double kExact = 2e-5;
/// Kernels may round the inputs of products with bf16 weights to bf16, which is off by at most 2^-9
/// for each: 0.1% of a sum's usual size, and more where a sum is far larger than most (experts).
inline constexpr double kRoundedInputs = 4e-2;

inline double product_tolerance(DType weights) {
  return weights == kBF16 ? kRoundedInputs : kExact;
}

}  // namespace moesaic::backend::testing
