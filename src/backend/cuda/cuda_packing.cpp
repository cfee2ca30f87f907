#include "backend/cuda/cuda_packing.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/dummy.h"
#include "backend/cuda/products/split.h"
#include "base/error.h"
#include "tensor/dtype.h"

namespace moesaic::backend::cuda {
namespace {

constexpr int kLanes = 8;
constexpr size_t kHostBytes = size_t{8} << 20;
/// Source bytes of a unit of a matrix, about.
constexpr int64_t kUnitBytes = int64_t{64} << 20;
constexpr int64_t kTile = 64;  ///< rows that the layout keeps together

int64_t up_to(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int64_t rows_of_unit(const MatrixDesc& desc) {
  // Parts lie one after the other, and scales after all rows.
  if (is_split(desc) || !desc.format.plain()) return desc.n;
  return std::max(kTile, kUnitBytes / (desc.k * 2) / kTile * kTile);
}

SourceType type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return SourceType::kF32;
    case DType::kF16:
      return SourceType::kF16;
    default:
      MOESAIC_ASSERT(dtype == DType::kBF16);
      return SourceType::kBF16;
  }
}

/// The type that a part's values travel in: dummy ones are made on the device, as what they
/// are packed as, and what is not stored plain is unpacked on the way.
DType travel_type(const SourcePart& part) {
  if (part.dummy()) return DType::kBF16;
  return part.format != nullptr ? DType::kF32 : part.part.values.dtype;
}

/// Rows [first, first + rows) of a part that is not dummy, `cols` each, into `to`.
void copy_rows(const SourcePart& part, int64_t first, int64_t rows, int64_t cols, std::byte* to) {
  if (part.format != nullptr) {
    auto* values = reinterpret_cast<float*>(to);
    for (int64_t row = 0; row < rows; ++row) read_row(part, first + row, cols, values + row * cols);
    return;
  }
  const size_t bytes = static_cast<size_t>(cols) * tensor::size_of(part.part.values.dtype);
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(to + static_cast<size_t>(row) * bytes, part.plain_row(first + row), bytes);
  }
}

}  // namespace

Format format_of(const WeightFormat& format) {
  if (format.base != DType::kF8E4M3) return Format::kBF16;
  static const bool rounded = is_hopper();
  return rounded ? Format::kFP8Rounded : Format::kFP8;
}

LinearShape shape_of(const MatrixDesc& desc) {
  return {.n = is_split(desc) ? kSplitParts * desc.n : desc.n,
          .k = desc.k,
          .format = format_of(desc.format)};
}

ExpertsShape shape_of(const ExpertsDesc& desc) {
  return {.experts = desc.experts,
          .hidden = desc.hidden,
          .width = desc.width,
          .format = format_of(desc.format)};
}

class Packing::Lane {
 public:
  Lane() : host_(2 * kHostBytes) {}

  /// Makes room for the sources of a unit.
  void begin(size_t bytes) {
    used_ = 0;
    if (device_.size() >= bytes) return;
    device_ = {};
    device_ = DeviceMemory(bytes);
  }

  /// Rows [first, first + rows) of a part in device memory, until the next begin().
  Source bring(const SourcePart& part, int64_t first, int64_t rows, int64_t cols) {
    const DType dtype = travel_type(part);
    const size_t row_bytes = static_cast<size_t>(cols) * tensor::size_of(dtype);
    std::byte* const place = device_.data() + used_;
    used_ += static_cast<size_t>(up_to(static_cast<int64_t>(row_bytes) * rows, 256));
    MOESAIC_ASSERT(used_ <= device_.size());
    const Source source{.values = place, .type = type_of(dtype), .rows = rows, .stride = cols};
    if (part.dummy()) {
      fill_dummy(part.seed, part.first_row + first, rows, part.first_col, cols,
                 reinterpret_cast<__nv_bfloat16*>(place), stream_.get());
      return source;
    }
    MOESAIC_ASSERT(row_bytes <= kHostBytes);
    const auto most = static_cast<int64_t>(kHostBytes / row_bytes);
    for (int64_t done = 0; done < rows; done += most) {
      // Two halves in turn: one is filled while the other travels.
      const int64_t count = std::min(most, rows - done);
      const auto bytes = static_cast<size_t>(count) * row_bytes;
      std::byte* const half = host_.as(turn_ * kHostBytes);
      arrived_[turn_].wait();
      copy_rows(part, first + done, count, cols, half);
      check(cudaMemcpyAsync(place + static_cast<size_t>(done) * row_bytes, half, bytes,
                            cudaMemcpyHostToDevice, stream_.get()),
            "copying weights");
      arrived_[turn_].record(stream_);
      turn_ = 1 - turn_;
    }
    return source;
  }

  const Stream& stream() const { return stream_; }

 private:
  Stream stream_;
  PinnedMemory host_;
  Event arrived_[2];
  size_t turn_ = 0;
  DeviceMemory device_;
  size_t used_ = 0;
};

/// A lane while a thread has it. When nobody has any more they all go, with their memory.
class Packing::Lease {
 public:
  explicit Lease(Packing& packing) : packing_(packing) {
    check(cudaSetDevice(packing.device_), "cudaSetDevice");
    std::unique_lock lock(packing_.mutex_);
    packing_.returned_.wait(lock, [&] { return packing_.leased_ < kLanes; });
    ++packing_.leased_;
    if (packing_.idle_.empty()) return;
    lane_ = std::move(packing_.idle_.back());
    packing_.idle_.pop_back();
  }
  ~Lease() {
    std::vector<std::unique_ptr<Lane>> unused;
    {
      const std::lock_guard lock(packing_.mutex_);
      if (lane_) packing_.idle_.push_back(std::move(lane_));
      if (--packing_.leased_ == 0) unused.swap(packing_.idle_);
    }
    packing_.returned_.notify_one();
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  Lane& lane() {
    if (!lane_) lane_ = std::make_unique<Lane>();
    return *lane_;
  }

 private:
  Packing& packing_;
  std::unique_ptr<Lane> lane_;
};

Packing::Packing(int device) : device_(device) {}

Packing::~Packing() = default;

int64_t Packing::units(const MatrixDesc& desc) {
  const int64_t rows = rows_of_unit(desc);
  return (desc.n + rows - 1) / rows;
}

PackUnit Packing::unit(const MatrixDesc& desc, int64_t index) {
  const size_t all = bytes(desc);
  const int64_t count = units(desc);
  if (count == 1) return {0, all};
  const size_t each = packed_bytes(LinearShape{.n = rows_of_unit(desc), .k = desc.k});
  const size_t offset = static_cast<size_t>(index) * each;
  return {offset, index + 1 == count ? all - offset : each};
}

PackUnit Packing::unit(const ExpertsDesc& desc, int64_t index) {
  const size_t each = bytes(desc) / static_cast<size_t>(desc.experts);
  return {static_cast<size_t>(index) * each, each};
}

void Packing::pack_split(const MatrixDesc& desc, const MatrixSource& source, std::byte* to) const {
  const auto count = static_cast<size_t>(desc.n * desc.k);
  std::vector<tensor::BF16> values(kSplitParts * count);
  std::vector<float> input(static_cast<size_t>(desc.k));
  size_t at = 0;
  for (const SourcePart& part : source.parts) {
    for (int64_t row = 0; row < part.rows; ++row) {
      read_row(part, row, desc.k, input.data());
      for (const float value : input) {
        const auto split = split_f32(value);
        for (size_t i = 0; i < split.size(); ++i) values[i * count + at] = split[i];
        ++at;
      }
    }
  }
  check(cudaSetDevice(device_), "cudaSetDevice");
  const Stream stream;
  const size_t bytes = values.size() * sizeof(tensor::BF16);
  const DeviceMemory memory(bytes);
  check(cudaMemcpyAsync(memory.data(), values.data(), bytes, cudaMemcpyHostToDevice, stream.get()),
        "copying weights");
  const LinearShape shape = shape_of(desc);
  cuda::pack(
      shape, 0,
      {.values = memory.data(), .type = SourceType::kBF16, .rows = shape.n, .stride = shape.k}, to,
      stream.get());
  stream.synchronize();
}

void Packing::pack(const MatrixDesc& desc, const MatrixSource& source, int64_t unit,
                   std::byte* to) {
  if (is_split(desc)) return pack_split(desc, source, to);
  Lease lease(*this);
  Lane& lane = lease.lane();
  const int64_t first = unit * rows_of_unit(desc);
  const int64_t end = std::min(desc.n, first + rows_of_unit(desc));
  size_t bytes = 0;
  for (const SourcePart& part : source.parts) {
    bytes += static_cast<size_t>(up_to(
        (end - first) * desc.k * static_cast<int64_t>(tensor::size_of(travel_type(part))), 256));
  }
  lane.begin(bytes);
  int64_t at = 0;  // of the part among the stacked rows
  for (const SourcePart& part : source.parts) {
    const int64_t from = std::max(first, at);
    const int64_t rows = std::min(end, at + part.rows) - from;
    if (rows > 0) {
      const Source values = lane.bring(part, from - at, rows, desc.k);
      cuda::pack(shape_of(desc), from, values, to, lane.stream().get());
    }
    at += part.rows;
  }
  lane.stream().synchronize();
}

void Packing::pack(const ExpertsDesc& desc, const ExpertsSource& source, int64_t unit,
                   std::byte* to) {
  Lease lease(*this);
  Lane& lane = lease.lane();
  const auto e = static_cast<size_t>(unit);
  size_t bytes = 0;
  for (const SourcePart* part : {&source.gate[e], &source.up[e], &source.down[e]}) {
    bytes += static_cast<size_t>(up_to(
        desc.width * desc.hidden * static_cast<int64_t>(tensor::size_of(travel_type(*part))), 256));
  }
  lane.begin(bytes);
  const Source gate = lane.bring(source.gate[e], 0, desc.width, desc.hidden);
  const Source up = lane.bring(source.up[e], 0, desc.width, desc.hidden);
  const Source down = lane.bring(source.down[e], 0, desc.hidden, desc.width);
  cuda::pack(shape_of(desc), unit, gate, up, down, to, lane.stream().get());
  lane.stream().synchronize();
}

}  // namespace moesaic::backend::cuda
