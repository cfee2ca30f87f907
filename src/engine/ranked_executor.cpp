#include "engine/ranked_executor.h"

#include <system_error>
#include <utility>

#include "base/error.h"

namespace moesaic::engine {

RankedExecutor::RankedExecutor(const model::ModelSpec& spec, const std::vector<Rank>& ranks,
                               int64_t max_rows)
    : group_(static_cast<int64_t>(ranks.size())),
      first_(spec, *ranks[0].weights, *ranks[0].backend, group_.communicator(0), *ranks[0].cache,
             max_rows),
      unbound_(ranks.size() > 1 ? ranks[0].pool : nullptr) {
  for (size_t i = 1; i < ranks.size(); ++i) {
    decoders_.push_back(
        std::make_unique<model::Decoder>(spec, *ranks[i].weights, *ranks[i].backend,
                                         group_.communicator(static_cast<int64_t>(i)), max_rows));
  }
  try {
    for (size_t i = 1; i < ranks.size(); ++i) {
      threads_.emplace_back(
          [this, rank = ranks[i], &decoder = *decoders_[i - 1]] { follow(rank, decoder); });
    }
  } catch (const std::system_error& error) {
    stop();
    throw base::OsError("cannot start a rank's thread", error.code().value());
  }
}

RankedExecutor::~RankedExecutor() { stop(); }

void RankedExecutor::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

/// Remembers what went wrong first; that others waited for whoever failed is no news.
void RankedExecutor::keep(std::exception_ptr failure) {
  bool lost = false;
  try {
    std::rethrow_exception(failure);
  } catch (const backend::RankLost&) {
    lost = true;
  } catch (...) {
  }
  {
    const std::lock_guard lock(mutex_);
    if (!lost && !failure_) failure_ = std::move(failure);
  }
  group_.fail();
}

/// The thread of a rank after the first.
void RankedExecutor::follow(const Rank& rank, model::Decoder& decoder) {
  rank.pool->bind_caller();
  uint64_t seen = 0;
  while (true) {
    std::shared_ptr<const Step> step;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || steps_ > seen; });
      if (stopping_) return;
      seen = steps_;
      step = step_;
    }
    try {
      const backend::Fence end = decoder.forward(step->batch, *rank.cache,
                                                 [](const backend::StepView&, int64_t, int64_t) {});
      rank.backend->take_samples(end);
    } catch (...) {
      keep(std::current_exception());
    }
    const std::lock_guard lock(mutex_);
    if (--computing_ == 0) changed_.notify_all();
  }
}

void RankedExecutor::submit(std::shared_ptr<const Step> step) {
  if (unbound_ != nullptr) std::exchange(unbound_, nullptr)->bind_caller();
  {
    const std::lock_guard lock(mutex_);
    step_ = step;
    computing_ = threads_.size();
    failure_ = nullptr;
    ++steps_;
  }
  changed_.notify_all();
  bool submitted = false;
  try {
    first_.submit(std::move(step));
    submitted = true;
  } catch (...) {
    keep(std::current_exception());
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return computing_ == 0; });
  if (!failure_) return;
  group_.reset();
  if (submitted) first_.wait();
  std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace moesaic::engine
