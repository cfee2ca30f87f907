#include "backend/host/host_ranks.h"

#include <algorithm>

#include "backend/raw_address.h"
#include "base/error.h"

namespace moesaic::backend {
namespace {

/// Ranks are done at nearly the same time; spinning so often (some 50 us) is cheaper than sleeping.
constexpr int kSpins = 2000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

class HostRanks::Rank final : public Communicator {
 public:
  Rank(HostRanks& group, int64_t rank) : group_(group), rank_(rank) {}
  int64_t ranks() const override { return static_cast<int64_t>(group_.ranks_.size()); }
  int64_t rank() const override { return rank_; }

  /// Each rank adds up its share of the elements and gives the sums to all.
  void all_reduce(Address values, int64_t count, tensor::DType dtype) override {
    MOESAIC_ASSERT(dtype == tensor::DType::kF32);
    if (ranks() == 1) return;
    std::vector<float*>& all = group_.values_;
    all[static_cast<size_t>(rank_)] = RawAddress::pointer<float>(values);
    group_.meet();
    const int64_t first = count * rank_ / ranks();
    const int64_t end = count * (rank_ + 1) / ranks();
    constexpr int64_t kChunk = 1024;
    float sums[kChunk];
    for (int64_t at = first; at < end; at += kChunk) {
      const int64_t size = std::min(kChunk, end - at);
      std::copy_n(all[0] + at, size, sums);
      for (size_t r = 1; r < all.size(); ++r) {
        for (int64_t i = 0; i < size; ++i) sums[i] += all[r][at + i];
      }
      for (float* to : all) std::copy_n(sums, size, to + at);
    }
    group_.meet();
  }

 private:
  HostRanks& group_;
  int64_t rank_;
};

HostRanks::HostRanks(int64_t ranks) : values_(static_cast<size_t>(ranks)) {
  for (int64_t rank = 0; rank < ranks; ++rank) {
    ranks_.push_back(std::make_unique<Rank>(*this, rank));
  }
}

HostRanks::~HostRanks() = default;

Communicator& HostRanks::communicator(int64_t rank) {
  return *ranks_.at(static_cast<size_t>(rank));
}

/// Returns when every rank has come here.
void HostRanks::meet() {
  const uint32_t meeting = meetings_.load();
  if (failed_.load()) throw RankLost();
  if (waiting_.fetch_add(1) + 1 == static_cast<int64_t>(ranks_.size())) {
    waiting_.store(0);
    meetings_.fetch_add(1);
    meetings_.notify_all();
    return;
  }
  for (int i = 0; i < kSpins && meetings_.load() == meeting; ++i) relax();
  while (meetings_.load() == meeting) meetings_.wait(meeting);
  if (failed_.load()) throw RankLost();
}

void HostRanks::fail() {
  failed_.store(true);
  meetings_.fetch_add(1);
  meetings_.notify_all();
}

void HostRanks::reset() {
  waiting_.store(0);
  failed_.store(false);
}

}  // namespace moesaic::backend
