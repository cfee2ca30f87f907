// Against plain loops in double, and bit for bit against the same row in other batches.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "backend/cuda/products/split.h"
#include "backend/cuda/products/testing.cuh"

namespace moesaic::backend::cuda {
namespace {

using testing::Device;
using testing::fill;
using testing::random_device;
using testing::random_routing;
using testing::reference_linear;
using testing::relative_error;
using bf16 = __nv_bfloat16;

/// Sums of k products of bf16 values in float32 accumulators, which the tensor cores round towards
/// zero: the error grows with the terms that share an accumulator.
double sum_tolerance(int64_t k) { return 1e-6 + 2.5e-9 * static_cast<double>(k); }
/// The same rounded to bf16.
constexpr double kBF16Tolerance = 3e-3;
/// Experts: where h or an expert's output is close to the middle of two bf16 values it may round
/// the other way than the reference's.
constexpr double kExpertsTolerance = 1e-3;

int64_t padded(int64_t k) { return (k + 7) / 8 * 8; }

struct Variant {
  const char* name;
  Path path;
  Tuning tuning;
};

/// Every kernel family; where a call cannot have the tile wished for it takes another.
const Variant kVariants[] = {
    {"hopper", Path::kHopper, {}},
    {"hopper_tile_1x64", Path::kHopper, {Kernel::kTile, 1, 64}},
    {"hopper_tile_2x64", Path::kHopper, {Kernel::kTile, 2, 64}},
    {"hopper_tile_2x128", Path::kHopper, {Kernel::kTile, 2, 128}},
    {"hopper_tile_2x256", Path::kHopper, {Kernel::kTile, 2, 256}},
    {"portable", Path::kPortable, {}},
    {"portable_tile", Path::kPortable, {Kernel::kTile, 0, 0}},
};

class ProductsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = testing::no_device();
    if (!reason.empty()) GTEST_SKIP() << reason;
    cudaDeviceProp properties{};
    MOESAIC_CUDA_REQUIRE(cudaGetDeviceProperties(&properties, 0));
    if (properties.major < 8) GTEST_SKIP() << "compute capability 8.0 is needed";
    hopper_ = properties.major == 9 && properties.minor == 0;
  }
  bool has(const Variant& v) const { return v.path != Path::kHopper || hopper_; }
  bool can(Path path, Format format) const {
    return path == Path::kHopper ? hopper_ : format != Format::kFP8Rounded;
  }
  bool hopper_ = false;
};

void finish() { MOESAIC_CUDA_REQUIRE(cudaDeviceSynchronize()); }

template <class T>
Source source_of(const T* values, int64_t rows, int64_t k) {
  Source s;
  s.values = values;
  s.type = std::is_same_v<T, float>    ? SourceType::kF32
           : std::is_same_v<T, __half> ? SourceType::kF16
           : std::is_same_v<T, bf16>   ? SourceType::kBF16
                                       : SourceType::kE4M3;
  s.rows = rows;
  s.stride = k;
  return s;
}

struct PackedLinear {
  LinearShape shape;
  Device<std::byte> bytes;
  Linear view() const { return {shape, bytes.get()}; }
};

template <class T>
PackedLinear pack_linear(const T* w, const LinearShape& shape, Scales scales = Scales::kNone,
                         const float* scale_data = nullptr) {
  PackedLinear p{shape, Device<std::byte>(packed_bytes(shape))};
  p.bytes.poison();
  Source s = source_of(w, shape.n, shape.k);
  s.scales = scales;
  s.scale_data = scale_data;
  pack(shape, 0, s, p.bytes.get(), nullptr);
  finish();
  return p;
}

// ---------------------------------------------------------------------------------------------
// Linear

struct LinearCase {
  int64_t n, k, rows;
};

TEST_F(ProductsTest, LinearAgainstDouble) {
  const LinearCase cases[] = {
      {1, 1, 1},        {3, 5, 2},        {16, 64, 8},      {64, 64, 9},
      {72, 200, 7},     {130, 1030, 65},  {100, 520, 64},   {200, 72, 1000},
      {640, 2048, 33},  {4096, 4096, 1},  {2048, 4096, 8},  {257, 3000, 300},
      {1000, 70000, 3}, {20000, 4096, 5}, {520, 17000, 70}, {5120, 2048, 4096},
  };
  for (const LinearCase& c : cases) {
    const auto w = random_device<bf16>(c.n * c.k, 1, 0.05f);
    const int64_t stride = padded(c.k) + 8;
    auto x = random_device<bf16>(c.rows * stride, 2, 1.0f);
    const auto bias = random_device<float>(c.n, 3, 1.0f);
    const PackedLinear packed = pack_linear(w.get(), {c.n, c.k});
    const auto expected =
        reference_linear(w.get(), c.n, c.k, x.get(), stride, nullptr, c.rows, bias.get()).host();
    for (const Variant& v : kVariants) {
      if (!has(v)) continue;
      SCOPED_TRACE(std::string(v.name) + " n " + std::to_string(c.n) + " k " + std::to_string(c.k) +
                   " rows " + std::to_string(c.rows));
      Products products(v.path);
      products.tune(v.tuning);
      const Rows rows{x.get(), c.rows, stride, nullptr, nullptr};
      Device<float> y(c.rows * c.n);
      y.poison();
      products.linear(packed.view(), rows, bias.get(), {y.get(), c.n, Store::kF32}, nullptr,
                      nullptr);
      finish();
      EXPECT_LT(relative_error(y.host(), expected), sum_tolerance(c.k));
      // Adding to what is there.
      products.linear(packed.view(), rows, bias.get(), {y.get(), c.n, Store::kAddF32}, nullptr,
                      nullptr);
      finish();
      auto twice = expected;
      for (double& e : twice) e *= 2;
      EXPECT_LT(relative_error(y.host(), twice), sum_tolerance(c.k));
      Device<bf16> y16(c.rows * c.n);
      y16.poison();
      products.linear(packed.view(), rows, bias.get(), {y16.get(), c.n, Store::kBF16}, nullptr,
                      nullptr);
      finish();
      std::vector<float> y32;
      for (bf16 value : y16.host()) y32.push_back(__bfloat162float(value));
      EXPECT_LT(relative_error(y32, expected), kBF16Tolerance);
    }
  }
}

TEST_F(ProductsTest, GathersRowsAndCountsOnTheDevice) {
  const int64_t n = 200;
  const int64_t k = 264;
  const auto w = random_device<bf16>(n * k, 1, 0.05f);
  const PackedLinear packed = pack_linear(w.get(), {n, k});
  auto x = random_device<bf16>(500 * k, 2, 1.0f);
  for (const int64_t rows : {1, 6, 40, 300}) {
    std::vector<int32_t> index;
    for (int64_t i = 0; i < rows; ++i) index.push_back(static_cast<int32_t>(i * 7919 % 500));
    const Device<int32_t> device_index(index);
    const int32_t used = static_cast<int32_t>(rows - rows / 3);
    const Device<int32_t> count(std::vector<int32_t>{used});
    const auto expected = reference_linear(w.get(), n, k, x.get(), k, device_index.get(), used,
                                           static_cast<const float*>(nullptr))
                              .host();
    for (const Variant& v : kVariants) {
      if (!has(v)) continue;
      SCOPED_TRACE(std::string(v.name) + " rows " + std::to_string(rows));
      Products products(v.path);
      products.tune(v.tuning);
      Device<float> y(rows * n);
      MOESAIC_CUDA_REQUIRE(cudaMemset(y.get(), 0, y.size() * 4));
      products.linear(packed.view(), {x.get(), rows, k, count.get(), device_index.get()}, nullptr,
                      {y.get(), n, Store::kF32}, nullptr, nullptr);
      finish();
      const auto out = y.host();
      EXPECT_LT(relative_error(out, expected), sum_tolerance(k));
      for (size_t i = static_cast<size_t>(used * n); i < out.size(); ++i) {
        ASSERT_EQ(out[i], 0.0f) << "row beyond the count was written";
      }
    }
  }
}

TEST_F(ProductsTest, PartsStackOverOutputs) {
  const int64_t k = 96;
  const int64_t sizes[] = {80, 24, 40};
  const LinearShape shape{144, k};
  const auto w = random_device<float>(shape.n * k, 1, 0.05f);
  const PackedLinear whole = pack_linear(w.get(), shape);
  Device<std::byte> parts(packed_bytes(shape));
  parts.poison();
  int64_t first = 0;
  for (int64_t size : sizes) {
    pack(shape, first, source_of(w.get() + first * k, size, k), parts.get(), nullptr);
    first += size;
  }
  finish();
  EXPECT_EQ(std::memcmp(whole.bytes.host().data(), parts.host().data(),
                        static_cast<size_t>((shape.n + 63) / 64 * 2 * 8192)),
            0);
}

// ---------------------------------------------------------------------------------------------
// Bits do not depend on the batch

/// Rows of the batch that are looked at: first, second, middle, last.
std::vector<int64_t> places(int64_t rows) {
  std::vector<int64_t> p{0, 1, rows / 2, rows - 1};
  std::erase_if(p, [&](int64_t r) { return r < 0 || r >= rows; });
  return p;
}
const int64_t kBatches[] = {1, 2, 3, 8, 9, 17, 64, 65, 128, 200, 257, 512, 1024, 4096};

TEST_F(ProductsTest, LinearBitsDoNotDependOnTheBatch) {
  const LinearShape shapes[] = {{1536, 4096},
                                {400, 1000},
                                {640, 17000},
                                {400, 1000, Format::kFP8},
                                {640, 17000, Format::kFP8},
                                {400, 1000, Format::kFP8Rounded},
                                {1536, 4096, Format::kFP8Rounded}};
  for (const LinearShape& shape : shapes) {
    const auto w = random_device<bf16>(shape.n * shape.k, 1, 0.05f);
    const PackedLinear packed = pack_linear(w.get(), shape);
    const int64_t stride = padded(shape.k);
    auto x = random_device<bf16>(4096 * stride, 2, 1.0f);
    const auto row = random_device<bf16>(stride, 99, 1.0f);
    for (const Path path : {Path::kHopper, Path::kPortable}) {
      if (!can(path, shape.format)) continue;
      std::vector<float> alone;
      for (const Variant& v : kVariants) {
        if (v.path != path) continue;
        Products products(v.path);
        products.tune(v.tuning);
        Device<std::byte> scratch(products.linear_scratch_bytes(shape, 4096));
        for (const int64_t rows : kBatches) {
          if (rows > 1024 && v.tuning.kernel != Kernel::kAuto) continue;
          for (const int64_t place : places(rows)) {
            SCOPED_TRACE(std::string(v.name) + " k " + std::to_string(shape.k) + " rows " +
                         std::to_string(rows) + " place " + std::to_string(place));
            fill(x.get(), rows * stride, 1000 + rows, 1.0f);
            MOESAIC_CUDA_REQUIRE(cudaMemcpyAsync(x.get() + place * stride, row.get(), stride * 2,
                                                 cudaMemcpyDeviceToDevice));
            Device<float> y(rows * shape.n);
            products.linear(packed.view(), {x.get(), rows, stride, nullptr, nullptr}, nullptr,
                            {y.get(), shape.n, Store::kF32}, scratch.get(), nullptr);
            std::vector<float> out(shape.n);
            MOESAIC_CUDA_REQUIRE(cudaMemcpy(out.data(), y.get() + place * shape.n, shape.n * 4,
                                            cudaMemcpyDeviceToHost));
            if (alone.empty()) alone = out;
            ASSERT_EQ(std::memcmp(out.data(), alone.data(), out.size() * 4), 0);
          }
        }
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Experts

struct Model {
  ExpertsShape shape;
  Device<bf16> gate, up, down;
  Device<std::byte> packed;

  explicit Model(const ExpertsShape& s)
      : shape(s),
        gate(random_device<bf16>(s.experts * s.width * s.hidden, 11, 0.08f)),
        up(random_device<bf16>(s.experts * s.width * s.hidden, 12, 0.08f)),
        down(random_device<bf16>(s.experts * s.width * s.hidden, 13, 0.08f)),
        packed(packed_bytes(s)) {
    packed.poison();
    for (int64_t e = 0; e < s.experts; ++e) {
      const int64_t at = e * s.width * s.hidden;
      pack(s, e, source_of(gate.get() + at, s.width, s.hidden),
           source_of(up.get() + at, s.width, s.hidden),
           source_of(down.get() + at, s.hidden, s.width), packed.get(), nullptr);
    }
    finish();
  }
  Experts view() const { return {shape, packed.get()}; }

  std::vector<double> expected(const bf16* x, int64_t stride, const int32_t* ids,
                               const float* weights, int64_t top_k, int64_t rows) const {
    Device<double> h(rows * top_k * shape.width);
    Device<double> y(rows * shape.hidden);
    MOESAIC_CUDA_REQUIRE(cudaMemset(h.get(), 0, h.size() * 8));
    testing::reference_gate_up_kernel<<<static_cast<unsigned>((h.size() + 255) / 256), 256>>>(
        gate.get(), up.get(), shape.hidden, shape.width, shape.experts, x, stride, ids, top_k,
        rows * top_k, h.get());
    testing::reference_down_kernel<<<static_cast<unsigned>((y.size() + 255) / 256), 256>>>(
        down.get(), shape.hidden, shape.width, shape.experts, ids, weights, top_k, rows, h.get(),
        y.get());
    MOESAIC_CUDA_REQUIRE(cudaGetLastError());
    return y.host();
  }
};

/// One experts() call into fresh memory; returns y.
std::vector<float> run_experts(const Products& products, const Model& model, const bf16* x,
                               int64_t stride, int64_t rows, const Routing& routing, bool add) {
  Device<std::byte> scratch(products.experts_scratch_bytes(model.shape, routing.top_k, rows));
  scratch.poison();
  Device<float> y(rows * model.shape.hidden);
  if (add) {
    fill(y.get(), y.size(), 77, 1.0f);
  } else {
    y.poison();
  }
  products.experts(model.view(), {x, rows, stride, nullptr, nullptr}, routing,
                   {y.get(), model.shape.hidden, add ? Store::kAddF32 : Store::kF32}, scratch.get(),
                   nullptr);
  finish();
  return y.host();
}

struct ExpertsCase {
  ExpertsShape shape;
  int64_t top_k;
};
const ExpertsCase kExpertsCases[] = {
    {{8, 256, 512}, 2}, {{128, 128, 96}, 8}, {{60, 200, 104}, 4},
    {{5, 72, 100}, 3},  {{1, 136, 1000}, 1}, {{16, 64, 1800}, 1},
};

TEST_F(ProductsTest, ExpertsAgainstDouble) {
  for (const ExpertsCase& c : kExpertsCases) {
    const Model model(c.shape);
    const int64_t stride = padded(c.shape.hidden);
    for (const int64_t rows : {1, 3, 8, 9, 50, 200, 1100}) {
      const auto x = random_device<bf16>(rows * stride, 5, 1.0f);
      auto host = random_routing(rows, c.top_k, c.shape.experts, 17 + rows);
      // Some pairs belong to another rank.
      for (size_t i = 0; i < host.experts.size(); i += 7) host.experts[i] = i % 2 ? -1 : 100000;
      const Device<int32_t> ids(host.experts);
      const Device<float> weights(host.weights);
      const auto expected =
          model.expected(x.get(), stride, ids.get(), weights.get(), c.top_k, rows);
      const auto base = random_device<float>(rows * c.shape.hidden, 77, 1.0f).host();
      auto added = expected;
      for (size_t i = 0; i < added.size(); ++i) added[i] += base[i];
      for (const Variant& v : kVariants) {
        if (!has(v)) continue;
        SCOPED_TRACE(std::string(v.name) + " experts " + std::to_string(c.shape.experts) +
                     " rows " + std::to_string(rows));
        Products products(v.path);
        products.tune(v.tuning);
        const Routing routing{ids.get(), weights.get(), c.top_k};
        EXPECT_LT(
            relative_error(run_experts(products, model, x.get(), stride, rows, routing, false),
                           expected),
            kExpertsTolerance);
        EXPECT_LT(relative_error(run_experts(products, model, x.get(), stride, rows, routing, true),
                                 added),
                  kExpertsTolerance);
      }
    }
  }
}

TEST_F(ProductsTest, OneExpertWithoutRouting) {
  const ExpertsShape shapes[] = {{1, 256, 512}, {1, 136, 1000}, {1, 64, 17000}};
  for (const ExpertsShape& shape : shapes) {
    const Model model(shape);
    const int64_t stride = padded(shape.hidden);
    for (const int64_t rows : {1, 4, 8, 30, 400}) {
      const auto x = random_device<bf16>(rows * stride, 5, 1.0f);
      const auto gates = random_device<float>(rows, 6, 1.0f);
      for (const float* weights : {static_cast<const float*>(nullptr), gates.get()}) {
        const auto expected = model.expected(x.get(), stride, nullptr, weights, 1, rows);
        for (const Variant& v : kVariants) {
          if (!has(v)) continue;
          SCOPED_TRACE(std::string(v.name) + " rows " + std::to_string(rows));
          Products products(v.path);
          products.tune(v.tuning);
          EXPECT_LT(relative_error(run_experts(products, model, x.get(), stride, rows,
                                               {nullptr, weights, 1}, false),
                                   expected),
                    kExpertsTolerance);
        }
      }
    }
  }
}

TEST_F(ProductsTest, AllRowsToOneExpertAndManyRows) {
  const Model model({32, 128, 192});
  const int64_t rows = 4096;
  const auto x = random_device<bf16>(rows * 128, 5, 1.0f);
  std::vector<int32_t> one;
  for (int64_t i = 0; i < rows; ++i) one.insert(one.end(), {31, 4});
  const auto spread = random_routing(rows, 2, 32, 3);
  for (const auto& experts : {one, spread.experts}) {
    const Device<int32_t> ids(experts);
    const Device<float> weights(spread.weights);
    const auto expected = model.expected(x.get(), 128, ids.get(), weights.get(), 2, rows);
    for (const Variant& v : kVariants) {
      if (!has(v)) continue;
      SCOPED_TRACE(v.name);
      Products products(v.path);
      products.tune(v.tuning);
      EXPECT_LT(relative_error(run_experts(products, model, x.get(), 128, rows,
                                           {ids.get(), weights.get(), 2}, false),
                               expected),
                kExpertsTolerance);
    }
  }
}

TEST_F(ProductsTest, ExpertsBitsDoNotDependOnTheBatch) {
  const ExpertsCase cases[] = {{{8, 256, 1400}, 2},
                               {{128, 128, 768}, 8},
                               {{1, 256, 1400}, 1},
                               {{8, 256, 1400, Format::kFP8}, 2},
                               {{1, 256, 1400, Format::kFP8}, 1},
                               {{8, 256, 1400, Format::kFP8Rounded}, 2},
                               {{1, 256, 1400, Format::kFP8Rounded}, 1}};
  for (const ExpertsCase& c : cases) {
    const Model model(c.shape);
    const int64_t hidden = c.shape.hidden;
    const auto row = random_device<bf16>(hidden, 99, 1.0f);
    const auto mine = random_routing(1, c.top_k, c.shape.experts, 5);
    for (const Path path : {Path::kHopper, Path::kPortable}) {
      if (!can(path, c.shape.format)) continue;
      std::vector<float> alone;
      for (const Variant& v : kVariants) {
        if (v.path != path) continue;
        Products products(v.path);
        products.tune(v.tuning);
        for (const int64_t rows : kBatches) {
          if (rows > 1024 && v.tuning.kernel != Kernel::kAuto) continue;
          for (const int64_t place : places(rows)) {
            SCOPED_TRACE(std::string(v.name) + " experts " + std::to_string(c.shape.experts) +
                         " rows " + std::to_string(rows) + " place " + std::to_string(place));
            auto x = random_device<bf16>(rows * hidden, 1000 + rows, 1.0f);
            MOESAIC_CUDA_REQUIRE(cudaMemcpy(x.get() + place * hidden, row.get(), hidden * 2,
                                            cudaMemcpyDeviceToDevice));
            auto host = random_routing(rows, c.top_k, c.shape.experts, 31 + rows);
            std::copy(mine.experts.begin(), mine.experts.end(),
                      host.experts.begin() + place * c.top_k);
            std::copy(mine.weights.begin(), mine.weights.end(),
                      host.weights.begin() + place * c.top_k);
            const Device<int32_t> ids(host.experts);
            const Device<float> weights(host.weights);
            const auto y = run_experts(products, model, x.get(), hidden, rows,
                                       {ids.get(), weights.get(), c.top_k}, true);
            // What it is added to differs by place, so look at a store as well.
            const auto out = run_experts(products, model, x.get(), hidden, rows,
                                         {ids.get(), weights.get(), c.top_k}, false);
            ASSERT_EQ(y.size(), out.size());
            const std::vector<float> one(out.begin() + place * hidden,
                                         out.begin() + (place + 1) * hidden);
            if (alone.empty()) alone = one;
            ASSERT_EQ(std::memcmp(one.data(), alone.data(), one.size() * 4), 0);
            const auto base = random_device<float>(rows * hidden, 77, 1.0f).host();
            for (int64_t i = 0; i < hidden; ++i) {
              ASSERT_EQ(y[place * hidden + i], base[place * hidden + i] + one[i]);
            }
          }
        }
      }
    }
  }
}

// Large experts take tiles for gate and up and a stream for down at few rows.
TEST_F(ProductsTest, LargeExpertsAtFewRows) {
  const Model model({2, 4096, 8704});
  const int64_t hidden = model.shape.hidden;
  const auto x = random_device<bf16>(64 * hidden, 5, 0.2f);
  const auto host = random_routing(64, 2, 2, 3);
  const Device<int32_t> ids(host.experts);
  const Device<float> weights(host.weights);
  const Routing routing{ids.get(), weights.get(), 2};
  for (const Path path : {Path::kHopper, Path::kPortable}) {
    if (!can(path, Format::kBF16)) continue;
    const Products products(path);
    const auto many = run_experts(products, model, x.get(), hidden, 64, routing, false);
    for (const int64_t rows : {1, 3, 8}) {
      SCOPED_TRACE(rows);
      const auto few = run_experts(products, model, x.get(), hidden, rows, routing, false);
      EXPECT_LT(
          relative_error(few, model.expected(x.get(), hidden, ids.get(), weights.get(), 2, rows)),
          kExpertsTolerance);
      EXPECT_EQ(std::memcmp(few.data(), many.data(), few.size() * 4), 0);
    }
  }
}

// ---------------------------------------------------------------------------------------------
// FP8 weights

TEST_F(ProductsTest, FP8WeightsMatchTheirDequantisedValues) {
  const LinearCase cases[] = {{200, 300, 3}, {130, 1030, 70}, {640, 2048, 8}, {256, 17000, 20}};
  for (const LinearCase& c : cases) {
    const auto w = random_device<__nv_fp8_e4m3>(c.n * c.k, 1, 240.0f);
    const auto host = w.host();
    const int64_t stride = padded(c.k);
    auto x = random_device<bf16>(c.rows * stride, 2, 1.0f);
    for (const Scales kind : {Scales::kTensor, Scales::kOutput, Scales::kBlock128}) {
      const int64_t blocks = (c.k + 127) / 128;
      std::vector<float> scales;
      const int64_t count = kind == Scales::kTensor   ? 1
                            : kind == Scales::kOutput ? c.n
                                                      : (c.n + 127) / 128 * blocks;
      for (int64_t i = 0; i < count; ++i) scales.push_back(0.0001f * (1 + i % 13));
      std::vector<float> wide(host.size());
      for (int64_t i = 0; i < c.n * c.k; ++i) {
        const int64_t row = i / c.k;
        const int64_t at = kind == Scales::kTensor   ? 0
                           : kind == Scales::kOutput ? row
                                                     : row / 128 * blocks + i % c.k / 128;
        wide[i] = static_cast<float>(host[i]) * scales[at];
      }
      const Device<float> device_scales(scales);
      const Device<float> values(wide);
      const auto expected = reference_linear(values.get(), c.n, c.k, x.get(), stride, nullptr,
                                             c.rows, static_cast<const float*>(nullptr))
                                .host();
      const PackedLinear packed =
          pack_linear(w.get(), {c.n, c.k, Format::kFP8, kind}, kind, device_scales.get());
      for (const Variant& v : kVariants) {
        if (!has(v)) continue;
        SCOPED_TRACE(std::string(v.name) + " n " + std::to_string(c.n) + " rows " +
                     std::to_string(c.rows) + " scales " + std::to_string(static_cast<int>(kind)));
        Products products(v.path);
        products.tune(v.tuning);
        Device<float> y(c.rows * c.n);
        y.poison();
        products.linear(packed.view(), {x.get(), c.rows, stride, nullptr, nullptr}, nullptr,
                        {y.get(), c.n, Store::kF32}, nullptr, nullptr);
        finish();
        EXPECT_LT(relative_error(y.host(), expected), sum_tolerance(c.k));
      }
    }
  }
}

TEST_F(ProductsTest, RoundingActivationsLosesWhatThreeBitsLose) {
  if (!hopper_) GTEST_SKIP() << "rounded activations need compute capability 9.0";
  const LinearCase cases[] = {{200, 300, 3}, {130, 1030, 70}, {640, 2048, 8}, {256, 17000, 300}};
  for (const LinearCase& c : cases) {
    const auto w = random_device<__nv_fp8_e4m3>(c.n * c.k, 1, 240.0f);
    const auto x = random_device<bf16>(c.rows * padded(c.k), 2, 1.0f);
    const auto host = w.host();
    for (const Scales kind : {Scales::kNone, Scales::kBlock128}) {
      const int64_t blocks = (c.k + 127) / 128;
      std::vector<float> scales;
      for (int64_t i = 0; i < (c.n + 127) / 128 * blocks; ++i) scales.push_back(0.5f + i % 7);
      std::vector<float> wide(host.size());
      for (int64_t i = 0; i < c.n * c.k; ++i) {
        const float scale =
            kind == Scales::kNone ? 1.0f : scales[i / c.k / 128 * blocks + i % c.k / 128];
        wide[i] = static_cast<float>(host[i]) * scale;
      }
      const Device<float> values(wide);
      const Device<float> device_scales(scales);
      const auto expected = reference_linear(values.get(), c.n, c.k, x.get(), padded(c.k), nullptr,
                                             c.rows, static_cast<const float*>(nullptr))
                                .host();
      const PackedLinear packed =
          pack_linear(w.get(), {c.n, c.k, Format::kFP8Rounded, kind}, kind,
                      kind == Scales::kNone ? nullptr : device_scales.get());
      for (const Variant& v : kVariants) {
        if (v.path != Path::kHopper) continue;
        SCOPED_TRACE(std::string(v.name) + " n " + std::to_string(c.n) + " rows " +
                     std::to_string(c.rows) + " scales " + std::to_string(static_cast<int>(kind)));
        Products products(v.path);
        products.tune(v.tuning);
        Device<std::byte> scratch(products.linear_scratch_bytes(packed.shape, c.rows));
        scratch.poison();
        Device<float> y(c.rows * c.n);
        y.poison();
        products.linear(packed.view(), {x.get(), c.rows, padded(c.k), nullptr, nullptr}, nullptr,
                        {y.get(), c.n, Store::kF32}, scratch.get(), nullptr);
        finish();
        const double error = relative_error(y.host(), expected);
        EXPECT_LT(error, 0.04);
        EXPECT_GT(error, 0.01);  // it did round
      }
    }
  }
}

TEST_F(ProductsTest, QuantisingToFP8LosesWhatThreeBitsLose) {
  const int64_t n = 200;
  const int64_t k = 1000;
  const int64_t rows = 12;
  auto x = random_device<bf16>(rows * k, 2, 1.0f);
  auto check = [&](const auto& w) {
    const auto expected = reference_linear(w.get(), n, k, x.get(), k, nullptr, rows,
                                           static_cast<const float*>(nullptr))
                              .host();
    const PackedLinear packed = pack_linear(w.get(), {n, k, Format::kFP8});
    Products products(Path::kPortable);
    Device<float> y(rows * n);
    products.linear(packed.view(), {x.get(), rows, k, nullptr, nullptr}, nullptr,
                    {y.get(), n, Store::kF32}, nullptr, nullptr);
    finish();
    const double error = relative_error(y.host(), expected);
    EXPECT_LT(error, 0.04);  // a relative 2^-4 at most, uniform: 0.026 in the mean
    EXPECT_GT(error, 0.01);  // and it did round
  };
  check(random_device<bf16>(n * k, 1, 0.05f));
  check(random_device<float>(n * k, 1, 0.05f));
  check(random_device<__half>(n * k, 1, 0.05f));
}

// ---------------------------------------------------------------------------------------------
// Float32 weights

/// A router's matrix in three parts gives what float32 weights give.
TEST_F(ProductsTest, SplitWeightsAreThoseOfFloat32) {
  struct Case {
    int64_t n, k;
  };
  for (const Case& c :
       {Case{8, 4096}, Case{128, 2048}, Case{60, 2048}, Case{512, 704}, Case{1, 64}}) {
    const auto w = random_device<float>(c.n * c.k, 1, 0.05f);
    constexpr int64_t kMost = 1000;
    const auto x = random_device<bf16>(kMost * c.k, 2, 1.0f);
    const auto expected = reference_linear(w.get(), c.n, c.k, x.get(), c.k, nullptr, kMost,
                                           static_cast<const float*>(nullptr))
                              .host();
    std::vector<tensor::BF16> split(static_cast<size_t>(kSplitParts * c.n * c.k));
    const auto wide = w.host();
    for (size_t i = 0; i < wide.size(); ++i) {
      const auto parts = split_f32(wide[i]);
      for (size_t part = 0; part < kSplitParts; ++part) split[part * wide.size() + i] = parts[part];
    }
    const Device<tensor::BF16> source(split);
    const LinearShape shape{kSplitParts * c.n, c.k};
    Device<std::byte> packed(packed_bytes(shape));
    pack(shape, 0, {.values = source.get(), .rows = shape.n, .stride = c.k}, packed.get(), nullptr);
    const Products products;
    std::vector<float> all;
    for (const int64_t rows : {kMost, int64_t{65}, int64_t{7}, int64_t{1}}) {
      SCOPED_TRACE("n " + std::to_string(c.n) + " rows " + std::to_string(rows));
      Device<float> y(rows * shape.n);
      y.poison();
      products.linear({shape, packed.get()}, {x.get(), rows, c.k, nullptr, nullptr}, nullptr,
                      {y.get(), shape.n, Store::kF32}, nullptr, nullptr);
      finish();
      const auto parts = y.host();
      std::vector<float> out;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < c.n; ++i) {
          const float* at = parts.data() + row * shape.n + i;
          out.push_back(at[2 * c.n] + at[c.n] + at[0]);
        }
      }
      const std::vector<double> part(expected.begin(), expected.begin() + rows * c.n);
      EXPECT_LT(relative_error(out, part), 2e-6);
      if (all.empty()) all = out;
      EXPECT_EQ(std::memcmp(out.data(), all.data(), out.size() * 4), 0);
    }
  }
}

// ---------------------------------------------------------------------------------------------

TEST_F(ProductsTest, OneGraphServesSeveralCounts) {
  const Model model({8, 128, 256});
  const int64_t most = 100;
  const auto x = random_device<bf16>(most * 128, 5, 1.0f);
  const auto host = random_routing(most, 2, 8, 3);
  const Device<int32_t> ids(host.experts);
  const Device<float> weights(host.weights);
  Device<int32_t> count(1);
  Products products;
  Device<std::byte> scratch(products.experts_scratch_bytes(model.shape, 2, most));
  Device<float> y(most * 128);
  cudaStream_t stream;
  MOESAIC_CUDA_REQUIRE(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  MOESAIC_CUDA_REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < 3; ++i) {
    products.experts(model.view(), {x.get(), most, 128, count.get(), nullptr},
                     {ids.get(), weights.get(), 2}, {y.get(), 128, Store::kF32}, scratch.get(),
                     stream);
  }
  MOESAIC_CUDA_REQUIRE(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t exec;
  MOESAIC_CUDA_REQUIRE(cudaGraphInstantiate(&exec, graph, 0));
  for (const int32_t rows : {100, 1, 37, 64}) {
    y.poison();
    MOESAIC_CUDA_REQUIRE(cudaMemcpy(count.get(), &rows, 4, cudaMemcpyHostToDevice));
    MOESAIC_CUDA_REQUIRE(cudaGraphLaunch(exec, stream));
    MOESAIC_CUDA_REQUIRE(cudaStreamSynchronize(stream));
    auto out = y.host();
    const auto expected = model.expected(x.get(), 128, ids.get(), weights.get(), 2, rows);
    for (size_t i = static_cast<size_t>(rows) * 128; i < out.size(); ++i) {
      ASSERT_TRUE(std::isnan(out[i])) << "row beyond the count was written";
    }
    out.resize(expected.size());
    EXPECT_LT(relative_error(out, expected), kExpertsTolerance) << rows << " rows";
  }
  MOESAIC_CUDA_REQUIRE(cudaGraphExecDestroy(exec));
  MOESAIC_CUDA_REQUIRE(cudaGraphDestroy(graph));
  MOESAIC_CUDA_REQUIRE(cudaStreamDestroy(stream));
}

TEST_F(ProductsTest, RefusesWhatItCannotDo) {
  Products products(Path::kPortable);
  const Linear w{{16, 16}, nullptr};
  EXPECT_THROW(
      products.linear(w, {nullptr, 1, 17, nullptr, nullptr}, nullptr, {}, nullptr, nullptr),
      CudaError);
  const Experts e{{600, 64, 64}, nullptr};
  EXPECT_THROW(products.gate_up(e, {nullptr, 1, 64, nullptr, nullptr}, {}, nullptr, nullptr),
               CudaError);
}

}  // namespace
}  // namespace moesaic::backend::cuda
