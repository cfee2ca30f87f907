#include "engine/engine.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>
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
  int64_t queued_requests = 0;  ///< in the inbox, or taken from it and not in `published` yet
  bool busy = false;            ///< between taking commands and having nothing left to do
  bool draining = false;
  bool stopping = false;
  bool dead = false;

  std::deque<Command> commands;  ///< taken from the inbox; the engine thread's own
  int64_t taken_requests = 0;

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

  /// With the mutex held.
  void add_command(Command command) {
    // After idleness the time without progress begins here, not with the last step.
    if (!busy && inbox.empty()) last_progress = std::chrono::steady_clock::now();
    inbox.push_back(std::move(command));
  }

  void publish() {
    const EngineStats& fresh = core.stats();
    std::lock_guard lock(mutex);
    published = fresh;
    last_progress = std::chrono::steady_clock::now();
  }

  /// Waits for work; false when the engine is to stop.
  bool take_commands() {
    std::unique_lock lock(mutex);
    if (core.idle()) {
      busy = false;
      wake.wait(lock, [&] { return stopping || !inbox.empty(); });
    }
    if (stopping) return false;
    busy = true;
    commands.swap(inbox);
    taken_requests = queued_requests;
    return true;
  }

  void obey_all() {
    for (; !commands.empty(); commands.pop_front()) obey(commands.front());
  }

  /// Told before a step and not only after it, or the queue would look shorter than it is.
  void publish_load() {
    const EngineCore::Load load = core.load();
    std::lock_guard lock(mutex);
    published.running = load.running;
    published.waiting = load.waiting;
    queued_requests -= taken_requests;
    taken_requests = 0;
  }

  void obey(Command& command) {
    if (auto* order = std::get_if<FinishCommand>(&command)) {
      core.finish(order->id, order->index, order->reason);
      return;
    }
    auto& request = std::get<Request>(command);
    const RequestId id = request.id;
    const std::shared_ptr<OutputSink> sink = request.sink;
    const int32_t n = request.sampling.n;
    try {
      core.add(std::move(request));
    } catch (const std::bad_alloc&) {
      spdlog::error("no memory for request {}: it ends", id);
      if (!core.finish(id, -1, FinishReason::kError)) refuse(*sink, n, FinishReason::kError);
    }
  }

  /// Ends a request that the core does not know.
  static void refuse(OutputSink& sink, int32_t n, FinishReason reason) {
    for (int32_t i = 0; i < n; ++i) {
      SequenceOutput output;
      output.index = i;
      output.finish = reason;
      try {
        sink.deliver(std::move(output));
      } catch (const std::exception& error) {
        spdlog::error("the end of a request could not be delivered: {}", error.what());
      }
    }
  }

  void run_thread() {
    try {
      while (take_commands()) {
        obey_all();
        bool work = core.schedule_step();
        publish_load();
        for (; work; work = core.schedule_step()) core.submit_step();
        if (core.in_flight() > 0) core.wait_step();
        publish();
      }
      while (core.in_flight() > 0) core.wait_step();
      end_all(FinishReason::kAbort);
    } catch (const std::exception& error) {
      die(error.what());
    } catch (...) {
      die("an exception of unknown type");
    }
    publish();
    std::lock_guard lock(mutex);
    busy = false;
  }

  void die(const char* why) {
    spdlog::critical("the engine has failed: {}", why);
    {
      std::lock_guard lock(mutex);
      dead = true;
    }
    end_all(FinishReason::kError);
  }

  /// Ends every request, those on their way in too. Nothing is taken in any more by now.
  void end_all(FinishReason reason) {
    {
      std::lock_guard lock(mutex);
      std::move(inbox.begin(), inbox.end(), std::back_inserter(commands));
      inbox.clear();
      queued_requests = 0;
    }
    core.fail_all(reason);
    for (Command& command : commands) {
      const auto* request = std::get_if<Request>(&command);
      if (request != nullptr && request->sink) refuse(*request->sink, request->sampling.n, reason);
    }
    commands.clear();
  }
};

Engine::Engine(const EngineOptions& options, std::unique_ptr<Executor> executor,
               std::shared_ptr<EngineObserver> observer)
    : impl_(std::make_unique<Impl>(options, std::move(executor), std::move(observer))) {}

Engine::~Engine() = default;

Refusal Engine::submit(Request request) {
  const Refusal refusal = EngineCore::admit(impl_->options, impl_->executor->vocab_size(), request);
  if (refusal != Refusal::kNone) return refusal;
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->dead) return Refusal::kDead;
    if (impl_->draining || impl_->stopping) return Refusal::kDraining;
    impl_->add_command(std::move(request));
    ++impl_->queued_requests;
  }
  impl_->wake.notify_one();
  return Refusal::kNone;
}

void Engine::finish(RequestId id, int32_t index, FinishReason reason) {
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->dead) return;
    impl_->add_command(FinishCommand{id, index, reason});
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
  ExpertCounts experts = impl_->executor->expert_counts();
  std::lock_guard lock(impl_->mutex);
  EngineStats stats = impl_->published;
  stats.moe_layers = experts.layers;
  stats.experts = experts.experts;
  stats.expert_tokens = std::move(experts.counts);
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
