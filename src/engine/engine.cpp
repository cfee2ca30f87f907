#include "engine/engine.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <variant>

#include "base/error.h"
#include "base/log.h"
#include "engine/core.h"

namespace moesaic::engine {

namespace {

struct FinishCommand {
  RequestId id;
  int32_t index;
  FinishReason reason;
};
using Command = std::variant<Request, FinishCommand>;

}  // namespace

/// The thread around an EngineCore. The inbox is the only way in; published_ the only state that
/// other threads read.
struct Engine::Impl {
  EngineOptions options;
  std::unique_ptr<Executor> executor;
  std::shared_ptr<EngineObserver> observer;
  EngineCore core;

  mutable std::mutex mutex;  ///< guards what follows
  std::condition_variable wake;
  std::deque<Command> inbox;
  EngineStats published;
  TimePoint last_progress = std::chrono::steady_clock::now();
  int64_t queued_requests = 0;  ///< in the inbox
  bool busy = false;            ///< between taking commands and having nothing left to do
  bool draining = false;
  bool stopping = false;
  bool dead = false;

  std::thread thread;

  Impl(const EngineOptions& given, std::unique_ptr<Executor> run,
       std::shared_ptr<EngineObserver> watch)
      : options(given),
        executor(std::move(run)),
        observer(std::move(watch)),
        core(options, *executor, *observer, std::chrono::steady_clock::now) {
    published = core.stats();
    thread = std::thread([this] { run_thread(); });
  }

  ~Impl() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    thread.join();
  }

  void publish() {
    const EngineStats& fresh = core.stats();
    std::lock_guard lock(mutex);
    published = fresh;
    published.alive = !dead;
    last_progress = std::chrono::steady_clock::now();
  }

  /// Waits for work; false when the engine is to stop.
  bool take_commands(std::deque<Command>& commands) {
    std::unique_lock lock(mutex);
    if (core.idle()) {
      busy = false;
      wake.wait(lock, [&] { return stopping || !inbox.empty(); });
      if (!inbox.empty()) last_progress = std::chrono::steady_clock::now();
    }
    if (stopping) return false;
    busy = true;
    commands.swap(inbox);
    queued_requests = 0;
    return true;
  }

  void obey(Command& command) {
    if (auto* request = std::get_if<Request>(&command)) {
      core.add(std::move(*request));
    } else {
      const auto& order = std::get<FinishCommand>(command);
      core.finish(order.id, order.index, order.reason);
    }
  }

  void run_thread() {
    std::deque<Command> commands;
    try {
      while (take_commands(commands)) {
        for (Command& command : commands) obey(command);
        commands.clear();
        core.step();
        publish();
      }
      end_all(FinishReason::kAbort);
    } catch (const std::exception& error) {
      spdlog::critical("the engine has failed: {}", error.what());
      {
        std::lock_guard lock(mutex);
        dead = true;
      }
      end_all(FinishReason::kError);
    }
    publish();
    std::lock_guard lock(mutex);
    busy = false;
  }

  /// Ends every request, those still in the inbox too. Nothing is taken in any more by now.
  void end_all(FinishReason reason) {
    std::deque<Command> left;
    {
      std::lock_guard lock(mutex);
      left.swap(inbox);
      queued_requests = 0;
    }
    core.fail_all(reason);
    for (Command& command : left) {
      if (auto* request = std::get_if<Request>(&command)) {
        for (int32_t i = 0; i < request->sampling.n; ++i) {
          SequenceOutput output;
          output.index = i;
          output.finish = reason;
          request->sink->deliver(std::move(output));
        }
      }
    }
  }
};

Engine::Engine(const EngineOptions& options, std::unique_ptr<Executor> executor,
               std::shared_ptr<EngineObserver> observer)
    : impl_(std::make_unique<Impl>(options, std::move(executor), std::move(observer))) {}

Engine::~Engine() = default;

Refusal Engine::submit(Request request) {
  if (!EngineCore::fits(impl_->options, request)) return Refusal::kTooLong;
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->dead) return Refusal::kDead;
    if (impl_->draining || impl_->stopping) return Refusal::kDraining;
    const int64_t waiting = impl_->published.waiting + impl_->queued_requests;
    if (impl_->options.max_waiting > 0 && waiting >= impl_->options.max_waiting) {
      return Refusal::kQueueFull;
    }
    ++impl_->queued_requests;
    impl_->inbox.emplace_back(std::move(request));
  }
  impl_->wake.notify_one();
  return Refusal::kNone;
}

void Engine::finish(RequestId id, int32_t index, FinishReason reason) {
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->dead) return;
    impl_->inbox.emplace_back(FinishCommand{id, index, reason});
  }
  impl_->wake.notify_one();
}

void Engine::drain() {
  std::lock_guard lock(impl_->mutex);
  impl_->draining = true;
}

bool Engine::idle() const {
  std::lock_guard lock(impl_->mutex);
  return !impl_->busy && impl_->inbox.empty();
}

EngineStats Engine::stats() const {
  std::lock_guard lock(impl_->mutex);
  EngineStats stats = impl_->published;
  stats.waiting += impl_->queued_requests;
  stats.alive = !impl_->dead;
  if (impl_->busy || !impl_->inbox.empty()) {
    stats.seconds_since_progress =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - impl_->last_progress)
            .count();
  }
  return stats;
}

}  // namespace moesaic::engine
