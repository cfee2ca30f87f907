#include "backend/cuda/products/products.h"

#include <algorithm>
#include <cmath>

#include "backend/cuda/products/launch.cuh"
#include "backend/cuda/products/tile_portable.cuh"

namespace moesaic::backend::cuda {
namespace {

/// Parts of a stream product's sums beyond this leave too little for its rings.
constexpr int kMostPartBytes = 64 << 10;
constexpr int kMostPortablePartBytes = 4 << 10;

constexpr int most_part_bytes(Path path) {
  return path == Path::kHopper ? kMostPartBytes : kMostPortablePartBytes;
}

/// Rows up to which large matrices are streamed: every warp of a stream kernel reads its own rows,
/// while the outputs of a tile share them.
constexpr int64_t kFewLargeRows = 4;

int to_int(int64_t value) {
  if (value < 0 || value > INT32_MAX) throw CudaError("a size of a product is out of range");
  return static_cast<int>(value);
}

template <class Run>
void with_format(Format format, const Run& run) {
  switch (format) {
    case Format::kBF16:
      return run(BF16{});
    case Format::kFP8:
      return run(E4M3{});
    case Format::kFP8Rounded:
      return run(E4M3Rounded{});
  }
  throw CudaError("this format has no kernels");
}

/// A matrix as the kernels see it.
ProductArgs weight_args(const std::byte* packed, const PackedMatrix& matrix, int64_t n, int64_t k,
                        Format format, Scales scales, int64_t chunk) {
  ProductArgs args;
  args.weights = reinterpret_cast<const uint8_t*>(packed);
  args.scales = matrix.scales;
  args.block_scales = is_fp8(format) && scales == Scales::kBlock128;
  args.slabs = to_int(ceil_div(n, kSlabRows));
  args.tiles_n = to_int(matrix.tiles_n);
  args.tiles_k = to_int(matrix.tiles_k);
  if (args.block_scales) chunk = 0;  // its chunks are tiles, which no warp shares
  args.chunk_tiles = chunk == 0 ? args.tiles_k : to_int(chunk / tile_inputs(format));
  args.chunks = to_int(ceil_div(args.tiles_k, args.chunk_tiles));
  args.n = to_int(n);
  args.k = to_int(k);
  return args;
}

void set_rows(ProductArgs& args, const Rows& x) {
  if (x.stride % 8 != 0) throw CudaError("the stride of activations is no multiple of 8");
  args.x = static_cast<const uint8_t*>(x.data);
  args.x_stride = x.stride * 2;
  args.rows = to_int(x.rows);
  args.x_rows = x.rows;
  args.count = x.count;
  args.index = x.index;
}

void set_output(ProductArgs& args, const Output& y) {
  args.y = y.data;
  args.y_stride = y.stride;
  args.store = y.store;
}

int stream_part_bytes(const ProductArgs& args, bool always, int blocks) {
  if (!always && args.chunks == 1) return 0;
  const int64_t slabs = ceil_div(ceil_div(args.n, kSlabRows), blocks);
  const int64_t bytes = slabs * args.chunks * args.rows * args.top_k * kSlabRows * 4;
  return static_cast<int>(std::min<int64_t>(bytes, INT32_MAX));
}

/// How many rows a product has, as far as the host knows: `experts` with `rows` each, in the mean.
struct Load {
  double experts = 1;
  double rows = 1;
};

Load load_of(const ProductArgs& args) {
  if (args.ids == nullptr) return {1, static_cast<double>(args.rows)};
  const double pairs = static_cast<double>(args.rows) * args.top_k;
  const double active = args.experts * (1 - std::exp(-pairs / args.experts));
  return {active, pairs / active};
}

/// Clocks of a multiprocessor that a tile choice is expected to take: the waves of tiles, each
/// bound by what its copies or its wgmma take. The rates were measured (docs/cuda.md).
double expected_clocks(const ProductArgs& args, Format format, const Load& load,
                       const TileChoice& choice, int multiprocessors) {
  const double spread = load.experts > 1 ? std::sqrt(load.rows) : 0;
  const double need = (load.rows + spread) / choice.tokens;
  const double token_tiles = load.experts > 1 ? (need <= 1 ? 1 : need + 0.5) : std::ceil(need);
  const double output_tiles = std::ceil(static_cast<double>(args.tiles_n) / choice.groups);
  const double tiles = load.experts * token_tiles * output_tiles;
  const double busy = std::min<double>(tiles, multiprocessors);
  const double most = choice.groups == 1 ? 32.0 : 40.0;
  const double bytes_per_clock = std::min(most, 25.0 * multiprocessors / busy);
  const double rows = std::min<double>(choice.tokens, load.rows);
  // Blocks of 128 rows and more share them.
  const double own_rows = choice.tokens >= 128 ? rows / 2 : rows;
  const double bytes = choice.groups * kTileBytes + own_rows * tile_inputs(format) * 2;
  const double places = rows <= choice.tokens / 2 ? choice.tokens / 2 : choice.tokens;
  const double wgmma = choice.groups * places * tile_inputs(format) / 32.0 / 0.85;
  const double tile =
      args.tiles_k * std::max(bytes / bytes_per_clock, wgmma) + 1500 + 10.0 * choice.tokens;
  const double waves = tiles / multiprocessors;
  if (wgmma * bytes_per_clock > bytes) return std::ceil(waves) * tile;
  // What the memory bounds takes less than its waves say: the last blocks have it to themselves.
  // But rows that must be put in order first, and clusters, cost there.
  return std::max(1.0, waves + 0.2) * tile * (choice.tokens >= 128 ? 1.1 : 1.0);
}

/// `tokens` is fixed where it is not 0.
TileChoice choose_tile(const ProductArgs& args, Format format, int tokens, const Tuning& tuning,
                       int multiprocessors) {
  constexpr TileChoice kChoices[] = {{1, 64}, {2, 64}, {2, 128}, {2, 256}};
  const bool chunks = format != Format::kFP8Rounded && (args.chunks > 1 || args.block_scales);
  const Load load = load_of(args);
  TileChoice best;
  double least = HUGE_VAL;
  for (const TileChoice& choice : kChoices) {
    if (choice.tokens == 256 && (is_fp8(format) || chunks)) continue;
    if (choice.tokens == 128 && is_fp8(format) && chunks) continue;  // too few registers
    if (args.index != nullptr && choice.tokens > 64) continue;       // gathered
    if (tokens != 0 && tokens != choice.tokens) continue;
    // Clusters and rows in order pay where rows are many.
    if (tokens == 0 && tuning.tokens == 0 && choice.tokens > 64 && load.rows <= 48) continue;
    double clocks = expected_clocks(args, format, load, choice, multiprocessors);
    // Wishes only.
    if (tuning.groups != 0 && tuning.groups != choice.groups) clocks *= 1e3;
    if (tuning.tokens != 0 && tuning.tokens != choice.tokens) clocks *= 1e6;
    if (clocks < least) {
      least = clocks;
      best = choice;
    }
  }
  if (least == HUGE_VAL) throw CudaError("no tile suits this product");
  return best;
}

/// The device and the settings that a product runs with.
struct Runner {
  Path path;
  Tuning tuning;
  int multiprocessors;
  Launch launch;

  template <class F>
  void stream(const ProductArgs& args, Role role, int part_bytes) const {
    if constexpr (F::kRounded) {
      throw CudaError("rounded activations have no stream kernel");
    } else {
      launch_stream<F>(args, role, path == Path::kHopper, multiprocessors, part_bytes, launch);
    }
  }
  template <class F>
  void tiles(ProductArgs args, Format format, bool silu, int tokens) const {
    if (path != Path::kHopper) {
      if constexpr (!F::kRounded) {
        return launch_portable_tiles<F>(args, silu, multiprocessors, launch);
      }
      throw CudaError("rounded activations need compute capability 9.0");
    }
    const TileChoice choice = choose_tile(args, format, tokens, tuning, multiprocessors);
    args.stream_once = load_of(args).rows <= choice.tokens;
    launch_tiles<F>(args, silu, choice, multiprocessors, launch);
  }
};

/// Rounded rows in scratch memory.
struct RoundedRows {
  int64_t row_bytes = 0;
  int64_t scale_stride = 0;
  size_t bytes = 0;  ///< rows, then scales
  size_t scales = 0;

  RoundedRows(int64_t rows, int64_t k) {
    row_bytes = round_up(k, 128);
    scale_stride = round_up(rows, 4);
    scales = static_cast<size_t>(round_up(rows * row_bytes, kPackedAlignment));
    // A tile copies the scales of all its places, the last one's past the rows.
    constexpr int64_t kBeyond = 256 + 4;
    bytes = scales + static_cast<size_t>(round_up((scale_stride * (row_bytes / 128) + kBeyond) * 4,
                                                  kPackedAlignment));
  }
};

/// Rounds the rows of a product to e4m3 ahead of it, in the plan's order; `rows` there can be.
void round_rows(ProductArgs& args, int64_t rows, std::byte* memory, const Launch& launch) {
  const RoundedRows layout(rows, args.k);
  RoundArgs round;
  round.from = args.x;
  round.from_stride = args.x_stride;
  round.to = reinterpret_cast<uint8_t*>(memory);
  round.scales = reinterpret_cast<float*>(memory + layout.scales);
  round.scale_stride = layout.scale_stride;
  round.rows = to_int(rows);
  round.product = args;
  launch.run(round_kernel, dim3(static_cast<unsigned>(rows)), 256, 0, 1, round);
  args.x = round.to;
  args.x_stride = layout.row_bytes;
  args.x_rows = rows;
  args.x_scales = round.scales;
  args.x_scale_stride = layout.scale_stride;
  args.x_in_order = true;
  args.index = nullptr;
}

/// Where the pieces of an experts() call lie in its scratch, in bytes.
struct Scratch {
  int64_t h_stride = 0;      ///< elements
  int64_t value_stride = 0;  ///< elements
  size_t h = 0;              ///< bf16 [pairs, h_stride]
  size_t values = 0;         ///< bf16 [pairs, value_stride]
  size_t first = 0;
  size_t tiles = 0;
  size_t pairs = 0;
  size_t x = 0;  ///< bf16 [pairs, x_stride], rows in the plan's order
  int64_t x_stride = 0;
  size_t rounded = 0;  ///< x, then h
  size_t bytes = 0;

  Scratch(const ExpertsShape& shape, int64_t top_k, int64_t rows)
      : h_stride(round_up(shape.width, 64)), value_stride(round_up(shape.hidden, 8)) {
    const int64_t count = rows * top_k;
    auto place = [this](int64_t size) {
      const size_t at = bytes;
      bytes += static_cast<size_t>(round_up(size, kPackedAlignment));
      return at;
    };
    h = place(count * h_stride * 2);
    first = place((shape.experts + 1) * 4);
    tiles = place((shape.experts + 1) * 4);
    pairs = place(count * 4);
    values = place(count * value_stride * 2);
    x_stride = round_up(shape.hidden, 8);
    x = values;  // done with before the down product writes its values there
    bytes = std::max(bytes, x + static_cast<size_t>(count * x_stride * 2));
    if (shape.format == Format::kFP8Rounded) {
      bytes = static_cast<size_t>(round_up(static_cast<int64_t>(bytes), kPackedAlignment));
      rounded = bytes;
      bytes +=
          std::max(RoundedRows(count, shape.hidden).bytes, RoundedRows(count, shape.width).bytes);
    }
  }
};

/// One experts() call as both halves see it.
struct ExpertsCall {
  ProductArgs gate_up;
  ProductArgs down;
  Scratch scratch;
  bool stream_up = false;  ///< whose h lies by pair
  bool stream_down = false;
  int tokens = 0;            ///< rows of a tile; 0: each product chooses
  bool copies_rows = false;  ///< x is brought into the plan's order first

  ExpertsCall(const Experts& w, const Rows& x, const Routing& routing, std::byte* memory, Path path,
              const Tuning& tuning, int multiprocessors)
      : scratch(w.shape, routing.top_k, x.rows) {
    const ExpertsShape& shape = w.shape;
    if (shape.experts > kMaxExperts) throw CudaError("more than 512 experts");
    if (routing.top_k < 1 || routing.top_k > kMaxTopK) throw CudaError("top_k is not in [1, 16]");
    if (routing.experts == nullptr && (routing.top_k != 1 || shape.experts != 1)) {
      throw CudaError("routing without experts is for one expert");
    }
    if (x.index != nullptr) throw CudaError("experts() takes no row index");
    const PackedExpert packed(shape);
    gate_up = weight_args(w.packed, packed.gate_up, 2 * round_up(shape.width, 8), shape.hidden,
                          shape.format, shape.scales, 0);
    down = weight_args(w.packed + packed.gate_up.bytes, packed.down, shape.hidden, shape.width,
                       shape.format, shape.scales,
                       chunk_inputs(shape.hidden, shape.width, shape.experts > 1, shape.format));
    set_rows(gate_up, x);
    for (ProductArgs* args : {&gate_up, &down}) {
      args->expert_bytes = packed.bytes();
      args->rows = to_int(x.rows);
      args->count = x.count;
      args->ids = routing.experts;
      args->route_weights = routing.weights;
      args->top_k = to_int(routing.top_k);
      args->experts = to_int(shape.experts);
    }
    if (routing.top_k > 1) {
      gate_up.x_reciprocal = static_cast<uint32_t>(ceil_div(int64_t{1} << 32, routing.top_k));
    }
    gate_up.y = memory + scratch.h;
    gate_up.y_stride = scratch.h_stride;
    gate_up.store = Store::kBF16;
    down.x = reinterpret_cast<const uint8_t*>(memory + scratch.h);
    down.x_stride = scratch.h_stride * 2;
    down.x_rows = x.rows * routing.top_k;
    down.x_in_order = true;

    const bool few = tuning.kernel != Kernel::kTile && shape.format != Format::kFP8Rounded &&
                     x.rows <= kStreamRows;
    stream_down = few && stream_part_bytes(down, true, multiprocessors) <= most_part_bytes(path);
    // Gate and up of large experts have outputs enough for tiles, which share their rows.
    const bool large = int64_t{gate_up.tiles_n} * gate_up.tiles_k * kTileBytes > (64 << 20);
    stream_up = stream_down && (tuning.kernel == Kernel::kStream || !large);
    gate_up.h_by_pair = stream_down && !stream_up;
    if (stream_up || routing.experts == nullptr) return;
    tokens = path == Path::kHopper
                 ? choose_tile(gate_up, shape.format, 0, tuning, multiprocessors).tokens
                 : PortableTile<BF16>::kTokens;
    if (shape.format != Format::kFP8Rounded && (down.chunks > 1 || down.block_scales)) {
      tokens = std::min(tokens, is_fp8(shape.format) ? 64 : 128);
    }
    // Gathering while multiplying is slower than a copy of the rows in order, which is not worth
    // its launch where the weights set the pace.
    copies_rows = path == Path::kHopper && tokens > 64 && shape.format != Format::kFP8Rounded;
    const Plan plan{reinterpret_cast<const int32_t*>(memory + scratch.first),
                    reinterpret_cast<const int32_t*>(memory + scratch.tiles),
                    reinterpret_cast<const int32_t*>(memory + scratch.pairs)};
    gate_up.plan = plan;
    if (!stream_down) down.plan = plan;
  }
};

}  // namespace

size_t packed_bytes(const LinearShape& shape) {
  return static_cast<size_t>(PackedMatrix(shape.n, shape.k, shape.format, shape.scales).bytes);
}
size_t packed_bytes(const ExpertsShape& shape) {
  return static_cast<size_t>(PackedExpert(shape).bytes() * shape.experts);
}

Products::Products(Path path) : path_(path) {
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "properties of the device");
  multiprocessors_ = properties.multiProcessorCount;
  dependent_launch_ = properties.major >= 9;
  if (properties.major < 8) throw CudaError("compute capability 8.0 or later is needed");
  const bool hopper = properties.major == 9 && properties.minor == 0;
  if (path_ == Path::kAuto) path_ = hopper ? Path::kHopper : Path::kPortable;
  if (path_ == Path::kHopper && !hopper) {
    throw CudaError("the device is not of compute capability 9.0");
  }
}

void Products::linear(const Linear& w, const Rows& x, const float* bias, const Output& y,
                      std::byte* scratch, cudaStream_t stream) const {
  if (x.rows == 0) return;
  const LinearShape& shape = w.shape;
  const PackedMatrix packed(shape.n, shape.k, shape.format, shape.scales);
  ProductArgs args = weight_args(w.packed, packed, shape.n, shape.k, shape.format, shape.scales,
                                 chunk_inputs(shape.n, shape.k, false, shape.format));
  set_rows(args, x);
  set_output(args, y);
  args.bias = bias;
  const Runner run{path_, tuning_, multiprocessors_, {stream, dependent_launch_}};
  const int parts = stream_part_bytes(args, false, multiprocessors_);
  const bool few = x.rows <= (args.chunks > 1 ? kStreamRows : kFewLargeRows);
  const bool can_stream = x.rows <= kStreamRows && parts <= most_part_bytes(path_) &&
                          shape.format != Format::kFP8Rounded;
  const bool wants_stream =
      tuning_.kernel == Kernel::kAuto ? few : tuning_.kernel == Kernel::kStream;
  const bool streams = can_stream && wants_stream;
  if (!streams && shape.format == Format::kFP8Rounded) {
    round_rows(args, x.rows, scratch, run.launch);
  }
  with_format(shape.format, [&](auto format) {
    using F = decltype(format);
    if (streams) {
      run.stream<F>(args, Role::kLinear, parts);
    } else {
      run.tiles<F>(args, shape.format, false, 0);
    }
  });
}

size_t Products::linear_scratch_bytes(const LinearShape& shape, int64_t max_rows) const {
  return shape.format == Format::kFP8Rounded ? RoundedRows(max_rows, shape.k).bytes : 0;
}

size_t Products::experts_scratch_bytes(const ExpertsShape& shape, int64_t top_k,
                                       int64_t max_rows) const {
  return Scratch(shape, top_k, max_rows).bytes;
}

void Products::gate_up(const Experts& w, const Rows& x, const Routing& routing, std::byte* scratch,
                       cudaStream_t stream) const {
  if (x.rows == 0) return;
  ExpertsCall call(w, x, routing, scratch, path_, tuning_, multiprocessors_);
  const Runner run{path_, tuning_, multiprocessors_, {stream, dependent_launch_}};
  if (!call.stream_up && routing.experts != nullptr) {
    const int pairs = to_int(x.rows * routing.top_k);
    PlanArgs plan;
    plan.ids = routing.experts;
    plan.rows = to_int(x.rows);
    plan.count = x.count;
    plan.top_k = to_int(routing.top_k);
    plan.experts = to_int(w.shape.experts);
    plan.tokens = call.tokens;
    plan.first = reinterpret_cast<int32_t*>(scratch + call.scratch.first);
    plan.tiles = reinterpret_cast<int32_t*>(scratch + call.scratch.tiles);
    plan.pairs = reinterpret_cast<int32_t*>(scratch + call.scratch.pairs);
    const int threads = std::clamp(to_int(round_up(pairs, 32)), 64, kPlanThreads);
    run.launch.run(plan_kernel, dim3(static_cast<unsigned>(plan.experts)), threads, 0, 1, plan);
    if (call.copies_rows) {
      ProductArgs& args = call.gate_up;
      GatherArgs gather;
      gather.from = args.x;
      gather.from_stride = args.x_stride;
      gather.to = reinterpret_cast<uint8_t*>(scratch + call.scratch.x);
      gather.to_stride = call.scratch.x_stride * 2;
      gather.bytes = to_int(round_up(w.shape.hidden, 8) * 2);
      gather.product = args;
      run.launch.run(gather_kernel, dim3(static_cast<unsigned>(ceil_div(pairs, 8))), 256, 0, 1,
                     gather);
      args.x = gather.to;
      args.x_stride = gather.to_stride;
      args.x_rows = pairs;
      args.x_in_order = true;
    }
  }
  if (!call.stream_up && w.shape.format == Format::kFP8Rounded) {
    round_rows(call.gate_up, x.rows * routing.top_k, scratch + call.scratch.rounded, run.launch);
  }
  with_format(w.shape.format, [&](auto format) {
    using F = decltype(format);
    if (call.stream_up) {
      run.stream<F>(call.gate_up, Role::kGateUp, 0);
    } else {
      run.tiles<F>(call.gate_up, w.shape.format, true, call.tokens);
    }
  });
}

void Products::down(const Experts& w, const Rows& x, const Routing& routing, const Output& y,
                    std::byte* scratch, cudaStream_t stream) const {
  if (x.rows == 0) return;
  if (y.store == Store::kBF16) throw CudaError("the experts' output is f32");
  ExpertsCall call(w, x, routing, scratch, path_, tuning_, multiprocessors_);
  ProductArgs& args = call.down;
  const Runner run{path_, tuning_, multiprocessors_, {stream, dependent_launch_}};
  set_output(args, y);
  const bool direct = call.stream_down || routing.experts == nullptr;
  if (!call.stream_down) args.weigh = direct && routing.weights != nullptr;
  if (!call.stream_down && w.shape.format == Format::kFP8Rounded) {
    round_rows(args, x.rows * routing.top_k, scratch + call.scratch.rounded, run.launch);
  }
  const ProductArgs out = args;
  if (!direct) {
    args.y = scratch + call.scratch.values;
    args.y_stride = call.scratch.value_stride;
    args.store = Store::kBF16;
  }
  with_format(w.shape.format, [&](auto format) {
    using F = decltype(format);
    if (call.stream_down) {
      run.stream<F>(args, Role::kDown, stream_part_bytes(args, true, multiprocessors_));
    } else {
      run.tiles<F>(args, w.shape.format, false, call.tokens);
    }
  });
  if (direct) return;
  CombineArgs combine;
  combine.values = static_cast<const __nv_bfloat16*>(args.y);
  combine.stride = args.y_stride;
  combine.ids = routing.experts;
  combine.weights = routing.weights;
  combine.top_k = to_int(routing.top_k);
  combine.experts = to_int(w.shape.experts);
  combine.out = out;
  run.launch.run(
      combine_kernel,
      dim3(static_cast<unsigned>(x.rows), static_cast<unsigned>(ceil_div(args.n, kCombineOutputs))),
      256, 0, 1, combine);
}

void Products::experts(const Experts& w, const Rows& x, const Routing& routing, const Output& y,
                       std::byte* scratch, cudaStream_t stream) const {
  gate_up(w, x, routing, scratch, stream);
  down(w, x, routing, y, scratch, stream);
}

}  // namespace moesaic::backend::cuda
