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

#include "base/error.h"
#include "base/hash.h"
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
  if (view.bytes() == 0) return;
  static const auto kPage = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const size_t into_page = reinterpret_cast<uintptr_t>(view.data) % kPage;
  auto* begin = const_cast<std::byte*>(view.data) - into_page;
  // Advice may fail; loading is then slower or larger, not wrong.
  ::madvise(begin, view.bytes() + into_page, advice);
}

bool aligned(const View& view) {
  return reinterpret_cast<uintptr_t>(view.data) % tensor::size_of(view.dtype) == 0;
}

/// Packs all items into the region, unit by unit on the backend's threads.
class Packer {
 public:
  Packer(backend::Backend& backend, std::vector<ItemSource> sources, std::byte* region,
         uint64_t region_bytes, const LoadProgress& progress)
      : backend_(backend), region_(region), region_bytes_(region_bytes), progress_(progress) {
    for (ItemSource& source : sources) {
      auto job = std::make_unique<Job>();
      job->first_task = tasks_;
      measure(source.item, *job);
      job->left = job->units;
      job->source = std::move(source);
      tasks_ += job->units;
      jobs_.push_back(std::move(job));
    }
  }

  void run() {
    if (!jobs_.empty()) read_ahead(0);
    backend_.parallel_for(tasks_, [this](int64_t task, int) {
      if (failed_) return;
      try {
        pack(task);
      } catch (...) {
        const std::lock_guard lock(failure_mutex_);
        if (!failed_.exchange(true)) failure_ = std::current_exception();
      }
    });
    if (failure_) std::rethrow_exception(failure_);
    if (progress_) progress_(region_bytes_, region_bytes_);
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

  void measure(const PlanItem& item, Job& job) const {
    if (item.matrix != nullptr) {
      job.bytes = backend_.packed_bytes(item.matrix->desc);
      job.units = backend_.pack_units(item.matrix->desc);
    } else if (item.experts != nullptr) {
      job.bytes = backend_.packed_bytes(item.experts->desc);
      job.units = backend_.pack_units(item.experts->desc);
    } else {
      for (int64_t size : item.vector->part_sizes) {
        job.bytes += static_cast<uint64_t>(size) * sizeof(float);
      }
    }
    MOESAIC_ASSERT(static_cast<uint64_t>(item.offset) + job.bytes <= region_bytes_);
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
    report(job.bytes * static_cast<uint64_t>(unit + 1) / static_cast<uint64_t>(job.units) -
           job.bytes * static_cast<uint64_t>(unit) / static_cast<uint64_t>(job.units));
    if (--job.left == 0) release(job);
  }

  void pack_unit(Job& job, int64_t unit) {
    const PlanItem& item = job.source.item;
    std::byte* destination = region_ + item.offset;
    if (item.matrix != nullptr) {
      backend_.pack(item.matrix->desc, job.source.matrix, unit, destination);
    } else if (item.experts != nullptr) {
      backend_.pack(item.experts->desc, job.source.experts, unit, destination);
    } else {
      convert_vector(job.source, reinterpret_cast<float*>(destination));
    }
  }

  static void convert_vector(const ItemSource& source, float* out) {
    if (source.vector.empty()) {  // dummy
      for (int64_t size : source.item.vector->part_sizes) {
        out = std::fill_n(out, size, source.item.vector->dummy);
      }
      return;
    }
    for (const View& view : source.vector) {
      const int64_t count = view.elements();
      for (int64_t i = 0; i < count; ++i) *out++ = tensor::load_float(view.dtype, view.data, i);
    }
  }

  /// A safetensors header may have any length, so its data may start at an odd byte; backends read
  /// elements where they lie and need them aligned.
  static void align(Job& job) {
    for (View* view : job.source.views()) {
      if (aligned(*view)) continue;
      job.copies.push_back(std::make_unique<std::byte[]>(view->bytes()));
      std::memcpy(job.copies.back().get(), view->data, view->bytes());
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
    if (lock.owns_lock()) progress_(done_, region_bytes_);
  }

  backend::Backend& backend_;
  std::byte* region_;
  uint64_t region_bytes_;
  const LoadProgress& progress_;
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
      check(source.vector[i], source.item.vector->parts[i]);
    }
    const MatrixItem* matrix = source.item.matrix;
    if (matrix == nullptr || matrix->desc.dtype != tensor::DType::kF32 ||
        matrix->desc.n * matrix->desc.k > kFiniteCheckElements) {
      continue;
    }
    for (size_t i = 0; i < source.matrix.parts.size(); ++i) {
      check(source.matrix.parts[i], matrix->parts[i]);
    }
  }
}

std::vector<ItemSource> dummy_sources(const WeightPlan& plan, uint64_t seed) {
  std::vector<ItemSource> sources;
  for (const PlanItem& item : list_items(plan)) {
    ItemSource source;
    source.item = item;
    const uint64_t item_seed = base::mix_bits(base::mix_bits(seed) + sources.size());
    source.matrix.dummy = source.experts.dummy = true;
    source.matrix.seed = source.experts.seed = item_seed;
    sources.push_back(std::move(source));
  }
  return sources;
}

}  // namespace

backend::Matrix LoadedWeights::matrix(const Placed<MatrixItem>& placed) const {
  MOESAIC_ASSERT(placed.present());
  return {.desc = placed.item.desc, .packed = region.data() + placed.offset};
}

backend::Experts LoadedWeights::experts(const Placed<ExpertsItem>& placed) const {
  MOESAIC_ASSERT(placed.present());
  return {.desc = placed.item.desc, .packed = region.data() + placed.offset};
}

const float* LoadedWeights::vector(const Placed<VectorItem>& placed) const {
  if (!placed.present()) return nullptr;
  return reinterpret_cast<const float*>(region.data() + placed.offset);
}

LoadedWeights load_weights(const WeightPlan& plan, backend::Backend& backend,
                           const checkpoint::Checkpoint& checkpoint, const LoadOptions& options) {
  const checkpoint::TruncationGuard guard;
  ResolvedSources resolved = resolve_sources(plan, checkpoint);
  warn_of_non_finite(resolved.items);
  std::optional<PreparedCache> cache;
  if (!options.cache_folder.empty()) {
    cache.emplace(options.cache_folder, PreparedKey{.folder = checkpoint.folder().string(),
                                                    .checkpoint = checkpoint.fingerprint(),
                                                    .layout = backend.layout_id(),
                                                    .plan = plan_digest(plan)});
  }
  LoadedWeights loaded;
  loaded.plan = plan;
  loaded.ignored = std::move(resolved.ignored);
  loaded.region = base::Region(base::MemoryTag::kWeights, plan.bytes);
  if (cache && cache->read(loaded.region, backend, options.progress)) {
    checkpoint.check_unchanged();
    loaded.source = LoadSource::kPreparedCache;
    return loaded;
  }
  if (cache) {
    // A damaged cache file may have been read in part; packing counts on zeroed memory.
    loaded.region = {};
    loaded.region = base::Region(base::MemoryTag::kWeights, plan.bytes);
  }
  Packer(backend, std::move(resolved.items), loaded.region.data(), plan.bytes, options.progress)
      .run();
  checkpoint.check_unchanged();
  loaded.source = LoadSource::kCheckpoint;
  if (cache) cache->write(loaded.region, backend);
  return loaded;
}

LoadedWeights make_dummy_weights(const WeightPlan& plan, backend::Backend& backend, uint64_t seed,
                                 const LoadOptions& options) {
  LoadedWeights loaded;
  loaded.plan = plan;
  loaded.region = base::Region(base::MemoryTag::kWeights, plan.bytes);
  Packer(backend, dummy_sources(plan, seed), loaded.region.data(), plan.bytes, options.progress)
      .run();
  loaded.source = LoadSource::kDummy;
  return loaded;
}

}  // namespace moesaic::model
