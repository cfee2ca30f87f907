#include "backend/cuda/cuda_graphs.h"

#include <algorithm>
#include <bit>

namespace moesaic::backend::cuda {
namespace {

/// More than the row counts and lengths of a server come to; each is some megabytes.
constexpr size_t kMostGraphs = 128;
constexpr int64_t kLeastBlocks = 16;

int64_t up_to(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// What is started on a stream while this lives goes into a graph.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a step");
  }
  ~Capture() {
    if (graph_ == nullptr) cudaStreamEndCapture(stream_, &graph_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  cudaGraphExec_t end() {
    check(cudaStreamEndCapture(stream_, &graph_), "capturing a step");
    cudaGraphExec_t exec = nullptr;
    check(cudaGraphInstantiate(&exec, graph_, 0), "cudaGraphInstantiate");
    return exec;
  }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
};

}  // namespace

int64_t graph_rows(int64_t rows) {
  if (rows <= 8) return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
  if (rows <= 64) return up_to(rows, 8);
  return rows <= 256 ? up_to(rows, 16) : up_to(rows, 32);
}

int64_t graph_blocks(int64_t blocks) {
  return std::max(kLeastBlocks, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(blocks))));
}

void StepGraphs::launch(const StepBounds& bounds, const std::vector<Operator>& operators,
                        const Stream& stream, const std::function<void()>& start) {
  auto found = std::find_if(graphs_.begin(), graphs_.end(), [&](const auto& graph) {
    return graph->bounds == bounds && graph->operators == operators;
  });
  if (found == graphs_.end()) {
    if (graphs_.size() == kMostGraphs) {
      stream.synchronize();
      clear();
    }
    auto graph = std::make_unique<Graph>();
    graph->bounds = bounds;
    graph->operators = operators;
    Capture capture(stream.get());
    start();
    graph->exec = capture.end();
    graphs_.push_back(std::move(graph));
    found = std::prev(graphs_.end());
  }
  check(cudaGraphLaunch((*found)->exec, stream.get()), "cudaGraphLaunch");
}

}  // namespace moesaic::backend::cuda
