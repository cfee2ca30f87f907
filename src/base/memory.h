#pragma once

// Tagged memory: every large allocation carries the term of model::MemoryNeeds that it belongs to,
// so that what is planned can be held against what is allocated (log, /metrics).

#include <array>
#include <atomic>
#include <cstddef>
#include <span>
#include <string_view>

namespace moesaic::base {

/// What memory is for. Terms of one device; graphs and communication are those of a GPU.
enum class MemoryTag : int { kWeights, kKvCache, kActivations, kGraphs, kCommunication, kRuntime };
inline constexpr int kMemoryTagCount = 6;

/// The tag's name in logs and metric labels, e.g. "kv_cache".
std::string_view to_string(MemoryTag tag);

/// Bytes now allocated under `tag`, in the whole process.
size_t allocated_bytes(MemoryTag tag);

/// Counts bytes under a tag while it lives: of memory that is not the host's. Not copyable.
class CountedBytes {
 public:
  CountedBytes(MemoryTag tag, size_t bytes);
  ~CountedBytes();
  CountedBytes(const CountedBytes&) = delete;
  CountedBytes& operator=(const CountedBytes&) = delete;

 private:
  MemoryTag tag_;
  size_t bytes_;
};

/// An anonymous mapping, zeroed, aligned to 2 MiB and advised to use huge pages, counted under its
/// tag until destroyed. Movable, not copyable. Throws UnavailableError naming the size and the tag
/// when the memory cannot be had.
class Region {
 public:
  Region() = default;
  Region(MemoryTag tag, size_t bytes);
  ~Region();
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) noexcept;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void release();
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;
  MemoryTag tag_ = MemoryTag::kRuntime;
};

}  // namespace moesaic::base
