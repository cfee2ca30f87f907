#pragma once

// The matrix products of the CUDA backend: a plain host API over device pointers and a stream. This
// header needs no CUDA header, so host code compiles whether or not the CUDA build is on.
//
// One family serves every number of rows: weights are the M of the tensor core instruction, rows
// are its N, and K ascends in steps that the weight's shape fixes. So a row of any result has the
// same bits alone and in a batch of any size, at any position (docs/cuda.md says how).
//
// Every pointer is device memory unless it says otherwise; a null pointer is "none" where that is
// allowed. Nothing here waits for the device, allocates, or reads device memory on the host, so all
// of it can be captured in a graph. Calls that cannot be carried out throw CudaError.

#include <cstddef>
#include <cstdint>

#include "backend/cuda/cuda_error.h"

using cudaStream_t = struct CUstream_st*;

namespace moesaic::backend::cuda {

// ---------------------------------------------------------------------------------------------
// Weights

/// How packed weights are held and multiplied.
enum class Format : uint8_t {
  kBF16,        ///< bf16 weights and activations
  kFP8,         ///< e4m3 weights with one scale per output; activations stay bf16
  kFP8Rounded,  ///< the same weights; activations rounded to e4m3, a scale per row and 128 inputs
};

/// Scales of e4m3 weights as a checkpoint holds them; a value is element * scale.
enum class Scales : uint8_t {
  kNone,      ///< every scale is 1
  kTensor,    ///< one float
  kOutput,    ///< [n] floats
  kBlock128,  ///< [ceil(n / 128), ceil(k / 128)] floats
};

/// A weight matrix W [n, k]; y = x W^T.
struct LinearShape {
  int64_t n = 0;
  int64_t k = 0;
  Format format = Format::kBF16;
  Scales scales = Scales::kNone;  ///< of fp8 formats: kBlock128, or anything else for per output
};

/// The gated feed-forward weights of `experts` experts: gate, up [width, hidden], down [hidden,
/// width]. A dense FFN and a shared expert are the case experts = 1.
struct ExpertsShape {
  int64_t experts = 0;
  int64_t hidden = 0;
  int64_t width = 0;
  Format format = Format::kBF16;
  Scales scales = Scales::kNone;
};

/// Handles to packed weights; they own nothing. `packed` is 1024-byte aligned.
struct Linear {
  LinearShape shape;
  const std::byte* packed = nullptr;
};
struct Experts {
  ExpertsShape shape;
  const std::byte* packed = nullptr;
};

size_t packed_bytes(const LinearShape& shape);
size_t packed_bytes(const ExpertsShape& shape);

enum class SourceType : uint8_t { kF32, kF16, kBF16, kE4M3 };

/// Row-major weights to pack: [rows, k], `stride` elements from row to row.
struct Source {
  const void* values = nullptr;
  SourceType type = SourceType::kBF16;
  int64_t rows = 0;
  int64_t stride = 0;
  Scales scales = Scales::kNone;      ///< of kE4M3
  const float* scale_data = nullptr;  ///< null with kNone
};

/// Packs `source` as outputs [first_row, first_row + source.rows) of the matrix: parts stacked over
/// n (q, k, v) are packed one by one. Padding is written with the part that ends the matrix. Other
/// types are rounded to the format; bf16, f16 and f32 become e4m3 with a scale of amax / 448 per
/// output. With block scales `first_row` is a multiple of 128, and the source has block scales too.
void pack(const LinearShape& shape, int64_t first_row, const Source& source, std::byte* packed,
          cudaStream_t stream);
/// Packs one expert.
void pack(const ExpertsShape& shape, int64_t expert, const Source& gate, const Source& up,
          const Source& down, std::byte* packed, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------
// Rows

/// Rows of activations [rows, k] in bf16: 16-byte aligned, `stride` a multiple of 8 elements that
/// is at least k. Elements between k and the stride are not used.
struct Rows {
  const void* data = nullptr;
  int64_t rows = 0;  ///< the most there can be; fixes the launch
  int64_t stride = 0;
  const int32_t* count = nullptr;  ///< one int, the rows there are, at most `rows`; null: all
  const int32_t* index = nullptr;  ///< [rows] product row r reads data row index[r]; null: row r
};

enum class Store : uint8_t {
  kBF16,    ///< y = sum
  kF32,     ///< y = sum
  kAddF32,  ///< y += sum
};

struct Output {
  void* data = nullptr;
  int64_t stride = 0;  ///< elements
  Store store = Store::kF32;
};

/// The experts of each row, best first or in any order.
struct Routing {
  const int32_t* experts = nullptr;  ///< [rows, top_k], distinct within a row; outside [0, experts)
                                     ///< is skipped; null: all rows to expert 0, top_k = 1
  const float* weights = nullptr;    ///< [rows, top_k]; null: 1
  int64_t top_k = 1;                 ///< at most 16
};

// ---------------------------------------------------------------------------------------------
// Products

/// Which kernels run: by default those that suit the device best. The other paths exist so that
/// tests reach every kernel; the bits of one path never depend on the rows of a call, but the paths
/// may differ from each other.
enum class Path : uint8_t {
  kAuto,
  kHopper,    ///< wgmma and bulk copies: compute capability 9.0
  kPortable,  ///< mma.sync and cp.async: compute capability 8.0 and later
};

/// Overrides the choice of kernel, for tests and measurements; all choices have the same bits.
enum class Kernel : uint8_t { kAuto, kStream, kTile };
struct Tuning {
  Kernel kernel = Kernel::kAuto;
  int groups = 0;  ///< of 64 outputs in a tile: 1 or 2; 0: chosen
  int tokens = 0;  ///< rows in a tile: 64, 128 or 256, as far as the product allows; 0: chosen
};

class Products {
 public:
  /// For the device that is current; throws CudaError where it cannot run `path`.
  explicit Products(Path path = Path::kAuto);

  int multiprocessors() const { return multiprocessors_; }
  Path path() const { return path_; }
  void tune(const Tuning& tuning) { tuning_ = tuning; }

  /// y [rows, n] = x W^T + bias, with bias [n] f32 or null. `scratch` of at least
  /// linear_scratch_bytes is needed by formats that round activations only.
  void linear(const Linear& w, const Rows& x, const float* bias, const Output& y,
              std::byte* scratch, cudaStream_t stream) const;
  size_t linear_scratch_bytes(const LinearShape& shape, int64_t max_rows) const;

  /// y [rows, hidden] f32 (+)= sum over the row's experts e, in ascending e, of
  /// weight_e * down_e(silu(gate_e x) * up_e x). `x.index` must be null. `y.store` is kF32 or
  /// kAddF32. `scratch` is 1024-byte aligned and belongs to the call until the stream has passed
  /// it.
  void experts(const Experts& w, const Rows& x, const Routing& routing, const Output& y,
               std::byte* scratch, cudaStream_t stream) const;
  size_t experts_scratch_bytes(const ExpertsShape& shape, int64_t top_k, int64_t max_rows) const;

  /// The two halves of experts(), for measurements; down() follows gate_up() with the same
  /// arguments on the same stream.
  void gate_up(const Experts& w, const Rows& x, const Routing& routing, std::byte* scratch,
               cudaStream_t stream) const;
  void down(const Experts& w, const Rows& x, const Routing& routing, const Output& y,
            std::byte* scratch, cudaStream_t stream) const;

 private:
  Path path_;
  Tuning tuning_;
  int multiprocessors_ = 0;
  bool dependent_launch_ = false;  ///< programmatic dependent launch: compute capability 9.0 on
};

}  // namespace moesaic::backend::cuda
