#include "engine/core.h"

#include <algorithm>
#include <map>
#include <new>
#include <set>

#include "base/error.h"
#include "base/log.h"

namespace moesaic::engine {
namespace {

double seconds_between(TimePoint from, TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

/// Whether choosing for such a request needs more than its row.
bool needs_state(const SamplingParams& params) {
  return params.presence_penalty != 0 || params.frequency_penalty != 0 ||
         params.repetition_penalty != 1.0f || params.min_tokens > 0 ||
         params.constraint != nullptr || params.rules->change_logits();
}

SampleRow choosing_row(const Sequence& sequence) {
  const SamplingParams& params = sequence.request->request.sampling;
  SampleRow row;
  row.state = sequence.slot;
  row.long_lists = params.rules->long_lists;
  row.constrained = params.constraint != nullptr;
  row.temperature = params.temperature;
  row.top_p = params.top_p;
  row.top_k = params.top_k;
  row.min_p = params.min_p;
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.repetition_penalty = params.repetition_penalty;
  row.seed = sequence.seed;
  row.position = sequence.length() - sequence.request->prompt_size();
  row.min_tokens = params.min_tokens;
  row.logprobs = params.logprobs;
  return row;
}

/// Whether the longest possible sequence fits the context and the pool.
bool fits(const EngineOptions& options, const Request& request) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0 || prompt >= options.max_model_len) return false;
  const int64_t longest =
      std::min(options.max_model_len, prompt + std::max(request.sampling.max_tokens, 1));
  return (longest + options.block_size - 1) / options.block_size <= options.num_blocks;
}

bool knows_tokens(int64_t vocab_size, const Request& request) {
  return std::all_of(request.prompt.begin(), request.prompt.end(),
                     [&](int32_t id) { return id >= 0 && id < vocab_size; });
}

}  // namespace

/// A step from its schedule to its landing.
struct EngineCore::Flight {
  StepSchedule schedule;
  /// Of the chunks: a request that ends meanwhile lives on until the step lands.
  std::vector<std::shared_ptr<LiveRequest>> requests;
  std::shared_ptr<Step> step = std::make_shared<Step>();
  std::vector<size_t> wanted;  ///< the chunk of each logit row
  int64_t rows = 0;
  int64_t decode_rows = 0;
  TimePoint submitted;
};

EngineCore::EngineCore(const EngineOptions& options, Executor& executor, EngineObserver& observer,
                       std::function<TimePoint()> clock)
    : options_(options),
      executor_(executor),
      observer_(observer),
      clock_(std::move(clock)),
      pool_(options.num_blocks, options.block_size),
      scheduler_(options_, pool_) {}

EngineCore::~EngineCore() = default;

Refusal EngineCore::admit(const EngineOptions& options, int64_t vocab_size, Request& request) {
  if (!fits(options, request)) return Refusal::kTooLong;
  if (!knows_tokens(vocab_size, request)) return Refusal::kUnknownToken;
  if (request.sampling.repetition_penalty != 1.0f) {
    std::vector<int32_t> ids = request.prompt;
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    ids.shrink_to_fit();
    request.prompt_ids = std::make_shared<const std::vector<int32_t>>(std::move(ids));
  }
  return Refusal::kNone;
}

void EngineCore::add(Request request) {
  MOESAIC_ASSERT(fits(options_, request) && knows_tokens(executor_.vocab_size(), request));
  MOESAIC_ASSERT(!requests_.contains(request.id));
  auto live = std::make_shared<LiveRequest>();
  live->arrival = arrivals_++;
  live->arrived = clock_();
  live->unfinished = request.sampling.n;
  const uint64_t seed =
      request.sampling.seed.value_or(backend::sequence_seed(options_.seed + live->arrival + 1, 1));
  for (int32_t i = 0; i < request.sampling.n; ++i) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = live.get();
    sequence->index = i;
    sequence->seed = backend::sequence_seed(seed, i);
    live->sequences.push_back(std::move(sequence));
  }
  const RequestId id = request.id;
  live->request = std::move(request);
  // Known before it is scheduled, so that finish() can undo what an exception leaves.
  const LiveRequest& known = *requests_.emplace(id, std::move(live)).first->second;
  for (const auto& sequence : known.sequences) scheduler_.add(sequence.get());
}

bool EngineCore::finish(RequestId id, int32_t index, FinishReason reason) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return false;
  LiveRequest& request = *found->second;
  for (const auto& sequence : request.sequences) {
    if (sequence->finished || (index >= 0 && sequence->index != index)) continue;
    SequenceOutput output;
    output.index = sequence->index;
    output.finish = reason;
    end(*sequence, std::move(output));
  }
  if (request.unfinished == 0) end_request(request);
  return true;
}

void EngineCore::fail_all(FinishReason reason) {
  while (!requests_.empty()) finish(requests_.begin()->first, -1, reason);
  for (const auto& flight : flights_) lose(*flight);
  flights_.clear();
}

/// Hands news to the client's side; false when that failed, which is this request's failure alone.
bool EngineCore::deliver(LiveRequest& request, SequenceOutput&& output) {
  try {
    request.request.sink->deliver(std::move(output));
    return true;
  } catch (const std::exception& error) {
    spdlog::error("request {}: its tokens could not be delivered: {}", request.request.id,
                  error.what());
    return false;
  }
}

/// Gives the blocks back, as soon as no step in flight needs them, and makes the last delivery.
void EngineCore::end(Sequence& sequence, SequenceOutput output) {
  LiveRequest& request = *sequence.request;
  scheduler_.remove(&sequence);
  if (sequence.flights == 0) release_slot(sequence);
  sequence.finished = true;
  --request.unfinished;
  if (request.reason == FinishReason::kNone || request.reason == FinishReason::kStop) {
    request.reason = output.finish;
  }
  deliver(request, std::move(output));
}

void EngineCore::end_request(LiveRequest& request) {
  const TimePoint now = clock_();
  EngineObserver::Finished news;
  news.reason = request.reason;
  news.prompt_tokens = request.prompt_size();
  news.generated_tokens = request.generated;
  news.max_tokens = request.request.sampling.max_tokens;
  news.n = request.request.sampling.n;
  news.cached_tokens = request.cached_tokens;
  const TimePoint started = request.has_started ? request.started : now;
  const TimePoint first = request.has_first_token ? request.first_token : now;
  news.queue_seconds = seconds_between(request.arrived, started);
  news.prefill_seconds = seconds_between(started, first);
  news.decode_seconds = seconds_between(first, now);
  news.e2e_seconds = seconds_between(request.arrived, now);
  ++stats_.finished[static_cast<size_t>(request.reason)];
  requests_.erase(request.request.id);
  observer_.on_finished(news);
}

void EngineCore::release_slot(Sequence& sequence) {
  if (sequence.slot >= 0) free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
}

/// Wants logits of the row that is about to be added to the batch: those of a prompt's own token,
/// or else of the sequence's next one.
void EngineCore::add_wanted(Flight& flight, size_t chunk, int64_t position) {
  Sequence& sequence = *flight.schedule.chunks[chunk].sequence;
  Step& step = *flight.step;
  const bool chooses = position + 1 == sequence.length();
  SampleRow row;
  if (chooses) {
    row = choosing_row(sequence);
  } else {
    row.target = sequence.token(position + 1);
    row.logprobs = sequence.request->request.sampling.prompt_logprobs;
  }
  step.samples.push_back(row);
  step.batch.logit_rows.push_back(static_cast<int32_t>(step.batch.token_ids.size()));
  flight.wanted.push_back(chunk);
  if (!chooses) return;
  sequence.may_follow = executor_.chooses_ahead(row);
  sequence.pending_step = scheduler_.steps();
  sequence.pending_row = static_cast<int32_t>(flight.wanted.size()) - 1;
  ++sequence.pending;
}

/// Lays the schedule out as flat arrays.
void EngineCore::build(Flight& flight) {
  const StepSchedule& schedule = flight.schedule;
  StepBatch& batch = flight.step->batch;
  for (const Chunk& chunk : schedule.chunks) {
    batch.max_blocks =
        std::max(batch.max_blocks, static_cast<int64_t>(chunk.sequence->blocks.size()));
  }
  batch.seq_starts.push_back(0);
  const int64_t size = pool_.block_size();
  for (size_t c = 0; c < schedule.chunks.size(); ++c) {
    const Sequence& sequence = *schedule.chunks[c].sequence;
    const int64_t end = sequence.scheduled;
    const LiveRequest& request = *sequence.request;
    const bool prompt_logprobs = request.request.sampling.prompt_logprobs >= 0 &&
                                 sequence.index == 0 && sequence.output.empty();
    for (int64_t p = end - schedule.chunks[c].rows; p < end; ++p) {
      const int32_t token = p < sequence.size() ? sequence.token(p) : -1 - sequence.pending_row;
      const bool last = p + 1 == sequence.length();
      // Rows whose next token is the prompt's own; done once, even if the request is recomputed.
      const bool of_prompt = prompt_logprobs && p + 1 < request.prompt_size() &&
                             p >= static_cast<int64_t>(request.prompt_logprobs.size());
      if (last || of_prompt) add_wanted(flight, c, p);
      batch.token_ids.push_back(token);
      batch.positions.push_back(static_cast<int32_t>(p));
      batch.slots.push_back(sequence.blocks[static_cast<size_t>(p / size)] * size + p % size);
    }
    batch.seq_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
    batch.context_lens.push_back(static_cast<int32_t>(end));
    batch.block_tables.insert(batch.block_tables.end(), sequence.blocks.begin(),
                              sequence.blocks.end());
    batch.block_tables.resize(batch.context_lens.size() * static_cast<size_t>(batch.max_blocks));
  }
}

/// Gives a slot to each sequence that chooses with a state and has none.
void EngineCore::set_sampling_states(const Flight& flight) {
  for (size_t i = 0; i < flight.wanted.size(); ++i) {
    Sequence& sequence = *flight.schedule.chunks[flight.wanted[i]].sequence;
    SampleRow& row = flight.step->samples[i];
    const Request& request = sequence.request->request;
    if (row.target >= 0 || !needs_state(request.sampling) || sequence.slot >= 0) continue;
    if (free_slots_.empty()) {
      free_slots_.reserve(static_cast<size_t>(slots_) + 1);  // for all to come back
      free_slots_.push_back(slots_++);
    }
    sequence.slot = free_slots_.back();
    free_slots_.pop_back();
    row.state = sequence.slot;
    backend::SamplingState state;
    state.rules = request.sampling.rules;
    state.prompt_ids = request.prompt_ids;
    state.eos_ids = options_.eos_ids;
    if (row.constrained) sequence.path = request.sampling.constraint->start();
    state.path = sequence.path.get();
    for (const int32_t token : sequence.output) state.append(token);
    executor_.set_sampling_state(row, std::move(state));
  }
}

FinishReason EngineCore::reason_to_stop(const Sequence& sequence, int32_t token,
                                        std::optional<int32_t>& stop_token) const {
  const LiveRequest& request = *sequence.request;
  const SamplingParams& params = request.request.sampling;
  const auto generated = static_cast<int64_t>(sequence.output.size());
  // A constrained answer comes to its end before min_tokens only where nothing else is allowed.
  if (generated >= params.min_tokens || params.constraint != nullptr) {
    const std::vector<int32_t>& eos = options_.eos_ids;
    if (!params.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) {
      return FinishReason::kStop;
    }
    const std::vector<int32_t>& stops = params.rules->stop_token_ids;
    if (std::binary_search(stops.begin(), stops.end(), token)) {
      stop_token = token;
      return FinishReason::kStop;
    }
  }
  if (generated >= params.max_tokens || sequence.size() >= options_.max_model_len) {
    return FinishReason::kLength;
  }
  return FinishReason::kNone;
}

/// Appends a chosen token and tells the client; ends the sequence when it is done. False when the
/// client could not be told.
bool EngineCore::accept(Sequence& sequence, Sampled& sampled, TimePoint now) {
  LiveRequest& request = *sequence.request;
  const SamplingParams& params = request.request.sampling;
  SequenceOutput output;
  output.index = sequence.index;
  if (!request.has_first_token) {
    request.has_first_token = true;
    request.first_token = now;
    news_.first_tokens.push_back(seconds_between(request.arrived, now));
  } else if (!sequence.output.empty()) {
    news_.next_tokens.push_back(seconds_between(sequence.last_token, now));
  }
  if (sequence.output.empty()) {
    output.cached_prompt_tokens = static_cast<int32_t>(request.cached_tokens);
    if (sequence.index == 0) output.prompt_logprobs = std::move(request.prompt_logprobs);
  }
  sequence.last_token = now;
  if (params.max_tokens == 0) {
    output.finish = FinishReason::kLength;
    end(sequence, std::move(output));
    return true;
  }
  sequence.output.push_back(sampled.token);
  ++request.generated;
  ++stats_.generated_tokens;
  output.tokens.push_back(sampled.token);
  if (params.logprobs >= 0) output.logprobs.push_back(std::move(sampled.logprobs));
  output.finish = reason_to_stop(sequence, sampled.token, output.stop_token);
  if (output.finish == FinishReason::kNone) return deliver(request, std::move(output));
  end(sequence, std::move(output));
  return true;
}

void EngineCore::end_requests(const std::set<RequestId>& ids, FinishReason reason) {
  for (RequestId id : ids) finish(id, -1, reason);
}

/// After a step: counts rows as computed, hands out tokens, fails what went wrong. What a step
/// chose for a sequence that has ended meanwhile is dropped.
void EngineCore::land(Flight& flight, std::vector<Sampled>& sampled) {
  const TimePoint now = clock_();
  const auto sequence_of = [&](size_t wanted) -> Sequence& {
    return *flight.schedule.chunks[flight.wanted[wanted]].sequence;
  };
  for (size_t i = 0; i < sampled.size(); ++i) {
    if (flight.step->samples[i].target < 0) --sequence_of(i).pending;
  }
  for (const Chunk& chunk : flight.schedule.chunks) {
    scheduler_.landed(chunk);
    if (chunk.sequence->finished && chunk.sequence->flights == 0) release_slot(*chunk.sequence);
  }
  std::set<RequestId> failed;
  std::set<RequestId> touched;
  for (size_t i = 0; i < sampled.size(); ++i) {
    Sequence& sequence = sequence_of(i);
    LiveRequest& request = *sequence.request;
    const RequestId id = request.request.id;
    if (sequence.finished || failed.contains(id)) continue;
    touched.insert(id);
    const bool broken = sampled[i].broken;
    if (!broken && flight.step->samples[i].target >= 0) {
      request.prompt_logprobs.push_back(std::move(sampled[i].logprobs));
    } else if (broken || !accept(sequence, sampled[i], now)) {
      failed.insert(id);
    }
  }
  end_requests(failed, FinishReason::kError);
  for (RequestId id : touched) {
    const auto found = requests_.find(id);
    if (found != requests_.end() && found->second->unfinished == 0) end_request(*found->second);
  }
}

/// After a step that failed in a way that leaves the executor fit for others, or that is given up:
/// ends its requests.
void EngineCore::lose(const Flight& flight) {
  std::set<RequestId> failed;
  for (size_t i = 0; i < flight.wanted.size(); ++i) {
    if (flight.step->samples[i].target >= 0) continue;
    --flight.schedule.chunks[flight.wanted[i]].sequence->pending;
  }
  for (const Chunk& chunk : flight.schedule.chunks) {
    scheduler_.lost(chunk);
    if (!chunk.sequence->finished) failed.insert(chunk.sequence->request->request.id);
    if (chunk.sequence->finished && chunk.sequence->flights == 0) release_slot(*chunk.sequence);
  }
  end_requests(failed, FinishReason::kError);
}

/// What is known of the requests once their rows are chosen but not yet computed.
void EngineCore::note_started(const StepSchedule& schedule, TimePoint now) {
  stats_.prefix_queries += static_cast<uint64_t>(schedule.prefix_queries);
  stats_.prefix_hits += static_cast<uint64_t>(schedule.prefix_hits);
  for (const Chunk& chunk : schedule.chunks) {
    LiveRequest& request = *chunk.sequence->request;
    if (request.has_started) continue;
    request.has_started = true;
    request.started = now;
    request.cached_tokens = static_cast<int64_t>(chunk.reused.size()) * pool_.block_size();
    stats_.prompt_tokens += static_cast<uint64_t>(request.prompt_size());
  }
}

namespace {

/// Runs `work` on a step; false when it failed in a way that leaves the executor fit for the next.
template <typename Work>
bool attempt(int64_t rows, const Work& work) {
  try {
    work();
    return true;
  } catch (const std::bad_alloc&) {
    spdlog::error("no memory for a step of {} rows: its requests end", rows);
  } catch (const base::RequestError& error) {
    spdlog::error("a step of {} rows failed, its requests end: {}", rows, error.what());
  }
  return false;
}

}  // namespace

bool EngineCore::schedule_step() {
  if (in_flight() >= executor_.depth()) return false;
  auto flight = std::make_unique<Flight>();
  flight->schedule = scheduler_.schedule();
  const StepSchedule& schedule = flight->schedule;
  for (const Chunk& chunk : schedule.chunks) {
    flight->rows += chunk.rows;
    if (chunk.decode) flight->decode_rows += chunk.rows;
    flight->requests.push_back(chunk.sequence->request->shared_from_this());
  }
  scheduler_.commit(schedule);
  for (Sequence* sequence : schedule.preempted) release_slot(*sequence);
  // Whoever fits() can run when alone, so an empty schedule means that there is nothing to run, or
  // that steps in flight have to land first. One that preempts is followed by one that does not.
  MOESAIC_ASSERT(!schedule.chunks.empty() || !schedule.preempted.empty() || !flights_.empty() ||
                 requests_.empty());
  if (schedule.chunks.empty()) return false;
  scheduled_ = std::move(flight);
  return true;
}

void EngineCore::submit_step() {
  std::unique_ptr<Flight> flight = std::move(scheduled_);
  flight->submitted = clock_();
  note_started(flight->schedule, flight->submitted);
  const bool submitted = attempt(flight->rows, [&] {
    build(*flight);
    set_sampling_states(*flight);
    executor_.submit(flight->step);
  });
  if (submitted) {
    flights_.push_back(std::move(flight));
  } else {
    lose(*flight);
  }
}

void EngineCore::wait_step() {
  const std::unique_ptr<Flight> flight = std::move(flights_.front());
  flights_.pop_front();
  std::vector<Sampled> sampled;
  const bool computed = attempt(flight->rows, [&] { sampled = executor_.wait(); });
  ++stats_.steps;
  news_ = {};
  if (computed) {
    land(*flight, sampled);
  } else {
    lose(*flight);
  }
  const TimePoint now = clock_();
  news_.prompt_rows = flight->rows - flight->decode_rows;
  news_.decode_rows = flight->decode_rows;
  // Of a step that was submitted while another ran, only the time after that one's end is its own.
  news_.seconds = seconds_between(std::max(flight->submitted, last_landing_), now);
  last_landing_ = now;
  stats_.first_tokens += news_.first_tokens.size();
  stats_.next_tokens += news_.next_tokens.size();
  for (const double seconds : news_.first_tokens) stats_.first_token_seconds += seconds;
  for (const double seconds : news_.next_tokens) stats_.next_token_seconds += seconds;
  observer_.on_step(news_);
}

EngineCore::Load EngineCore::load() const {
  const int64_t running = scheduler_.running_requests();
  return {running, static_cast<int64_t>(requests_.size()) - running};
}

const EngineStats& EngineCore::stats() {
  stats_.running = load().running;
  stats_.waiting = load().waiting;
  stats_.blocks_total = pool_.size();
  stats_.blocks_free = pool_.free();
  stats_.blocks_cached = pool_.cached();
  stats_.blocks_held = pool_.held();
  stats_.preemptions = scheduler_.preemptions();
  return stats_;
}

void EngineCore::check_invariants() const {
  pool_.check_invariants();
  std::map<BlockId, int32_t> holders;
  const auto hold = [&](const Sequence& sequence) {
    for (BlockId block : sequence.blocks) ++holders[block];
    MOESAIC_ASSERT(sequence.computed <= sequence.scheduled);
    MOESAIC_ASSERT(scheduler_.blocks_for(sequence.scheduled) <=
                   static_cast<int64_t>(sequence.blocks.size()));
  };
  for (const Sequence* sequence : scheduler_.running()) hold(*sequence);
  for (const Sequence* sequence : scheduler_.retired()) {
    MOESAIC_ASSERT(sequence->finished && sequence->flights > 0);
    hold(*sequence);
  }
  for (const auto& flight : flights_) {
    // What a step may still write is its sequences' own until it has landed.
    for (size_t c = 0; c < flight->schedule.chunks.size(); ++c) {
      const Sequence& sequence = *flight->schedule.chunks[c].sequence;
      MOESAIC_ASSERT(scheduler_.blocks_for(flight->step->batch.context_lens[c]) <=
                     static_cast<int64_t>(sequence.blocks.size()));
    }
  }
  for (const auto& [block, count] : holders) MOESAIC_ASSERT(pool_.references(block) == count);
  MOESAIC_ASSERT(static_cast<int64_t>(holders.size()) == pool_.held());
  if (idle()) {
    MOESAIC_ASSERT(pool_.held() == 0 && scheduler_.waiting() == 0);
    MOESAIC_ASSERT(static_cast<int32_t>(free_slots_.size()) == slots_);
  }
}

}  // namespace moesaic::engine
