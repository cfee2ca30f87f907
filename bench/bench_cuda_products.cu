// Times the matrix products of the CUDA backend as graph replays, over enough copies of the weights
// that no replay finds them in the L2, and prints the share of the read bandwidth and of the bf16
// tensor rate, both measured first in the same run.
//
//   bench_cuda_products [--format bf16|fp8|fp8-rounded] [--rows 1,8,32] [--models
//   mixtral,qwen3,qwen15] [--all]
//
// --all times every kernel choice, not only the one that the library makes.

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>

#include "backend/cuda/products/testing.cuh"
#include "backend/measure.h"

namespace moesaic::backend::cuda {
namespace {

using testing::Device;
using testing::fill;
using bf16 = __nv_bfloat16;

constexpr int64_t kBeyondL2 = 240 << 20;  ///< bytes of weights that a replay walks through

class Timer {
 public:
  Timer() {
    MOESAIC_CUDA_REQUIRE(cudaStreamCreate(&stream_));
    MOESAIC_CUDA_REQUIRE(cudaEventCreate(&begin_));
    MOESAIC_CUDA_REQUIRE(cudaEventCreate(&end_));
  }
  /// Microseconds of one of `calls` calls: the median replay of the graph that holds them all.
  double time(int calls, const std::function<void(int, cudaStream_t)>& call) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    MOESAIC_CUDA_REQUIRE(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < calls; ++i) call(i, stream_);
    MOESAIC_CUDA_REQUIRE(cudaStreamEndCapture(stream_, &graph));
    MOESAIC_CUDA_REQUIRE(cudaGraphInstantiate(&exec, graph, 0));
    double first = replay(exec);
    first = replay(exec);
    const int replays = std::clamp(static_cast<int>(budget_us_ / first), 3, 30);
    std::vector<double> times;
    for (int i = 0; i < replays; ++i) times.push_back(replay(exec));
    std::sort(times.begin(), times.end());
    MOESAIC_CUDA_REQUIRE(cudaGraphExecDestroy(exec));
    MOESAIC_CUDA_REQUIRE(cudaGraphDestroy(graph));
    return times[times.size() / 2] / calls;
  }

 private:
  double replay(cudaGraphExec_t exec) {
    float ms = 0;
    MOESAIC_CUDA_REQUIRE(cudaEventRecord(begin_, stream_));
    MOESAIC_CUDA_REQUIRE(cudaGraphLaunch(exec, stream_));
    MOESAIC_CUDA_REQUIRE(cudaEventRecord(end_, stream_));
    MOESAIC_CUDA_REQUIRE(cudaEventSynchronize(end_));
    MOESAIC_CUDA_REQUIRE(cudaEventElapsedTime(&ms, begin_, end_));
    return ms * 1e3;
  }
  static constexpr double budget_us_ = 60e3;
  cudaStream_t stream_;
  cudaEvent_t begin_, end_;
};

struct Ceilings {
  double bytes_per_us = 0;
  double flops_per_us = 0;
};

// --- Models.

struct ModelShape {
  const char* name;
  int64_t hidden, width, experts, top_k, q, kv, vocabulary, shared_width;
};
const ModelShape kModels[] = {
    {"mixtral", 4096, 14336, 8, 2, 4096, 1024, 32000, 0},
    {"qwen3", 2048, 768, 128, 8, 4096, 512, 151936, 0},
    {"qwen15", 2048, 1408, 60, 4, 2048, 2048, 151936, 5632},
};

struct Bench {
  Timer timer;
  Ceilings ceilings;
  Format format = Format::kBF16;
  std::vector<int64_t> rows{1, 8, 32, 128, 256, 512, 2048, 8192};
  bool all = false;

  double element_bytes() const { return format == Format::kBF16 ? 2 : 1; }

  void print(const char* model, const char* product, const char* kernel, int64_t rows, double us,
             double bytes, double flops) const {
    std::printf("%-8s %-9s %-14s %5ld %10.1f %9.1f %6.1f%% %8.1f %6.1f%%\n", model, product, kernel,
                static_cast<long>(rows), us, bytes / 1e6, 100 * bytes / us / ceilings.bytes_per_us,
                flops / us / 1e6, 100 * flops / us / ceilings.flops_per_us);
    std::fflush(stdout);
  }

  struct Choice {
    std::string name;
    Tuning tuning;
  };
  std::vector<Choice> choices(int64_t rows, bool chunks) const {
    std::vector<Choice> c{{"auto", {}}};
    if (!all) return c;
    if (rows <= 8) c.push_back({"stream", {Kernel::kStream, 0, 0}});
    for (int groups : {1, 2}) {
      for (int tokens : {64, 128, 256}) {
        if ((groups == 1 && tokens > 64) || (tokens > 64 && rows < tokens / 2)) continue;
        if ((chunks && tokens == 256) || (tokens > 128 && format != Format::kBF16)) continue;
        c.push_back({std::to_string(groups) + "x64x" + std::to_string(tokens),
                     {Kernel::kTile, groups, tokens}});
      }
    }
    return c;
  }

  void linear(const char* model, const char* product, int64_t n, int64_t k, bool f32, bool add) {
    const LinearShape shape{n, k, format};
    const size_t bytes = packed_bytes(shape);
    const int copies =
        static_cast<int>(std::clamp<int64_t>(kBeyondL2 / static_cast<int64_t>(bytes) + 1, 2, 24));
    std::vector<Device<std::byte>> packed;
    {
      auto w = testing::random_device<bf16>(n * k, 1, 0.03f);
      Source source;
      source.values = w.get();
      source.rows = n;
      source.stride = k;
      for (int i = 0; i < copies; ++i) {
        packed.emplace_back(bytes);
        pack(shape, 0, source, packed.back().get(), nullptr);
      }
      MOESAIC_CUDA_REQUIRE(cudaDeviceSynchronize());
    }
    for (int64_t r : rows) {
      if (static_cast<double>(r) * n * 4 > 12e9) continue;
      const auto x = testing::random_device<bf16>(r * k, 2, 1.0f);
      Device<float> y(r * n);
      MOESAIC_CUDA_REQUIRE(cudaMemset(y.get(), 0, r * n * 4));
      const bool chunked = n * k <= int64_t{1} << 26;
      for (const Choice& choice : choices(r, chunked)) {
        Products products;
        products.tune(choice.tuning);
        Device<std::byte> scratch(products.linear_scratch_bytes(shape, r));
        const Output out{y.get(), n, add ? Store::kAddF32 : (f32 ? Store::kF32 : Store::kBF16)};
        const double us = timer.time(copies, [&](int i, cudaStream_t s) {
          products.linear({shape, packed[i].get()}, {x.get(), r, k, nullptr, nullptr}, nullptr, out,
                          scratch.get(), s);
        });
        print(model, product, choice.name.c_str(), r, us,
              static_cast<double>(n) * k * element_bytes() + r * (k * 2.0 + n * (add   ? 8
                                                                                 : f32 ? 4
                                                                                       : 2)),
              2.0 * n * k * r);
      }
    }
  }

  void experts(const ModelShape& m, const char* name, int64_t count, int64_t top_k, int64_t width) {
    const ExpertsShape shape{count, m.hidden, width, format};
    const size_t bytes = packed_bytes(shape);
    // Routings differ from copy to copy, so that few experts of a large set do not stay in the L2.
    const int copies = bytes > (size_t{3} << 29) ? 1 : 3;
    const int calls = copies == 1 ? 4 : 6;
    std::vector<Device<std::byte>> packed;
    {
      auto w = testing::random_device<bf16>(width * m.hidden, 1, 0.03f);
      Source wide;
      wide.values = w.get();
      wide.rows = width;
      wide.stride = m.hidden;
      Source tall = wide;
      tall.rows = m.hidden;
      tall.stride = width;
      for (int i = 0; i < copies; ++i) {
        packed.emplace_back(bytes);
        for (int64_t e = 0; e < count; ++e) {
          pack(shape, e, wide, wide, tall, packed.back().get(), nullptr);
        }
      }
      MOESAIC_CUDA_REQUIRE(cudaDeviceSynchronize());
    }
    for (int64_t r : rows) {
      const auto x = testing::random_device<bf16>(r * m.hidden, 2, 1.0f);
      Device<float> y(r * m.hidden);
      MOESAIC_CUDA_REQUIRE(cudaMemset(y.get(), 0, y.size() * 4));
      std::vector<Device<int32_t>> ids;
      std::vector<Device<float>> weights;
      double active = 0;
      for (int i = 0; i < calls; ++i) {
        const auto host = testing::random_routing(r, top_k, count, 100 + i);
        auto sorted = host.experts;
        std::sort(sorted.begin(), sorted.end());
        active +=
            static_cast<double>(std::unique(sorted.begin(), sorted.end()) - sorted.begin()) / calls;
        ids.emplace_back(host.experts);
        weights.emplace_back(host.weights);
      }
      const bool routed = count > 1;
      for (const Choice& choice : choices(r, count == 1)) {
        Products products;
        products.tune(choice.tuning);
        Device<std::byte> scratch(products.experts_scratch_bytes(shape, top_k, r));
        auto call = [&](int i, cudaStream_t s, bool up, bool down) {
          const Experts w{shape, packed[i % copies].get()};
          const Rows rows_of{x.get(), r, m.hidden, nullptr, nullptr};
          const Routing routing{routed ? ids[i].get() : nullptr, weights[i].get(), top_k};
          if (up) products.gate_up(w, rows_of, routing, scratch.get(), s);
          if (down) {
            products.down(w, rows_of, routing, {y.get(), m.hidden, Store::kAddF32}, scratch.get(),
                          s);
          }
        };
        const double pairs = static_cast<double>(r) * top_k;
        const double matrix = static_cast<double>(width) * m.hidden;
        const double up =
            timer.time(calls, [&](int i, cudaStream_t s) { call(i, s, true, false); });
        const double down =
            timer.time(calls, [&](int i, cudaStream_t s) { call(i, s, false, true); });
        const double both =
            timer.time(calls, [&](int i, cudaStream_t s) { call(i, s, true, true); });
        const double up_bytes =
            active * 2 * matrix * element_bytes() + r * m.hidden * 2.0 + pairs * width * 2;
        const double down_bytes =
            active * matrix * element_bytes() + pairs * width * 2 + r * m.hidden * 8.0;
        print(m.name, (std::string(name) + ".up").c_str(), choice.name.c_str(), r, up, up_bytes,
              4.0 * matrix * pairs);
        print(m.name, (std::string(name) + ".down").c_str(), choice.name.c_str(), r, down,
              down_bytes, 2.0 * matrix * pairs);
        print(m.name, (std::string(name) + ".both").c_str(), choice.name.c_str(), r, both,
              up_bytes + down_bytes, 6.0 * matrix * pairs);
      }
    }
  }

  void model(const ModelShape& m) {
    linear(m.name, "qkv", m.q + 2 * m.kv, m.hidden, false, false);
    linear(m.name, "o", m.hidden, m.q, true, true);
    experts(m, "moe", m.experts, m.top_k, m.width);
    if (m.shared_width > 0) experts(m, "ffn", 1, 1, m.shared_width);
    if (format == Format::kBF16) linear(m.name, "router", 3 * m.experts, m.hidden, true, false);
    const auto kept = rows;
    std::erase_if(rows, [](int64_t r) { return r > 256; });  // rows that want logits are few
    linear(m.name, "lm_head", m.vocabulary, m.hidden, true, false);
    rows = kept;
  }
};

int run(int argc, char** argv) {
  const std::string reason = testing::no_device();
  if (!reason.empty()) {
    std::printf("bench_cuda_products: %s\n", reason.c_str());
    return 69;
  }
  Bench bench;
  std::string models = "mixtral,qwen3,qwen15";
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (arg == "--all") {
      bench.all = true;
    } else if (arg == "--format") {
      bench.format = value == "fp8"           ? Format::kFP8
                     : value == "fp8-rounded" ? Format::kFP8Rounded
                                              : Format::kBF16;
      ++i;
    } else if (arg == "--models") {
      models = value;
      ++i;
    } else if (arg == "--rows") {
      bench.rows.clear();
      for (size_t at = 0; at < value.size();) {
        size_t used = 0;
        bench.rows.push_back(std::stol(value.substr(at), &used));
        at += used + 1;
      }
      ++i;
    } else {
      std::fprintf(stderr, "bench_cuda_products: unknown argument '%s'\n", arg.c_str());
      return 64;
    }
  }
  cudaDeviceProp properties{};
  MOESAIC_CUDA_REQUIRE(cudaGetDeviceProperties(&properties, 0));
  {
    const auto meter = make_cuda_meter(0);
    bench.ceilings = {meter->read_bandwidth() / 1e6, meter->peak_flops() / 1e6};
  }
  std::printf("%s, %d multiprocessors; reads %.2f TB/s, wgmma bf16 %.0f TFLOP/s\n", properties.name,
              properties.multiProcessorCount, bench.ceilings.bytes_per_us / 1e6,
              bench.ceilings.flops_per_us / 1e6);
  std::printf("%-8s %-9s %-14s %5s %10s %9s %7s %8s %7s\n", "model", "product", "kernel", "rows",
              "us", "MB", "read", "TFLOP/s", "peak");
  for (const ModelShape& m : kModels) {
    if (models.find(m.name) != std::string::npos) bench.model(m);
  }
  return 0;
}

}  // namespace
}  // namespace moesaic::backend::cuda

int main(int argc, char** argv) {
  try {
    return moesaic::backend::cuda::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_cuda_products: %s\n", e.what());
    return 70;
  }
}
