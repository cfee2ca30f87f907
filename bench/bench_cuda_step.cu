// Times of the CUDA kernels beside the matrix products: attention, the small kernels of a step,
// routing, sampling. Everything runs as a captured graph of many launches, as a step does; a time
// is that of one launch. Attention walks over enough layers' caches that none is in L2.
//
//   bench_cuda_step [what [batch context kv_heads rows block_size]]
//   bench_cuda_step sample [line]
//
// what: all (default), decode, prefill, small, sample, or one: attention of one step, for a
// profiler, of sequences with `context` positions of which the last `rows` are new (1: a decode).

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/attention.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/route.h"
#include "backend/cuda/sample.h"
#include "backend/cuda/step.h"
#include "backend/measure.h"

namespace moesaic::backend::cuda {
namespace {

constexpr size_t kCacheBytes = size_t{24} << 30;

__global__ void fill_kernel(uint32_t* data, size_t count, uint32_t mask, uint32_t base) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    uint64_t x = i * 0x9e3779b97f4a7c15ULL + 1;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    data[i] = (static_cast<uint32_t>(x >> 32) & mask) | base;
  }
}

template <typename T>
T* allocate(size_t count) {
  void* data = nullptr;
  check(cudaMalloc(&data, count * sizeof(T) + 256), "cudaMalloc");
  return static_cast<T*>(data);
}
template <typename T>
T* upload(const std::vector<T>& values) {
  T* data = allocate<T>(values.size());
  check(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "copy");
  return data;
}
/// Random bf16 values of size 0.5 to 1.
__nv_bfloat16* random_bf16(size_t count) {
  auto* data = allocate<__nv_bfloat16>(count);
  fill_kernel<<<1024, 256>>>(reinterpret_cast<uint32_t*>(data), count / 2, 0x807f807fu,
                             0x3f003f00u);
  return data;
}

struct Timer {
  cudaStream_t stream;
  cudaEvent_t begin, end;

  Timer() {
    check(cudaStreamCreate(&stream), "cudaStreamCreate");
    check(cudaEventCreate(&begin), "cudaEventCreate");
    check(cudaEventCreate(&end), "cudaEventCreate");
  }

  /// Microseconds of one of the `launches` that `enqueue` makes: the median over graph replays.
  double time(int launches, const std::function<void(cudaStream_t)>& enqueue) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    enqueue(stream);  // loads the kernels
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    enqueue(stream);
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    std::vector<float> times;
    float spent = 0;
    for (int i = 0; i < 12 && (i < 4 || spent < 60); ++i) {
      check(cudaEventRecord(begin, stream), "cudaEventRecord");
      check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
      check(cudaEventRecord(end, stream), "cudaEventRecord");
      check(cudaEventSynchronize(end), "cudaEventSynchronize");
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
      if (i > 0) times.push_back(ms);
      spent += ms;
    }
    check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    std::sort(times.begin(), times.end());
    return static_cast<double>(times[times.size() / 2]) * 1e3 / launches;
  }
};

/// A step's sequences over a cache of several layers.
struct AttentionBench {
  AttentionShape shape;
  AttentionLimits limits;
  StepKind kind;
  int layers;
  size_t layer_bytes;
  uint8_t* cache;
  void* work;
  __nv_bfloat16 *q, *out;
  AttentionSequences sequences;
  double pairs = 0;  // of a query and a key that it sees
  double keys = 0;
  std::vector<void*> owned;

  AttentionBench(const AttentionShape& form, const std::vector<int>& contexts, int rows,
                 StepKind step, uint8_t* memory)
      : shape(form), kind(step), cache(memory) {
    std::mt19937 random(1);
    const int size = shape.block_size;
    int max_blocks = 0;
    int blocks = 0;
    for (int context : contexts) {
      max_blocks = std::max(max_blocks, (context + size - 1) / size);
      blocks += (context + size - 1) / size;
      keys += context;
      for (int i = 0; i < rows; ++i) pairs += context - i;
    }
    layer_bytes = static_cast<size_t>(blocks) * kv_block_bytes(shape);
    layers = static_cast<int>(std::clamp<size_t>((size_t{512} << 20) / layer_bytes, 2, 32));
    layers = std::min<int>(layers, static_cast<int>(kCacheBytes / layer_bytes));
    std::vector<int32_t> order(static_cast<size_t>(blocks));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    std::vector<int32_t> tables(contexts.size() * static_cast<size_t>(max_blocks));
    std::vector<int32_t> starts{0};
    size_t next = 0;
    for (size_t s = 0; s < contexts.size(); ++s) {
      for (int b = 0; b * size < contexts[s]; ++b) {
        tables[s * static_cast<size_t>(max_blocks) + static_cast<size_t>(b)] = order[next++];
      }
      starts.push_back(starts.back() + rows);
    }
    limits.max_sequences = static_cast<int>(contexts.size());
    limits.max_rows = starts.back();
    const auto own = [this](auto* data) {
      owned.push_back(data);
      return data;
    };
    const auto width = static_cast<size_t>(shape.heads * shape.head_dim);
    sequences = {own(upload(std::vector<int32_t>{static_cast<int32_t>(contexts.size())})),
                 own(upload(starts)), own(upload(contexts)), own(upload(tables)), max_blocks};
    q = own(random_bf16(static_cast<size_t>(starts.back()) * width));
    out = own(allocate<__nv_bfloat16>(static_cast<size_t>(starts.back()) * width));
    work = own(allocate<uint8_t>(attention_work_bytes(shape, limits)));
    plan_attention(shape, limits, sequences, kind, work, nullptr);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  ~AttentionBench() {
    for (void* data : owned) cudaFree(data);
  }

  double time(Timer& timer) {
    return timer.time(layers, [&](cudaStream_t stream) {
      for (int layer = 0; layer < layers; ++layer) {
        attention(shape, limits, sequences, kind, work, q, shape.heads * shape.head_dim,
                  cache + static_cast<size_t>(layer) * layer_bytes, out, stream, Settled::kPast);
      }
    });
  }
};

AttentionShape shape_of(int kv_heads, KvType kv, int block_size = 16) {
  AttentionShape shape;
  shape.heads = 32;
  shape.kv_heads = kv_heads;
  shape.head_dim = 128;
  shape.block_size = block_size;
  shape.kv = kv;
  shape.scale = 0.088388f;
  return shape;
}

void fill_cache(uint8_t* cache, KvType kv) {
  const bool bf16 = kv == KvType::kBF16;
  fill_kernel<<<2048, 256>>>(reinterpret_cast<uint32_t*>(cache), kCacheBytes / 4,
                             bf16 ? 0x807f807fu : 0x87878787u, bf16 ? 0x3f003f00u : 0x30303030u);
}

void bench_decode(Timer& timer, uint8_t* cache, double bandwidth, int block_size) {
  std::printf("\ndecode attention, us and %% of read bandwidth (%.2f TB/s); block size %d\n",
              bandwidth / 1e12, block_size);
  std::printf("%-18s%-7s", "", "batch");
  for (const char* context : {"128-257", "1k", "8k", "32k"}) std::printf("%16s", context);
  std::printf("\n");
  for (KvType kv : {KvType::kBF16, KvType::kE4M3}) {
    fill_cache(cache, kv);
    for (int kv_heads : {8, 4}) {
      for (int batch : {1, 8, 32, 128, 256}) {
        std::printf("32/%dx128 %-8s%-7d", kv_heads, kv == KvType::kBF16 ? "bf16" : "e4m3", batch);
        for (int context : {0, 1024, 8192, 32768}) {
          const AttentionShape shape = shape_of(kv_heads, kv, block_size);
          std::vector<int> contexts;
          for (int s = 0; s < batch; ++s) {
            contexts.push_back(context > 0 ? context : 128 + s * 129 / std::max(1, batch - 1));
          }
          const double bytes = std::accumulate(contexts.begin(), contexts.end(), 0.0) * kv_heads *
                               128 * 2 * (kv == KvType::kBF16 ? 2 : 1);
          if (bytes > static_cast<double>(kCacheBytes) / 2) {
            std::printf("%16s", "-");
            continue;
          }
          AttentionBench bench(shape, contexts, 1, StepKind::kDecode, cache);
          const double us = bench.time(timer);
          std::printf("%10.1f %4.1f%%", us, 100 * bytes / (us * 1e-6) / bandwidth);
          std::fflush(stdout);
        }
        std::printf("\n");
      }
    }
  }
}

void bench_prefill(Timer& timer, uint8_t* cache, int block_size) {
  std::printf(
      "\nprefill attention, us and TFLOP/s (4 x head dim x heads x visible pairs); block size %d\n",
      block_size);
  struct Case {
    const char* name;
    int sequences, past, rows;
  };
  for (KvType kv : {KvType::kBF16, KvType::kE4M3}) {
    fill_cache(cache, kv);
    for (const Case& c :
         {Case{"32 x 512", 32, 0, 512}, Case{"8 x 2048", 8, 0, 2048}, Case{"1 x 8192", 1, 0, 8192},
          Case{"512 after 32k", 1, 32768, 512}, Case{"16 after 32k", 1, 32768, 16}}) {
      for (int kv_heads : {8, 4}) {
        const std::vector<int> contexts(static_cast<size_t>(c.sequences), c.past + c.rows);
        AttentionBench bench(shape_of(kv_heads, kv, block_size), contexts, c.rows, StepKind::kMixed,
                             cache);
        const double us = bench.time(timer);
        std::printf("32/%dx128 %s  %-15s %10.1f us %7.0f TFLOP/s\n", kv_heads,
                    kv == KvType::kBF16 ? "bf16" : "e4m3", c.name, us,
                    4 * 128 * 32 * bench.pairs / us * 1e-6);
        std::fflush(stdout);
      }
    }
  }
}

void bench_small(Timer& timer) {
  constexpr int kWidth = 4096;
  constexpr int kMost = 8192;
  constexpr int kChain = 32;
  auto* table = random_bf16(size_t{32000} * kWidth);
  auto* residual = allocate<float>(size_t{kMost} * kWidth);
  auto* delta = random_bf16(size_t{kMost} * kWidth);
  auto* normed = allocate<__nv_bfloat16>(size_t{kMost} * kWidth);
  auto* weight = upload(std::vector<float>(32768, 1.0f));
  auto* qkv = random_bf16(size_t{kMost} * 6144);
  std::vector<int32_t> ids(kMost);
  std::vector<int64_t> slots(kMost);
  for (int i = 0; i < kMost; ++i) {
    ids[static_cast<size_t>(i)] = i * 7 % 32000;
    slots[static_cast<size_t>(i)] = i;
  }
  auto* device_ids = upload(ids);
  std::iota(ids.begin(), ids.end(), 0);
  auto* device_rows = upload(ids);
  auto* device_slots = upload(slots);
  auto* angles = upload(std::vector<float>(size_t{kMost} * 64, 0.7f));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> logits(size_t{kMost} * 128);
  for (float& x : logits) x = normal(random);
  auto* device_logits = upload(logits);
  const QkvShape qkv_shape{
      .attention = shape_of(8, KvType::kBF16), .rotary_dim = 128, .norm = QkNormKind::kPerHead};
  auto* cache = allocate<uint8_t>(kv_block_bytes(qkv_shape.attention) * kMost / 16);
  const QkvInputs inputs{.q_norm = weight,
                         .k_norm = weight,
                         .cos = angles,
                         .sin = angles,
                         .angle_rows = nullptr,
                         .slots = device_slots};
  const Routed routed{allocate<int32_t>(kMost * 8), allocate<float>(kMost * 8),
                      upload(std::vector<uint64_t>(128))};

  std::printf("\nsmall kernels in a chain of %d, us each (width 4096, 32/8x128 per-head norm)\n",
              kChain);
  std::printf("%-28s", "rows");
  const std::vector<int> all_rows{1, 32, 256, 8192};
  for (int rows : all_rows) std::printf("%10d", rows);
  std::printf("\n");
  const auto line = [&](const char* name,
                        const std::function<void(RowCount, cudaStream_t)>& enqueue) {
    std::printf("%-28s", name);
    for (int rows : all_rows) {
      auto* count = upload(std::vector<int32_t>{rows});
      const double us = timer.time(kChain, [&](cudaStream_t stream) {
        for (int i = 0; i < kChain; ++i) enqueue({count, rows}, stream);
      });
      std::printf("%10.2f", us);
      cudaFree(count);
    }
    std::printf("\n");
    std::fflush(stdout);
  };
  line("embed", [&](RowCount rows, cudaStream_t stream) {
    embed({{.n = 32000, .k = kWidth}, reinterpret_cast<std::byte*>(table)}, device_ids, nullptr,
          rows, residual, stream);
  });
  line("norm", [&](RowCount rows, cudaStream_t stream) {
    add_rms_norm(residual, nullptr, weight, 1e-5f, kWidth, rows, normed, stream);
  });
  line("add + norm", [&](RowCount rows, cudaStream_t stream) {
    add_rms_norm(residual, delta, weight, 1e-5f, kWidth, rows, normed, stream);
  });
  line("gather + add + norm", [&](RowCount rows, cudaStream_t stream) {
    gather_rms_norm(residual, delta, weight, 1e-5f, kWidth, device_rows, rows, normed, stream);
  });
  line("QK-norm + rope + append", [&](RowCount rows, cudaStream_t stream) {
    qkv_rope_append(qkv_shape, inputs, rows, qkv, cache, stream);
  });
  QkvShape full = qkv_shape;
  full.norm = QkNormKind::kFull;
  line("the same, norm over all heads", [&](RowCount rows, cudaStream_t stream) {
    qkv_rope_append(full, inputs, rows, qkv, cache, stream);
  });
  line("route 2 of 8", [&](RowCount rows, cudaStream_t stream) {
    route({8, 2, RouteScoring::kSoftmax, true, 1.0f}, device_logits, nullptr, rows, routed, stream);
  });
  line("route 8 of 128", [&](RowCount rows, cudaStream_t stream) {
    route({128, 8, RouteScoring::kSoftmax, true, 1.0f}, device_logits, nullptr, rows, routed,
          stream);
  });
  std::printf("%-28s", "attention plan, sequences");
  for (int batch : {1, 32, 256}) {
    AttentionBench bench(shape_of(8, KvType::kBF16),
                         std::vector<int>(static_cast<size_t>(batch), 1024), 1, StepKind::kDecode,
                         nullptr);
    std::printf("%10.2f", timer.time(kChain, [&](cudaStream_t stream) {
      for (int i = 0; i < kChain; ++i) {
        plan_attention(bench.shape, bench.limits, bench.sequences, bench.kind, bench.work, stream);
      }
    }));
  }
  std::printf("\n");
  for (void* data : std::vector<void*>{table, residual, delta, normed, qkv, cache}) cudaFree(data);
}

void bench_sample(Timer& timer, double bandwidth, int only) {
  constexpr int kVocab = 151936;
  constexpr int kRows = 256;
  constexpr int kChain = 4;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> logits(size_t{kRows} * kVocab);
  for (float& x : logits) x = 2 * normal(random);
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < 20; ++i) {
      logits[static_cast<size_t>(r) * kVocab + random() % kVocab] +=
          4 * std::fabs(normal(random)) + 5;
    }
  }
  auto* device_logits = upload(logits);
  auto* work = allocate<uint8_t>(sampler_work_bytes(kVocab, kRows));
  const Sampled sampled{allocate<int32_t>(kRows), allocate<int32_t>(kRows),
                        allocate<TokenChance>(kRows * (1 + kMostLogprobs))};
  auto* state = allocate<uint8_t>(sampler_state_bytes(kVocab, kRows));
  SlotUpdates updates;
  const std::vector<int32_t> prompt(100, 5);
  for (int r = 0; r < kRows; ++r)
    updates.add(r, {.prompt = prompt,
                    .output = {},
                    .allowed = {},
                    .biases = {},
                    .stop_ids = {},
                    .bad_words = {}});
  auto* device_updates =
      upload(std::vector<SlotUpdate>(updates.updates().begin(), updates.updates().end()));
  auto* payload = upload(std::vector<int32_t>(updates.payload().begin(), updates.payload().end()));
  update_slots(kVocab, state, device_updates, kRows, payload, nullptr);
  std::printf("\nsampler, us (%% of reading the logits once), vocabulary %d\n%-28s", kVocab,
              "rows");
  for (int rows : {1, 64, 256}) std::printf("%17d", rows);
  std::printf("\n");
  int number = 0;
  const auto line = [&](const char* name, SampleRow row) {
    if (only >= 0 && only != number++) return;
    std::printf("%-28s", name);
    for (int rows : {1, 64, 256}) {
      std::vector<SampleRow> all(static_cast<size_t>(rows), row);
      for (int r = 0; r < rows; ++r) {
        all[static_cast<size_t>(r)].row = r;
        all[static_cast<size_t>(r)].seed = random();
        if (row.slot >= 0) all[static_cast<size_t>(r)].slot = r;
      }
      auto* device_rows = upload(all);
      auto* count = upload(std::vector<int32_t>{rows});
      const double us = timer.time(kChain, [&](cudaStream_t stream) {
        for (int i = 0; i < kChain; ++i) {
          sample(kVocab, device_logits, kVocab, device_rows, {count, rows}, state, work, sampled,
                 stream);
        }
      });
      std::printf("%10.1f %5.1f%%", us, 100 * 4.0 * kVocab * rows / (us * 1e-6) / bandwidth);
      cudaFree(device_rows);
      cudaFree(count);
    }
    std::printf("\n");
    std::fflush(stdout);
  };
  SampleRow row;
  row.temperature = 0;
  line("greedy", row);
  row.temperature = 1;
  line("temperature", row);
  row.top_p = 0.9f;
  line("top_p 0.9", row);
  row.top_p = 1;
  row.top_k = 50;
  line("top_k 50", row);
  row.top_p = 0.9f;
  line("top_k 50, top_p 0.9", row);
  row = {};
  row.min_p = 0.05f;
  line("min_p 0.05", row);
  row = {};
  row.logprobs = 20;
  line("temperature, 20 logprobs", row);
  row = {};
  row.slot = 0;
  row.repetition_penalty = 1.1f;
  row.uses = kUsesOutput;
  line("repetition penalty", row);
  for (void* data : std::vector<void*>{device_logits, work, state}) cudaFree(data);
}

int run(const std::string& what, const std::vector<int>& numbers) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  Timer timer;
  const bool all = what == "all";
  auto* cache = allocate<uint8_t>(kCacheBytes);
  fill_cache(cache, KvType::kBF16);
  const double bandwidth = make_cuda_meter(0)->read_bandwidth();
  std::printf("%s, %d multiprocessors, read bandwidth %.2f TB/s\n", properties.name,
              properties.multiProcessorCount, bandwidth / 1e12);
  if (all || what == "small") bench_small(timer);
  if (all || what == "sample") {
    bench_sample(timer, bandwidth, numbers.empty() ? -1 : numbers[0]);
  }
  for (int block_size : {64, 16}) {
    if (all || what == "prefill") bench_prefill(timer, cache, block_size);
  }
  for (int block_size : {64, 16}) {
    if (all || what == "decode") bench_decode(timer, cache, bandwidth, block_size);
  }
  if (what == "one") {
    const int rows = numbers.size() > 3 ? numbers[3] : 1;
    const int block_size = numbers.size() > 4 ? numbers[4] : 64;
    const std::vector<int> contexts(static_cast<size_t>(numbers.at(0)), numbers.at(1));
    AttentionBench bench(shape_of(numbers.at(2), KvType::kBF16, block_size), contexts, rows,
                         rows > 1 ? StepKind::kMixed : StepKind::kDecode, cache);
    std::printf("%.1f us\n", bench.time(timer));
  }
  return 0;
}

}  // namespace
}  // namespace moesaic::backend::cuda

int main(int argc, char** argv) {
  std::vector<int> numbers;
  for (int i = 2; i < argc; ++i) numbers.push_back(std::atoi(argv[i]));
  return moesaic::backend::cuda::run(argc > 1 ? argv[1] : "all", numbers);
}
