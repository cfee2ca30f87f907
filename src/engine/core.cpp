#include "engine/core.h"

#include <algorithm>
#include <map>
#include <new>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "engine/sampler.h"

namespace moesaic::engine {
namespace {

double seconds_between(TimePoint from, TimePoint to) {
  return std::chrono::duration<double>(to - from).count();
}

bool counts_output(const SamplingParams& params) {
  return params.presence_penalty != 0 || params.frequency_penalty != 0 ||
         params.repetition_penalty != 1.0f;
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

/// What came of one row of logits: a chosen token, or log-probabilities of the prompt's next token;
/// neither when the row cannot be used, and then its request has failed.
struct RowResult {
  std::optional<Sampled> sampled;
  std::optional<PositionLogprobs> prompt;
};

/// A step under way: its chunks, the batch, and what each wanted row of logits is for.
struct EngineCore::Step {
  Plan plan;
  model::StepBatch batch;
  struct Wanted {
    size_t chunk;
    int64_t position;  ///< the row's; its logits speak of position + 1
  };
  std::vector<Wanted> wanted;      ///< as StepBatch::logit_rows
  std::vector<RowResult> results;  ///< one per wanted row
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
    request.prompt_ids = request.prompt;
    std::sort(request.prompt_ids.begin(), request.prompt_ids.end());
    const auto end = std::unique(request.prompt_ids.begin(), request.prompt_ids.end());
    request.prompt_ids.erase(end, request.prompt_ids.end());
    request.prompt_ids.shrink_to_fit();
  }
  return Refusal::kNone;
}

void EngineCore::add(Request request) {
  MOESAIC_ASSERT(fits(options_, request) && knows_tokens(executor_.vocab_size(), request));
  MOESAIC_ASSERT(!requests_.contains(request.id));
  auto live = std::make_unique<LiveRequest>();
  live->arrival = arrivals_++;
  live->arrived = clock_();
  live->unfinished = request.sampling.n;
  const uint64_t seed =
      request.sampling.seed.value_or(sequence_seed(options_.seed + live->arrival + 1, 1));
  for (int32_t i = 0; i < request.sampling.n; ++i) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = live.get();
    sequence->index = i;
    sequence->seed = sequence_seed(seed, i);
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

/// Gives the blocks back and makes the last delivery.
void EngineCore::end(Sequence& sequence, SequenceOutput output) {
  LiveRequest& request = *sequence.request;
  scheduler_.remove(&sequence);
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

/// Lays the plan out as flat arrays.
void EngineCore::build(Step& step) const {
  const Plan& plan = step.plan;
  model::StepBatch& batch = step.batch;
  for (const Chunk& chunk : plan.chunks) {
    batch.max_blocks =
        std::max(batch.max_blocks, static_cast<int64_t>(chunk.sequence->blocks.size()));
  }
  batch.seq_starts.push_back(0);
  const int64_t size = pool_.block_size();
  for (size_t c = 0; c < plan.chunks.size(); ++c) {
    const Chunk& chunk = plan.chunks[c];
    const Sequence& sequence = *chunk.sequence;
    const int64_t end = sequence.computed + chunk.rows;
    const LiveRequest& request = *sequence.request;
    const bool prompt_logprobs = request.request.sampling.prompt_logprobs >= 0 &&
                                 sequence.index == 0 && sequence.output.empty();
    for (int64_t p = sequence.computed; p < end; ++p) {
      const bool last = p + 1 == sequence.size();
      // Rows whose next token is the prompt's own; done once, even if the request is recomputed.
      const bool of_prompt = prompt_logprobs && p + 1 < request.prompt_size() &&
                             p >= static_cast<int64_t>(request.prompt_logprobs.size());
      if (last || of_prompt) {
        batch.logit_rows.push_back(static_cast<int32_t>(batch.token_ids.size()));
        step.wanted.push_back({c, p});
      }
      batch.token_ids.push_back(sequence.token(p));
      batch.positions.push_back(static_cast<int32_t>(p));
      batch.slots.push_back(sequence.blocks[static_cast<size_t>(p / size)] * size + p % size);
    }
    batch.seq_starts.push_back(static_cast<int32_t>(batch.token_ids.size()));
    batch.context_lens.push_back(static_cast<int32_t>(end));
    batch.block_tables.insert(batch.block_tables.end(), sequence.blocks.begin(),
                              sequence.blocks.end());
    batch.block_tables.resize(batch.context_lens.size() * static_cast<size_t>(batch.max_blocks));
  }
  step.results.resize(step.wanted.size());
}

void EngineCore::take_row(const Step& step, int64_t row, std::span<float> logits,
                          RowResult& result) {
  const Step::Wanted& wanted = step.wanted[static_cast<size_t>(row)];
  const Sequence& sequence = *step.plan.chunks[wanted.chunk].sequence;
  const SamplingParams& params = sequence.request->request.sampling;
  if (wanted.position + 1 < sequence.size()) {
    result.prompt =
        logprobs_of(logits, sequence.token(wanted.position + 1), params.prompt_logprobs);
    return;
  }
  SamplingContext context;
  context.params = &params;
  context.output = sequence.output;
  context.prompt_ids = sequence.request->request.prompt_ids;
  context.output_counts = &sequence.output_counts;
  context.eos_ids = options_.eos_ids;
  context.seed = sequence.seed;
  result.sampled = sample(logits, context);
}

void EngineCore::take_logits(Step& step, int64_t first, int64_t count, float* logits) {
  const auto vocab = static_cast<size_t>(executor_.vocab_size());
  executor_.parallel_for(count, [&](int64_t i) {
    RowResult& result = step.results[static_cast<size_t>(first + i)];
    try {
      take_row(step, first + i, {logits + static_cast<size_t>(i) * vocab, vocab}, result);
    } catch (const std::bad_alloc&) {
      result = {};  // compute threads must not throw; an empty result fails the request
    }
  });
}

FinishReason EngineCore::reason_to_stop(const Sequence& sequence, int32_t token,
                                        std::optional<int32_t>& stop_token) const {
  const LiveRequest& request = *sequence.request;
  const SamplingParams& params = request.request.sampling;
  const auto generated = static_cast<int64_t>(sequence.output.size());
  if (generated >= params.min_tokens) {
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
bool EngineCore::accept(Sequence& sequence, RowResult& result, TimePoint now) {
  LiveRequest& request = *sequence.request;
  const SamplingParams& params = request.request.sampling;
  SequenceOutput output;
  output.index = sequence.index;
  if (!request.has_first_token) {
    request.has_first_token = true;
    request.first_token = now;
    observer_.on_first_token(seconds_between(request.arrived, now));
  } else if (!sequence.output.empty()) {
    observer_.on_token(seconds_between(sequence.last_token, now));
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
  const int32_t token = result.sampled->token;
  sequence.output.push_back(token);
  if (counts_output(params)) ++sequence.output_counts[token];
  ++request.generated;
  ++stats_.generated_tokens;
  output.tokens.push_back(token);
  if (params.logprobs >= 0) output.logprobs.push_back(std::move(result.sampled->logprobs));
  output.finish = reason_to_stop(sequence, token, output.stop_token);
  if (output.finish == FinishReason::kNone) return deliver(request, std::move(output));
  end(sequence, std::move(output));
  return true;
}

/// After the forward pass: counts rows as computed, hands out tokens, fails what went wrong.
void EngineCore::advance(Step& step) {
  const TimePoint now = clock_();
  for (const Chunk& chunk : step.plan.chunks) scheduler_.computed(chunk);
  std::set<RequestId> failed;
  std::set<RequestId> touched;
  for (size_t i = 0; i < step.wanted.size(); ++i) {
    Sequence& sequence = *step.plan.chunks[step.wanted[i].chunk].sequence;
    LiveRequest& request = *sequence.request;
    RowResult& result = step.results[i];
    const RequestId id = request.request.id;
    if (failed.contains(id)) continue;
    touched.insert(id);
    if (result.prompt) {
      request.prompt_logprobs.push_back(std::move(*result.prompt));
    } else if (!result.sampled || !accept(sequence, result, now)) {
      failed.insert(id);
    }
  }
  for (RequestId id : failed) finish(id, -1, FinishReason::kError);
  for (RequestId id : touched) {
    const auto found = requests_.find(id);
    if (found != requests_.end() && found->second->unfinished == 0) end_request(*found->second);
  }
}

/// What is known of the requests once their rows are chosen but not yet computed.
void EngineCore::note_started(const Plan& plan, TimePoint now) {
  stats_.prefix_queries += static_cast<uint64_t>(plan.prefix_queries);
  stats_.prefix_hits += static_cast<uint64_t>(plan.prefix_hits);
  for (const Chunk& chunk : plan.chunks) {
    LiveRequest& request = *chunk.sequence->request;
    if (request.has_started) continue;
    request.has_started = true;
    request.started = now;
    request.cached_tokens = static_cast<int64_t>(chunk.reused.size()) * pool_.block_size();
    stats_.prompt_tokens += static_cast<uint64_t>(request.prompt_size());
  }
}

/// Runs the batch; false when it failed in a way that leaves the executor fit for the next one.
bool EngineCore::execute(Step& step) {
  const auto sink = [&](int64_t first, int64_t count, float* logits) {
    take_logits(step, first, count, logits);
  };
  try {
    executor_.execute(step.batch, sink, counts_);
    return true;
  } catch (const std::bad_alloc&) {
    spdlog::error("no memory for a step of {} rows: its requests end", step.batch.rows());
  } catch (const base::RequestError& error) {
    spdlog::error("a step of {} rows failed, its requests end: {}", step.batch.rows(),
                  error.what());
  }
  return false;
}

void EngineCore::count_experts() {
  stats_.moe_layers = counts_.layers;
  stats_.experts = counts_.experts;
  stats_.expert_tokens.resize(counts_.counts.size());
  for (size_t i = 0; i < counts_.counts.size(); ++i) {
    stats_.expert_tokens[i] += static_cast<uint64_t>(counts_.counts[i]);
  }
}

bool EngineCore::plan_step() {
  auto step = std::make_unique<Step>();
  step->plan = scheduler_.plan();
  scheduler_.commit(step->plan);
  // Whoever fits() can run when alone, so an empty plan means that there is nothing to run.
  MOESAIC_ASSERT(!step->plan.chunks.empty() || requests_.empty());
  if (step->plan.chunks.empty()) return false;
  step_ = std::move(step);
  return true;
}

void EngineCore::run_step() {
  const std::unique_ptr<Step> owned = std::move(step_);
  Step& step = *owned;
  const TimePoint start = clock_();
  note_started(step.plan, start);
  build(step);
  const bool computed = execute(step);
  ++stats_.steps;
  int64_t decode_rows = 0;
  std::set<RequestId> failed;
  for (const Chunk& chunk : step.plan.chunks) {
    if (chunk.decode) decode_rows += chunk.rows;
    if (!computed) failed.insert(chunk.sequence->request->request.id);
  }
  if (computed) {
    count_experts();
    advance(step);
  }
  for (RequestId id : failed) finish(id, -1, FinishReason::kError);
  observer_.on_step(step.batch.rows() - decode_rows, decode_rows, seconds_between(start, clock_()));
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
  for (const Sequence* sequence : scheduler_.running()) {
    for (BlockId block : sequence->blocks) ++holders[block];
    MOESAIC_ASSERT(scheduler_.blocks_for(sequence->computed) <=
                   static_cast<int64_t>(sequence->blocks.size()));
  }
  for (const auto& [block, count] : holders) MOESAIC_ASSERT(pool_.references(block) == count);
  MOESAIC_ASSERT(static_cast<int64_t>(holders.size()) == pool_.held());
  if (idle()) MOESAIC_ASSERT(pool_.held() == 0 && scheduler_.waiting() == 0);
}

}  // namespace moesaic::engine
