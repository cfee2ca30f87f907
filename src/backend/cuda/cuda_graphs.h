#pragma once

// Steps as graphs: a decode step is some hundred kernels, which the device starts from a graph in
// a fraction of the time that the host needs to start them one by one.

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "backend/cuda/cuda_memory.h"
#include "backend/ops.h"

namespace moesaic::backend::cuda {

/// An operator of a step that has been asked for and not been started. What it points to is its
/// caller's and outlives the step.
struct Operator {
  enum class Kind : uint8_t {
    kEmbed,
    kAttentionIn,
    kAttention,
    kAttentionOut,
    kFfnIn,
    kFfn,
    kHead
  };
  Kind kind;
  const void* weights;  ///< Matrix, AttentionWeights, AttentionDesc, FfnWeights or HeadWeights
  KvLayer cache;

  template <typename T>
  const T& as() const {
    return *static_cast<const T*>(weights);
  }
  /// Whether the same kernels over the same memory are meant.
  bool operator==(const Operator& other) const {
    return kind == other.kind && weights == other.weights && cache.data == other.cache.data;
  }
};

/// What the kernels of a step are started with, beside their operators: upper bounds, since the
/// numbers themselves are read on the device.
struct StepBounds {
  int64_t rows = 0;
  int64_t max_blocks = 0;
  int64_t logit_rows = 0;
  bool operator==(const StepBounds&) const = default;
};

/// The rows that a graph for `rows` rows serves: the next of 1, 2, 4, 8, 16, 24, ... 64, 80, ...
/// 256, 288, ...
int64_t graph_rows(int64_t rows);
/// The columns of block tables in a graph for tables of `blocks` columns.
int64_t graph_blocks(int64_t blocks);

class StepGraphs {
 public:
  /// Launches the graph of these operators within these bounds, made first by `start`, which starts
  /// them on the stream, where there is none yet.
  void launch(const StepBounds& bounds, const std::vector<Operator>& operators,
              const Stream& stream, const std::function<void()>& start);

  /// Forgets all of them: memory that they use is elsewhere now. None may be under way.
  void clear() { graphs_.clear(); }

 private:
  struct Graph {
    Graph() = default;
    ~Graph() { cudaGraphExecDestroy(exec); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    StepBounds bounds;
    std::vector<Operator> operators;
    cudaGraphExec_t exec = nullptr;
  };
  std::vector<std::unique_ptr<Graph>> graphs_;
};

}  // namespace moesaic::backend::cuda
