// Times the kernels that read weights, and attention, beside what the machine can do at best, on
// the shapes of one layer of a model (OLMoE-1B-7B unless told otherwise). Run on an otherwise idle
// machine.
//
//   bench_kernels [--threads N] [--isa NAME] [--format f32|bf16|f16|int8|q4_k|...] [--seconds S]
//                 [--hidden N] [--width N] [--experts N] [--top-k N] [--vocab N]

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>

#include "backend/cpu/attention.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernel_tables.h"
#include "backend/cpu/layout.h"
#include "backend/cpu/measure.h"
#include "backend/cpu/products.h"
#include "backend/cpu/rows.h"
#include "backend/raw_address.h"
#include "base/memory.h"
#include "base/thread_pool.h"

namespace moesaic::backend::cpu {
namespace {

struct Options {
  int64_t threads = 0;
  int64_t hidden = 2048, width = 1024, experts = 64, top_k = 8, vocab = 50304;
  double seconds = 0.5;  ///< per measurement
  std::string isa;
  tensor::WeightFormat format = DType::kBF16;
};

struct Limits {
  double bandwidth = 0;
  double peak = 0;
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The shortest of the times that `body` takes, repeated for `seconds`.
double best_time(double seconds, const std::function<void()>& body) {
  double best = 1e9;
  const double begin = seconds_now();
  int runs = 0;
  while (runs < 3 || seconds_now() - begin < seconds) {
    const double start = seconds_now();
    body();
    best = std::min(best, seconds_now() - start);
    ++runs;
  }
  return best;
}

void report(const std::string& name, const Limits& limits, double bytes, double operations,
            double seconds) {
  const double by_memory = bytes / limits.bandwidth;
  const double by_arithmetic = operations / limits.peak;
  const double limit = std::max(by_memory, by_arithmetic);
  fmt::print("{:<16}{:>9.3f} ms{:>8.1f} GB/s{:>9.1f} GFLOP/s{:>7.1f}% of {} {:.1f}\n", name,
             seconds * 1e3, bytes / seconds / 1e9, operations / seconds / 1e9,
             100 * limit / seconds, by_memory > by_arithmetic ? "GB/s" : "GFLOP/s",
             (by_memory > by_arithmetic ? limits.bandwidth : limits.peak) / 1e9);
}

class Bench {
 public:
  Bench(const Options& options, Isa isa)
      : options_(options),
        pool_(static_cast<int>(options.threads)),
        isa_(isa),
        kernels_(kernel_table(isa)),
        products_(pool_, kernels_),
        meter_(pool_, std::string(to_string(isa)), options.format) {
    fmt::print("{}, {} threads, {} weights\n", title(isa), pool_.size(), options.format.name);
    limits_ = measured();
    fmt::print("memory {:.1f} GB/s, arithmetic {:.1f} GFLOP/s\n", limits_.bandwidth / 1e9,
               limits_.peak / 1e9);
  }

  void linear(const std::string& name, int64_t n, int64_t k, std::initializer_list<int64_t> rows) {
    // Copies of the matrix, taken in turn, so that none is still in a cache.
    const MatrixDesc desc{.n = n, .k = k, .format = options_.format};
    const PanelShape shape = matrix_shape(desc);
    const int64_t copies = copies_of(shape.bytes());
    const base::Region weights(base::MemoryTag::kWeights,
                               static_cast<size_t>(copies * shape.bytes()));
    const MatrixSource source = dummy_source(desc, 1);
    pool_.parallel_for(copies * shape.panels, [&](int64_t i, int) {
      pack_matrix(kernels_, desc, source, i % shape.panels,
                  weights.data() + i / shape.panels * shape.bytes());
    });
    for (int64_t count : rows) {
      const std::vector<float> x = inputs(count * k);
      std::vector<float> y(static_cast<size_t>(count * n));
      int64_t copy = 0;
      const double seconds = timed([&] {
        const Matrix matrix{desc, RawAddress::of(weights.data() + copy * shape.bytes())};
        products_.linear(matrix, nullptr, x.data(), count, y.data(), n);
        copy = (copy + 1) % copies;
      });
      const auto elements = static_cast<double>(n * k);
      report(fmt::format("{} x {}", name, count), limits_,
             elements * options_.format.bytes_per_weight(),
             2 * elements * static_cast<double>(count), seconds);
    }
  }

  /// The last `rows` tokens of one sequence of `context`, all heads of 128; its operations beside
  /// the peak of the weights' type.
  void attention(int64_t rows, int64_t context) {
    constexpr int64_t kHeadDim = 128;
    constexpr int64_t kBlock = 16;
    AttentionDesc desc;
    desc.heads = desc.kv_heads = options_.hidden / kHeadDim;
    desc.head_dim = kHeadDim;
    desc.scale = 0.1f;
    const int64_t blocks = ceil_div(context, kBlock);
    KvLayer cache{{desc.kv_heads, kHeadDim, kBlock, DType::kBF16}, {}, blocks};
    base::Region memory(base::MemoryTag::kKvCache,
                        static_cast<size_t>(blocks) * kv_block_bytes(cache.desc));
    std::memset(memory.data(), 0x3c, memory.size());  // else all of it is one page of zeros
    cache.data = RawAddress::of(memory.data());
    base::Region scratch(base::MemoryTag::kActivations, attention_scratch_bytes(pool_.size()));
    std::vector<int32_t> table(static_cast<size_t>(blocks));
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    const std::vector<int32_t> starts = {0, static_cast<int32_t>(rows)};
    const std::vector<int32_t> lengths = {static_cast<int32_t>(context)};
    const AttentionBatch batch{starts, lengths, table, blocks};
    const auto plan = plan_attention(pool_, desc, batch);
    const std::vector<float> qkv = inputs(rows * 3 * options_.hidden);
    std::vector<float> out(static_cast<size_t>(rows * options_.hidden));
    const double seconds = timed([&] {
      backend::cpu::attention(pool_, attention_kernels(isa_), desc, cache, batch, *plan, qkv.data(),
                              out.data(), reinterpret_cast<float*>(scratch.data()));
    });
    const auto pairs = static_cast<double>(rows * (context - rows) + rows * (rows + 1) / 2);
    report(fmt::format("attention {}/{}", rows, context), limits_,
           static_cast<double>(memory.size()), 4 * static_cast<double>(options_.hidden) * pairs,
           seconds);
  }

  void experts(std::initializer_list<int64_t> rows) {
    const ExpertsDesc desc{.experts = options_.experts,
                           .hidden = options_.hidden,
                           .width = options_.width,
                           .format = options_.format};
    const ExpertShape shape(desc);
    // Copies here too, for one row leaves most experts out and a cache could hold the others.
    const int64_t bytes = desc.experts * shape.bytes();
    const int64_t copies = copies_of(bytes);
    const base::Region weights(base::MemoryTag::kWeights, static_cast<size_t>(copies * bytes));
    const ExpertsSource source = dummy_source(desc, 1);
    const double start = seconds_now();
    const int64_t units = desc.experts * shape.units();
    pool_.parallel_for(copies * units, [&](int64_t i, int) {
      pack_experts(kernels_, desc, source, i % units, weights.data() + i / units * bytes);
    });
    fmt::print("dummy weights {:.1f} GB/s\n",
               static_cast<double>(weights.size()) / (seconds_now() - start) / 1e9);
    std::mt19937 random(3);
    for (int64_t count : rows) {
      const std::vector<float> x = inputs(count * desc.hidden);
      std::vector<float> y(x.size());
      // Several routings in turn, for one row leaves most experts out and a cache could hold it.
      std::vector<Routing> routings;
      double touched = 0;
      for (int i = 0; i < 8; ++i) {
        routings.push_back(route(count, random));
        const std::set<int32_t> chosen(routings.back().experts.begin(),
                                       routings.back().experts.end());
        touched += static_cast<double>(chosen.size()) / 8;
      }
      size_t turn = 0;
      constexpr int kRound = 8;
      const double total = timed([&] {
        for (int i = 0; i < kRound; ++i) {
          const auto copy = static_cast<int64_t>(turn / routings.size()) % copies;
          const Experts handle{desc, RawAddress::of(weights.data() + copy * bytes)};
          products_.experts(handle, routings[turn++ % routings.size()], x.data(), count, false,
                            y.data());
        }
      });
      const double expert = 3 * static_cast<double>(desc.hidden * desc.width);
      report(fmt::format("experts x {}", count), limits_,
             touched * expert * desc.format.bytes_per_weight(),
             2 * expert * static_cast<double>(count * options_.top_k), total / kRound);
    }
  }

 private:
  /// How many matrices of that size it takes until none is still in a cache when its turn comes
  /// again.
  static int64_t copies_of(int64_t bytes) {
    return ceil_div(static_cast<int64_t>(beyond_caches(size_t{512} << 20)), bytes);
  }

  /// Times `body` between two measurements of the machine, which on a shared host is not the same
  /// from one second to the next; the better of the two counts.
  double timed(const std::function<void()>& body) {
    const Limits before = measured();
    const double seconds = best_time(options_.seconds, body);
    const Limits after = measured();
    limits_ = {std::max(before.bandwidth, after.bandwidth), std::max(before.peak, after.peak)};
    return seconds;
  }

  /// The best of a few passes.
  Limits measured() {
    Limits best;
    for (int pass = 0; pass < 3; ++pass) {
      best.bandwidth = std::max(best.bandwidth, meter_.read_bandwidth());
      best.peak = std::max(best.peak, meter_.peak_flops());
    }
    return best;
  }

  static std::vector<float> inputs(int64_t count) {
    std::vector<float> x(static_cast<size_t>(count));
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(random);
    return x;
  }

  Routing route(int64_t rows, std::mt19937& random) const {
    Routing routing;
    routing.rows = rows;
    routing.top_k = options_.top_k;
    std::vector<int32_t> order(static_cast<size_t>(options_.experts));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    for (int64_t row = 0; row < rows; ++row) {
      std::shuffle(order.begin(), order.end(), random);
      for (int64_t i = 0; i < options_.top_k; ++i) {
        routing.experts.push_back(order[static_cast<size_t>(i)]);
        routing.weights.push_back(1.0f / static_cast<float>(options_.top_k));
      }
    }
    return routing;
  }

  Options options_;
  base::ThreadPool pool_;
  Isa isa_;
  const KernelTable& kernels_;
  Products products_;
  Meter meter_;
  Limits limits_;
};

bool find_format(const std::string& name, tensor::WeightFormat& found) {
  for (const auto& list : {tensor::weight_formats(), tensor::block_formats()}) {
    for (const tensor::WeightFormat& format : list) {
      if (format.name != name) continue;
      found = format;
      return true;
    }
  }
  return false;
}

int run(int argc, char** argv) {
  Options options;
  const std::map<std::string, int64_t*> numbers = {
      {"--threads", &options.threads}, {"--hidden", &options.hidden}, {"--width", &options.width},
      {"--experts", &options.experts}, {"--top-k", &options.top_k},   {"--vocab", &options.vocab}};
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const std::string value = argv[i + 1];
    if (auto number = numbers.find(flag); number != numbers.end()) {
      *number->second = std::atoll(value.c_str());
    } else if (flag == "--isa") {
      options.isa = value;
    } else if (flag == "--seconds") {
      options.seconds = std::atof(value.c_str());
    } else if (flag == "--format") {
      if (!find_format(value, options.format)) {
        fmt::print(stderr, "no format {}\n", value);
        return 64;
      }
    } else {
      fmt::print(stderr, "unknown flag {}\n", flag);
      return 64;
    }
  }
  Bench bench(options, isa_from_name(options.isa));
  bench.experts({1, 16, 512});
  bench.linear("qkv", 3 * options.hidden, options.hidden, {1, 16, 512});
  bench.linear("o", options.hidden, options.hidden, {1, 16, 512});
  bench.linear("router", options.experts, options.hidden, {1, 16, 512});
  bench.linear("lm_head", options.vocab, options.hidden, {1, 16});
  bench.attention(512, 512);
  bench.attention(512, 8192);
  bench.attention(1, 65536);
  bench.attention(1, 1024);
  return 0;
}

}  // namespace
}  // namespace moesaic::backend::cpu

int main(int argc, char** argv) { return moesaic::backend::cpu::run(argc, argv); }
