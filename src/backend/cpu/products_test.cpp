#include "backend/cpu/products.h"
#include "backend/raw_address.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/layout.h"

// Every instruction set of this machine, and AMX with emulated tiles where AVX-512 is there to
// run the rest of it, against loops in double precision.

namespace moesaic::backend::cpu {

extern const KernelTable kKernelsAmxEmulated;

namespace {

struct Target {
  std::string name;
  const KernelTable* kernels;
};

std::vector<Target> targets() {
  std::vector<Target> list;
  for (Isa isa : available_isas()) {
    list.push_back({std::string(to_string(isa)), &kernel_table(isa)});
    if (isa == Isa::kAvx512) list.push_back({"amx, emulated", &kKernelsAmxEmulated});
  }
  return list;
}

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

/// What a weight or a rounded activation becomes in `dtype`.
float rounded(DType dtype, float value) {
  uint32_t bits = 0;
  tensor::store_float(dtype, &bits, 0, value);
  return tensor::load_float(dtype, &bits, 0);
}

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

SourcePart part(const tensor::View& view) {
  return {.part = {.values = view}, .rows = view.shape[0]};
}
SourcePart part(const std::vector<float>& values, int64_t n, int64_t k) {
  return part({DType::kF32, {n, k}, reinterpret_cast<const std::byte*>(values.data())});
}

/// Packed weights in a region of their own.
struct PackedMatrix {
  base::Region region;
  Matrix matrix;

  PackedMatrix(const KernelTable& kernels, const MatrixDesc& desc, const MatrixSource& source)
      : region(base::MemoryTag::kRuntime, static_cast<size_t>(matrix_shape(desc).bytes())),
        matrix{desc, RawAddress::of(region.data())} {
    for (int64_t unit = 0; unit < matrix_shape(desc).panels; ++unit) {
      pack_matrix(kernels, desc, source, unit, region.data());
    }
  }
};

struct PackedExperts {
  base::Region region;
  Experts experts;

  PackedExperts(const KernelTable& kernels, const ExpertsDesc& desc, const ExpertsSource& source)
      : region(base::MemoryTag::kRuntime,
               static_cast<size_t>(desc.experts * ExpertShape(desc).bytes())),
        experts{desc, RawAddress::of(region.data())} {
    for (int64_t unit = 0; unit < desc.experts * ExpertShape(desc).units(); ++unit) {
      pack_experts(kernels, desc, source, unit, region.data());
    }
  }
};

double dot(const float* a, const float* b, int64_t k, double& magnitude) {
  double sum = 0;
  magnitude = 0;
  for (int64_t i = 0; i < k; ++i) {
    const double product = static_cast<double>(a[i]) * b[i];
    sum += product;
    magnitude += std::abs(product);
  }
  return sum;
}

bool same_bits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}

struct Shape {
  int64_t n, k, rows;
};
constexpr Shape kShapes[] = {{1, 1, 1},      {3, 72, 2},   {16, 32, 5},   {60, 33, 17},
                             {64, 64, 1},    {65, 31, 33}, {130, 257, 7}, {200, 300, 50},
                             {72, 600, 130}, {640, 96, 9}};

// The sum of k products in f32, each chain rounding once per product: an error of about sqrt(k)
// half ulps of the sum of magnitudes; four times that is allowed.
double tolerance(int64_t k) { return 4e-7 * std::sqrt(static_cast<double>(k)) + 1e-7; }

TEST(Products, LinearIsTheProductOnEveryInstructionSet) {
  base::ThreadPool pool(2);
  for (const Target& target : targets()) {
    Products products(pool, *target.kernels);
    for (DType dtype : kDTypes) {
      for (const Shape& s : kShapes) {
        SCOPED_TRACE(target.name + " " + std::string(tensor::to_string(dtype)) + " n " +
                     std::to_string(s.n) + " k " + std::to_string(s.k) + " rows " +
                     std::to_string(s.rows));
        std::vector<float> w = random_values(s.n * s.k, 1);
        std::vector<float> x = random_values(s.rows * s.k, 2);
        const std::vector<float> bias = random_values(s.n, 3);
        const PackedMatrix packed(*target.kernels, {s.n, s.k, dtype},
                                  {.parts = {part(w, s.n, s.k)}});
        std::vector<float> y(static_cast<size_t>(s.rows * s.n), NAN);
        products.linear(packed.matrix, bias.data(), x.data(), s.rows, y.data(), s.n);
        for (float& value : w) value = rounded(dtype, value);
        if (target.kernels->bf16_rows && dtype == DType::kBF16) {
          for (float& value : x) value = rounded(dtype, value);
        }
        for (int64_t row = 0; row < s.rows; ++row) {
          for (int64_t o = 0; o < s.n; ++o) {
            double magnitude = 0;
            const double expected = dot(&x[static_cast<size_t>(row * s.k)],
                                        &w[static_cast<size_t>(o * s.k)], s.k, magnitude) +
                                    bias[static_cast<size_t>(o)];
            ASSERT_NEAR(y[static_cast<size_t>(row * s.n + o)], expected,
                        tolerance(s.k) * (magnitude + 1))
                << "row " << row << " output " << o;
          }
        }
      }
    }
  }
}

TEST(Products, ARowOfLinearIsTheSameAloneAndInAnyBatchOnAnyThreads) {
  base::ThreadPool one(1);
  base::ThreadPool three(3);
  for (const Target& target : targets()) {
    Products alone(one, *target.kernels);
    Products together(three, *target.kernels);
    for (DType dtype : kDTypes) {
      for (const Shape& s : {Shape{200, 700, 101}, Shape{2000, 96, 40}}) {
        const PackedMatrix packed(*target.kernels, {s.n, s.k, dtype},
                                  dummy_source(MatrixDesc{s.n, s.k, dtype}, 4));
        const std::vector<float> x = random_values(s.rows * s.k, 5);
        std::vector<float> all(static_cast<size_t>(s.rows * s.n));
        std::vector<float> single(static_cast<size_t>(s.n));
        for (int64_t rows : {s.rows, int64_t{2}, int64_t{7}, int64_t{16}, int64_t{33}}) {
          together.linear(packed.matrix, nullptr, x.data(), rows, all.data(), s.n);
          for (int64_t row = 0; row < rows; ++row) {
            alone.linear(packed.matrix, nullptr, x.data() + row * s.k, 1, single.data(), s.n);
            ASSERT_TRUE(same_bits(single.data(), all.data() + row * s.n, s.n))
                << target.name << " " << tensor::to_string(dtype) << " row " << row << " of "
                << rows;
          }
        }
      }
    }
  }
}

TEST(Products, LinearWithScratchForFewRowsGivesTheSame) {
  base::ThreadPool pool(2);
  for (const Target& target : targets()) {
    const PackedMatrix packed(*target.kernels, {100, 512, DType::kBF16},
                              dummy_source(MatrixDesc{100, 512, DType::kBF16}, 4));
    const std::vector<float> x = random_values(300 * 512, 5);
    std::vector<float> y(300 * 100), z(300 * 100);
    Products roomy(pool, *target.kernels);
    roomy.reserve(size_t{16} << 20);
    roomy.linear(packed.matrix, nullptr, x.data(), 300, y.data(), 100);
    Products tight(pool, *target.kernels);
    tight.linear(packed.matrix, nullptr, x.data(), 300, z.data(), 100);
    EXPECT_EQ(y, z) << target.name;
  }
}

// --- Experts

struct ExpertCase {
  ExpertsDesc desc;
  int64_t top_k, rows;
  std::vector<int32_t> forced;  ///< if given, every row's experts
};

Routing route(const ExpertCase& c, uint32_t seed) {
  std::mt19937 random(seed);
  Routing routing;
  routing.rows = c.rows;
  routing.top_k = c.top_k;
  std::vector<int32_t> order(static_cast<size_t>(c.desc.experts));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  for (int64_t row = 0; row < c.rows; ++row) {
    std::shuffle(order.begin(), order.end(), random);
    for (int64_t i = 0; i < c.top_k; ++i) {
      const auto at = static_cast<size_t>(i);
      routing.experts.push_back(c.forced.empty() ? order[at] : c.forced[at]);
      routing.weights.push_back(static_cast<float>(random() % 1000) / 1000.0f);
    }
  }
  return routing;
}

std::vector<ExpertCase> expert_cases(DType dtype) {
  return {
      {{1, 64, 128, dtype}, 1, 3, {}},  // a dense feed-forward
      {{8, 72, 40, dtype}, 2, 1, {}},   // sizes that fill no tile
      {{8, 72, 40, dtype}, 2, 37, {}},
      {{5, 200, 100, dtype}, 5, 20, {}},       // every expert for every row
      {{6, 64, 96, dtype}, 1, 70, {3}},        // all rows to one expert
      {{6, 64, 96, dtype}, 3, 9, {4, -1, 0}},  // a negative id is skipped
      {{4, 600, 530, dtype}, 2, 50, {}},       // more than a chunk of inputs
  };
}

/// The weights of an expert as the packed ones hold them.
std::vector<float> dummy(uint64_t seed, int64_t n, int64_t k, DType dtype) {
  std::vector<float> values(static_cast<size_t>(n * k));
  for (int64_t i = 0; i < n * k; ++i) {
    values[static_cast<size_t>(i)] = rounded(dtype, 20 * dummy_value(seed, i / k, i % k));
  }
  return values;
}

struct ExpertWeights {
  std::vector<std::vector<float>> gate, up, down;
  ExpertsSource source;

  explicit ExpertWeights(const ExpertsDesc& desc) {
    for (int64_t e = 0; e < desc.experts; ++e) {
      const auto seed = static_cast<uint64_t>(3 * e);
      gate.push_back(dummy(seed, desc.width, desc.hidden, desc.format.base));
      up.push_back(dummy(seed + 1, desc.width, desc.hidden, desc.format.base));
      down.push_back(dummy(seed + 2, desc.hidden, desc.width, desc.format.base));
    }
    for (size_t e = 0; e < gate.size(); ++e) {
      source.gate.push_back(part(gate[e], desc.width, desc.hidden));
      source.up.push_back(part(up[e], desc.width, desc.hidden));
      source.down.push_back(part(down[e], desc.hidden, desc.width));
    }
  }
};

TEST(Products, ExpertsAreTheirFormulaOnEveryInstructionSet) {
  base::ThreadPool pool(2);
  for (const Target& target : targets()) {
    for (DType dtype : kDTypes) {
      const bool rounds = target.kernels->bf16_rows && dtype == DType::kBF16;
      for (const ExpertCase& c : expert_cases(dtype)) {
        SCOPED_TRACE(target.name + " " + std::string(tensor::to_string(dtype)) + " hidden " +
                     std::to_string(c.desc.hidden) + " rows " + std::to_string(c.rows));
        const ExpertWeights weights(c.desc);
        const PackedExperts packed(*target.kernels, c.desc, weights.source);
        const Routing routing = route(c, 9);
        const std::vector<float> x = random_values(c.rows * c.desc.hidden, 6);
        const std::vector<float> before = random_values(c.rows * c.desc.hidden, 7);
        std::vector<float> y(x.size(), NAN);
        std::vector<float> added = before;
        Products products(pool, *target.kernels);
        products.experts(packed.experts, routing, x.data(), c.rows, false, y.data());
        products.experts(packed.experts, routing, x.data(), c.rows, true, added.data());

        const int64_t hidden = c.desc.hidden;
        const int64_t width = c.desc.width;
        for (int64_t row = 0; row < c.rows; ++row) {
          std::vector<float> in(x.begin() + row * hidden, x.begin() + (row + 1) * hidden);
          if (rounds) {
            for (float& value : in) value = rounded(dtype, value);
          }
          std::vector<double> out(static_cast<size_t>(hidden));
          double magnitude = 0;
          for (int64_t i = 0; i < c.top_k; ++i) {
            const auto slot = static_cast<size_t>(row * c.top_k + i);
            if (routing.experts[slot] < 0) continue;
            const auto e = static_cast<size_t>(routing.experts[slot]);
            std::vector<float> h(static_cast<size_t>(width));
            for (int64_t j = 0; j < width; ++j) {
              const double g = dot(in.data(), &weights.gate[e][static_cast<size_t>(j * hidden)],
                                   hidden, magnitude);
              const double u = dot(in.data(), &weights.up[e][static_cast<size_t>(j * hidden)],
                                   hidden, magnitude);
              h[static_cast<size_t>(j)] = static_cast<float>(g / (1 + std::exp(-g)) * u);
              if (rounds) h[static_cast<size_t>(j)] = rounded(dtype, h[static_cast<size_t>(j)]);
            }
            for (int64_t j = 0; j < hidden; ++j) {
              out[static_cast<size_t>(j)] +=
                  routing.weights[slot] *
                  dot(h.data(), &weights.down[e][static_cast<size_t>(j * width)], width, magnitude);
            }
          }
          double largest = 0;
          for (double value : out) largest = std::max(largest, std::abs(value));
          // A value of h at a rounding boundary may fall to the other bf16.
          const double allowed = (rounds ? 4e-3 : 1e-5) * (largest + 1e-3);
          for (int64_t j = 0; j < hidden; ++j) {
            const auto at = static_cast<size_t>(row * hidden + j);
            ASSERT_NEAR(y[at], out[static_cast<size_t>(j)], allowed) << "row " << row;
            ASSERT_NEAR(added[at], before[at] + out[static_cast<size_t>(j)], allowed + 1e-6);
          }
        }
      }
    }
  }
}

TEST(Products, ARowOfExpertsIsTheSameAloneAndInAnyBatchOnAnyThreads) {
  base::ThreadPool one(1);
  base::ThreadPool three(3);
  for (const Target& target : targets()) {
    Products alone(one, *target.kernels);
    Products together(three, *target.kernels);
    for (DType dtype : kDTypes) {
      const ExpertCase c{{7, 300, 200, dtype}, 3, 150, {}};
      const PackedExperts packed(*target.kernels, c.desc, ExpertWeights(c.desc).source);
      const Routing routing = route(c, 10);
      const std::vector<float> x = random_values(c.rows * c.desc.hidden, 8);
      std::vector<float> all(x.size());
      together.experts(packed.experts, routing, x.data(), c.rows, false, all.data());
      for (int64_t row = 0; row < c.rows; ++row) {
        Routing own;
        own.rows = 1;
        own.top_k = c.top_k;
        own.experts.assign(routing.experts.begin() + row * c.top_k,
                           routing.experts.begin() + (row + 1) * c.top_k);
        own.weights.assign(routing.weights.begin() + row * c.top_k,
                           routing.weights.begin() + (row + 1) * c.top_k);
        std::vector<float> single(static_cast<size_t>(c.desc.hidden));
        alone.experts(packed.experts, own, x.data() + row * c.desc.hidden, 1, false, single.data());
        ASSERT_TRUE(same_bits(single.data(), all.data() + row * c.desc.hidden, c.desc.hidden))
            << target.name << " " << tensor::to_string(dtype) << " row " << row;
      }
    }
  }
}

TEST(Products, ScratchIsPlannedToTheByte) {
  base::ThreadPool pool(2);
  for (const Target& target : targets()) {
    const ExpertsDesc desc{16, 128, 256, DType::kBF16};
    Products products(pool, *target.kernels);
    const size_t planned = products.scratch_bytes(desc, 4, 100);
    const size_t before = base::allocated_bytes(base::MemoryTag::kActivations);
    products.reserve(planned);
    EXPECT_EQ(base::allocated_bytes(base::MemoryTag::kActivations) - before, planned);
    const PackedExperts packed(*target.kernels, desc, dummy_source(desc, 1));
    const ExpertCase c{desc, 4, 100, {}};
    const std::vector<float> x = random_values(100 * 128, 1);
    std::vector<float> y(x.size());
    products.experts(packed.experts, route(c, 1), x.data(), 100, false, y.data());
    EXPECT_EQ(base::allocated_bytes(base::MemoryTag::kActivations) - before, planned);
  }
}

// --- Packing

TEST(Layout, DummyWeightsAreDummyValueOnEveryInstructionSet) {
  for (const Target& target : targets()) {
    for (DType dtype : kDTypes) {
      const MatrixDesc desc{70, 75, dtype};
      const PackedMatrix packed(*target.kernels, desc, dummy_source(desc, 99));
      std::vector<float> row(75);
      for (int64_t o = 0; o < desc.n; ++o) {
        unpack_row(*target.kernels, packed.matrix, o, row.data());
        for (int64_t i = 0; i < desc.k; ++i) {
          ASSERT_EQ(row[static_cast<size_t>(i)], rounded(dtype, dummy_value(99, o, i)))
              << target.name << " " << tensor::to_string(dtype) << " " << o << "," << i;
        }
      }
    }
  }
}

TEST(Layout, DummyValuesAreUniform) {
  double sum = 0, squares = 0, largest = 0, product = 0, last = 0;
  constexpr int64_t kRows = 100, kColumns = 1000;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kColumns; ++col) {
      const double value = dummy_value(5, row, col);
      sum += value;
      squares += value * value;
      product += value * last;
      last = value;
      largest = std::max(largest, std::abs(value));
    }
  }
  constexpr double kCount = kRows * kColumns;
  EXPECT_NEAR(sum / kCount, 0, 3 * 0.02 / std::sqrt(kCount));
  EXPECT_NEAR(std::sqrt(squares / kCount), 0.02, 1e-4);
  EXPECT_NEAR(product / kCount / 4e-4, 0, 3 / std::sqrt(kCount));
  EXPECT_LE(largest, 0.02 * std::sqrt(3.0) * 1.0001);
}

TEST(Layout, PartsOfDifferentTypesAreStackedAndConverted) {
  const std::vector<float> values = random_values(40 * 9, 3);
  std::vector<std::byte> half(40 * 9 * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    tensor::store_float(DType::kF16, half.data(), static_cast<int64_t>(i), values[i]);
  }
  const MatrixSource source{.parts = {part(values, 10, 9),
                                      part({DType::kF16, {40, 9}, half.data()}),
                                      part(values, 25, 9)}};
  for (const Target& target : targets()) {
    for (DType dtype : kDTypes) {
      const PackedMatrix packed(*target.kernels, {75, 9, dtype}, source);
      std::vector<float> row(9);
      for (int64_t o = 0; o < 75; ++o) {
        unpack_row(*target.kernels, packed.matrix, o, row.data());
        const bool from_half = o >= 10 && o < 50;
        const int64_t source_row = o < 10 ? o : o < 50 ? o - 10 : o - 50;
        for (int64_t i = 0; i < 9; ++i) {
          const float value = values[static_cast<size_t>(source_row * 9 + i)];
          ASSERT_EQ(row[static_cast<size_t>(i)],
                    rounded(dtype, from_half ? rounded(DType::kF16, value) : value))
              << target.name << " " << o;
        }
      }
    }
  }
}

}  // namespace
}  // namespace moesaic::backend::cpu
