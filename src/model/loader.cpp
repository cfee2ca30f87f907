#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/truncation_guard.h"
#include "model/loader_sources.h"
#include "model/prepared_cache.h"
#include "model/weights.h"

namespace moesaic::model {
namespace {

using tensor::View;

// Vectors and routers are below this; larger matrices are not searched for NaN.
constexpr int64_t kFiniteCheckElements = int64_t{4} << 20;

/// Tells the kernel what becomes of a view's pages in the mapped file.
void advise(const View& view, int advice) {
  if (view.extent() == 0) return;
  static const auto kPage = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const size_t into_page = reinterpret_cast<uintptr_t>(view.data) % kPage;
  auto* begin = const_cast<std::byte*>(view.data) - into_page;
  // Advice may fail; loading is then slower or larger, not wrong.
  ::madvise(begin, view.extent() + into_page, advice);
}

bool aligned(const View& view) {
  return reinterpret_cast<uintptr_t>(view.data) % tensor::size_of(view.dtype) == 0;
}

/// Packs all items into the buffer, unit by unit on the pool's threads.
class Packer {
 public:
  Packer(backend::Backend& backend, base::ThreadPool& pool, std::vector<ItemSource> sources,
         const backend::Buffer& buffer, const LoadProgress& progress)
      : backend_(backend), pool_(pool), buffer_(buffer), progress_(progress) {
    for (ItemSource& source : sources) {
      auto job = std::make_unique<Job>();
      job->first_task = tasks_;
      measure(source.item, *job);
      job->left = job->units;
      job->source = std::move(source);
      if (job->source.item.vector != nullptr) {
        vectors_.push_back(std::move(job));
        continue;
      }
      tasks_ += job->units;
      jobs_.push_back(std::move(job));
    }
  }

  void run() {
    for (const auto& job : vectors_) write_vector(*job);
    if (!jobs_.empty()) read_ahead(0);
    pool_.parallel_for(tasks_, [this](int64_t task, int) {
      if (failed_) return;
      try {
        pack(task);
      } catch (...) {
        const std::lock_guard lock(failure_mutex_);
        if (!failed_.exchange(true)) failure_ = std::current_exception();
      }
    });
    if (failure_) std::rethrow_exception(failure_);
    if (progress_) progress_(buffer_.size(), buffer_.size());
  }

 private:
  /// One item's packing.
  struct Job {
    ItemSource source;
    int64_t first_task = 0;
    int64_t units = 1;
    uint64_t bytes = 0;
    std::atomic<int64_t> left = 0;
    std::once_flag prepared;
    std::vector<std::unique_ptr<std::byte[]>> copies;  ///< of parts that lay misaligned in the file
  };

  void measure(const WeightItem& item, Job& job) const {
    if (item.matrix != nullptr) {
      job.bytes = packed_bytes(backend_, *item.matrix);
      job.units = backend_.pack_units(item.matrix->desc);
    } else if (item.experts != nullptr) {
      job.bytes = packed_bytes(backend_, *item.experts);
      job.units = backend_.pack_units(item.experts->desc);
    } else {
      job.bytes = packed_bytes(backend_, *item.vector);
    }
    MOESAIC_ASSERT(static_cast<uint64_t>(item.offset) + job.bytes <= buffer_.size());
  }

  void pack(int64_t task) {
    const auto next =
        std::upper_bound(jobs_.begin(), jobs_.end(), task,
                         [](int64_t wanted, const auto& job) { return wanted < job->first_task; });
    const auto index = static_cast<size_t>(next - jobs_.begin()) - 1;
    Job& job = *jobs_[index];
    const int64_t unit = task - job.first_task;
    if (unit == 0) read_ahead(index + 1);
    std::call_once(job.prepared, [&] { align(job); });
    pack_unit(job, unit);
    report(unit_bytes(job.source.item, unit));
    if (--job.left == 0) release(job);
  }

  uint64_t unit_bytes(const WeightItem& item, int64_t unit) const {
    return item.matrix != nullptr ? backend_.pack_unit(item.matrix->desc, unit).bytes
                                  : backend_.pack_unit(item.experts->desc, unit).bytes;
  }

  void pack_unit(Job& job, int64_t unit) {
    const WeightItem& item = job.source.item;
    const backend::Address destination = buffer_.address() + static_cast<size_t>(item.offset);
    if (item.matrix != nullptr) {
      backend_.pack(item.matrix->desc, job.source.matrix, unit, destination);
    } else {
      backend_.pack(item.experts->desc, job.source.experts, unit, destination);
    }
  }

  void write_vector(Job& job) {
    align(job);
    const VectorItem& item = *job.source.item.vector;
    std::vector<float> values;
    values.reserve(static_cast<size_t>(item.size()));
    for (size_t i = 0; i < job.source.vector.size(); ++i) {
      // A vector is a matrix of one column.
      backend::SourcePart column;
      column.part.values = job.source.vector[i];
      column.rows = column.part.values.elements();
      column.part.values.shape = {column.rows, 1};
      column.paired_rows = item.slices[i].paired_rows;
      for (int64_t row = 0; row < column.rows; ++row) {
        read_row(column, row, 1, &values.emplace_back());
      }
    }
    values.resize(static_cast<size_t>(item.size()), item.dummy);
    backend_.write(buffer_.address() + static_cast<size_t>(job.source.item.offset),
                   std::as_bytes(std::span(values)));
    report(job.bytes);
    release(job);
  }

  /// A safetensors header may have any length, so its data may start at an odd byte; backends read
  /// elements where they lie and need them aligned.
  static void align(Job& job) {
    for (View* view : job.source.views()) {
      if (aligned(*view)) continue;
      job.copies.push_back(std::make_unique<std::byte[]>(view->extent()));
      std::memcpy(job.copies.back().get(), view->data, view->extent());
      advise(*view, MADV_DONTNEED);
      view->data = job.copies.back().get();
    }
  }

  void read_ahead(size_t index) {
    if (index >= jobs_.size()) return;
    for (const View* view : jobs_[index]->source.views()) advise(*view, MADV_WILLNEED);
  }

  /// Gives the source's pages back, so that a load needs little more memory than the model.
  static void release(Job& job) {
    if (!job.copies.empty()) {
      job.copies.clear();
      return;
    }
    for (const View* view : job.source.views()) advise(*view, MADV_DONTNEED);
  }

  void report(uint64_t bytes) {
    done_ += bytes;
    if (!progress_) return;
    // Whoever finds it busy leaves the news to a later unit.
    const std::unique_lock lock(progress_mutex_, std::try_to_lock);
    if (lock.owns_lock()) progress_(done_, buffer_.size());
  }

  backend::Backend& backend_;
  base::ThreadPool& pool_;
  const backend::Buffer& buffer_;
  const LoadProgress& progress_;
  std::vector<std::unique_ptr<Job>> vectors_;
  std::vector<std::unique_ptr<Job>> jobs_;
  int64_t tasks_ = 0;
  std::atomic<uint64_t> done_ = 0;
  std::mutex progress_mutex_;
  std::atomic<bool> failed_ = false;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

float load_unaligned(const View& view, int64_t index) {
  alignas(float) std::byte element[sizeof(float)];
  const size_t size = tensor::size_of(view.dtype);
  std::memcpy(element, view.data + static_cast<size_t>(index) * size, size);
  return tensor::load_float(view.dtype, element, 0);
}

bool finite(const View& view) {
  const int64_t count = view.elements();
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(load_unaligned(view, i))) return false;
  }
  return true;
}

/// Warns of NaN and infinity where they are cheap to find and spoil everything: norms, biases,
/// routers and gates.
void warn_of_non_finite(const std::vector<ItemSource>& sources) {
  const auto check = [](const View& view, const std::string& name) {
    if (!finite(view)) {
      spdlog::warn("tensor '{}' contains NaN or infinity; the model's answers will too", name);
    }
  };
  for (const ItemSource& source : sources) {
    for (size_t i = 0; i < source.vector.size(); ++i) {
      check(source.vector[i], source.item.vector->slices[i].name);
    }
    const MatrixItem* matrix = source.item.matrix;
    if (matrix == nullptr || matrix->desc.format.base != tensor::DType::kF32 ||
        matrix->desc.n * matrix->desc.k > kFiniteCheckElements) {
      continue;
    }
    for (size_t i = 0; i < source.matrix.parts.size(); ++i) {
      const backend::SourcePart& part = source.matrix.parts[i];
      if (part.format == nullptr) check(part.part.values, matrix->slices[i].name);
    }
  }
}

}  // namespace

backend::Matrix LoadedWeights::matrix(const Placed<MatrixItem>& placed) const {
  if (!placed.present()) return {};
  return {placed.item.desc, buffer.address() + static_cast<size_t>(placed.offset)};
}

backend::Experts LoadedWeights::experts(const Placed<ExpertsItem>& placed) const {
  if (!placed.present()) return {};
  return {placed.item.desc, buffer.address() + static_cast<size_t>(placed.offset)};
}

backend::Address LoadedWeights::vector(const Placed<VectorItem>& placed) const {
  if (!placed.present()) return {};
  return buffer.address() + static_cast<size_t>(placed.offset);
}

LoadedWeights load_weights(const WeightLayout& layout, backend::Backend& backend,
                           base::ThreadPool& pool, const checkpoint::Checkpoint& checkpoint,
                           const LoadOptions& options) {
  const checkpoint::TruncationGuard guard;
  ResolvedSources resolved = resolve_sources(layout, checkpoint);
  warn_of_non_finite(resolved.items);
  std::optional<PreparedCache> cache;
  if (!options.cache_folder.empty()) {
    cache.emplace(options.cache_folder, PreparedKey{.folder = checkpoint.path().string(),
                                                    .checkpoint = checkpoint.fingerprint(),
                                                    .packing = backend.layout_id(),
                                                    .layout = layout_digest(layout),
                                                    .shard = layout.shard});
  }
  LoadedWeights loaded;
  loaded.layout = layout;
  loaded.ignored = std::move(resolved.ignored);
  loaded.buffer = backend.allocate(base::MemoryTag::kWeights, layout.bytes);
  if (cache && cache->read(loaded.buffer, backend, pool, options.progress)) {
    checkpoint.check_unchanged();
    loaded.source = LoadSource::kPreparedCache;
    return loaded;
  }
  if (cache) {
    // A damaged cache file may have been read in part; packing counts on zeroed memory.
    loaded.buffer = {};
    loaded.buffer = backend.allocate(base::MemoryTag::kWeights, layout.bytes);
  }
  check_stored(resolved.checks, pool);
  Packer(backend, pool, std::move(resolved.items), loaded.buffer, options.progress).run();
  checkpoint.check_unchanged();
  loaded.source = LoadSource::kCheckpoint;
  if (cache) cache->write(loaded.buffer, backend, pool);
  return loaded;
}

LoadedWeights make_dummy_weights(const WeightLayout& layout, backend::Backend& backend,
                                 base::ThreadPool& pool, uint64_t seed,
                                 const LoadOptions& options) {
  LoadedWeights loaded;
  loaded.layout = layout;
  loaded.buffer = backend.allocate(base::MemoryTag::kWeights, layout.bytes);
  Packer(backend, pool, dummy_sources(layout, seed), loaded.buffer, options.progress).run();
  loaded.source = LoadSource::kDummy;
  return loaded;
}

}  // namespace moesaic::model
