#include "engine/scheduler.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "base/error.h"

namespace moesaic::engine {

Scheduler::Scheduler(const EngineOptions& options, BlockPool& pool)
    : options_(options),
      pool_(pool),
      order_{options.priority_scheduling},
      turns_(TurnBefore{options.priority_scheduling}) {}

int64_t Scheduler::blocks_for(int64_t tokens) const {
  return (tokens + pool_.block_size() - 1) / pool_.block_size();
}

int64_t Scheduler::waiting() const {
  size_t count = 0;
  for (const auto& [id, group] : groups_) count += group.waiting.size();
  return static_cast<int64_t>(count);
}

void Scheduler::add(Sequence* sequence) {
  LiveRequest& request = *sequence->request;
  const uint64_t id = request.request.group != 0 ? request.request.group : request.request.id;
  const auto [entry, fresh] =
      groups_.try_emplace(id, Group{id, request.request.priority, request.arrival, 0,
                                    std::set<Sequence*, ServedBefore>(order_)});
  request.group = &entry->second;
  try {
    if (fresh) turns_.insert({request.group, 0});
    request.group->waiting.insert(sequence);
  } catch (...) {
    forget_if_empty(request);
    throw;
  }
}

/// Moves a group to its new place among the turns; takes no memory.
void Scheduler::count_running(Group& group, int64_t change) {
  auto turn = turns_.extract({&group, group.running});
  group.running += change;
  turn.value().running = group.running;
  turns_.insert(std::move(turn));
}

void Scheduler::forget_if_empty(LiveRequest& request) {
  const Group& group = *request.group;
  if (group.running > 0 || !group.waiting.empty()) return;
  turns_.erase({request.group, 0});
  groups_.erase(group.id);
  request.group = nullptr;
}

void Scheduler::give_back(Sequence& sequence) {
  // Last block first: the beginning of a prompt is what others share, so it is evicted last.
  for (auto block = sequence.blocks.rbegin(); block != sequence.blocks.rend(); ++block) {
    pool_.release(*block);
  }
  sequence.blocks.clear();
  sequence.computed = 0;
  sequence.scheduled = 0;
  sequence.published = 0;
  sequence.chain_end = {};
  sequence.chain_broken = false;
  sequence.running = false;
}

void Scheduler::remove(Sequence* sequence) {
  LiveRequest& request = *sequence->request;
  if (request.group == nullptr) return;  // there was no memory to add() it
  if (sequence->running) {
    running_.erase(std::find(running_.begin(), running_.end(), sequence));
    if (sequence->flights > 0) {
      sequence->running = false;
      retired_.push_back(sequence);
    } else {
      give_back(*sequence);
    }
    count_running(*request.group, -1);
  } else {
    request.group->waiting.erase(sequence);
  }
  forget_if_empty(request);
}

/// Requests that want log-probabilities of their prompt must compute every row of it once. The
/// later sequences of a request begin with its first one's prompt even where prefix caching is off.
bool Scheduler::reuses(const Sequence& sequence) const {
  if (sequence.index > 0) return true;
  const LiveRequest& request = *sequence.request;
  return options_.prefix_caching &&
         (request.request.sampling.prompt_logprobs < 0 || sequence.size() > request.prompt_size());
}

bool Scheduler::publishes(const Sequence& sequence) const {
  return options_.prefix_caching || sequence.request->request.sampling.n > 1;
}

void Scheduler::extend_keys(Sequence& sequence, int64_t blocks) const {
  const int64_t size = pool_.block_size();
  std::vector<int32_t> scratch;
  for (auto b = static_cast<int64_t>(sequence.keys.size()); b < blocks; ++b) {
    const BlockKey parent = b == 0 ? BlockKey{} : sequence.keys.back();
    sequence.keys.push_back(chain_key(parent, sequence.tokens(b * size, size, scratch), size));
  }
}

/// Positions that a running sequence may have computed next. None come after a token that ends it
/// for certain, nor after one that the next step cannot have before it is known.
int64_t Scheduler::rows_left(const Sequence& sequence) const {
  if (sequence.pending > 0) {
    const int64_t most = std::max(sequence.request->request.sampling.max_tokens, 1);
    const int64_t output = static_cast<int64_t>(sequence.output.size()) + sequence.pending;
    if (output >= most || sequence.length() >= options_.max_model_len) return 0;
    const bool follows = sequence.may_follow && sequence.pending_step == steps_;
    if (!follows) return sequence.size() - sequence.scheduled;
  }
  return sequence.length() - sequence.scheduled;
}

/// The longest chain of cached blocks that a sequence about to start can begin with. Its last token
/// is always computed, since its logits are wanted.
std::vector<BlockId> Scheduler::find_reusable(Sequence& sequence) const {
  std::vector<BlockId> blocks;
  if (!reuses(sequence)) return blocks;
  const int64_t size = pool_.block_size();
  const int64_t most = (sequence.size() - 1) / size;
  extend_keys(sequence, most);
  Content parent;
  std::vector<int32_t> scratch;
  for (int64_t b = 0; b < most; ++b) {
    const auto found = pool_.find(sequence.keys[static_cast<size_t>(b)], parent,
                                  sequence.tokens(b * size, size, scratch));
    if (!found) break;
    parent = *found;
    blocks.push_back(found->block);
  }
  return blocks;
}

/// The scratch copy that a schedule is made on.
class Scheduler::Draft {
 public:
  explicit Draft(const Scheduler& scheduler)
      : scheduler_(scheduler),
        budget_(scheduler.options_.max_rows),
        available_(scheduler.pool_.available()),
        running_(scheduler.running_) {}

  StepSchedule make() {
    std::vector<Sequence*> decodes, prompts;
    for (Sequence* sequence : running_) {
      const int64_t rows = scheduler_.rows_left(*sequence);
      if (rows > 0) (rows == 1 ? decodes : prompts).push_back(sequence);
    }
    for (Sequence* sequence : decodes) grow(sequence, true, 1);
    for (size_t i = 0; i < prompts.size(); ++i) {
      grow(prompts[i], false, rows_for_prompt(i + 1 < prompts.size() || newcomer_waits()));
    }
    if (schedule_.preempted.empty()) start_waiting();
    if (!schedule_.preempted.empty() && scheduler_.flights_ > 0) return {};
    use_up_rows();
    return std::move(schedule_);
  }

 private:
  bool is_running(const Sequence* sequence) const {
    return std::find(running_.begin(), running_.end(), sequence) != running_.end();
  }

  int64_t running(const Group& group) const {
    const auto gone = preempted_.find(&group);
    return group.running - (gone == preempted_.end() ? 0 : gone->second);
  }

  /// Who gives way first, among sequences of `priority` and worse: the youngest of the group that
  /// runs most, so that a client with many does so before one with few. Never the oldest of all
  /// while there is another.
  Sequence* first_to_yield(int32_t priority) const {
    Sequence* found = nullptr;
    int64_t most = 0;
    for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
      const LiveRequest& request = *(*it)->request;
      if (scheduler_.order_.by_priority && request.request.priority < priority) break;
      const int64_t count = running(*request.group);
      if (count <= most) continue;
      most = count;
      found = *it;
    }
    return found;
  }

  /// A prompt leaves a quarter of the rows to those behind it, so that a short one does not wait
  /// for a long one's end.
  int64_t rows_for_prompt(bool others) const { return others ? budget_ - budget_ / 4 : budget_; }

  /// Whether a group that runs nothing could start something if there were rows.
  bool newcomer_waits() const {
    if (full() || scheduler_.turns_.empty()) return false;
    const Turn& turn = *scheduler_.turns_.begin();
    return turn.running == 0 && first_ready(*turn.group, nullptr) != nullptr;
  }

  /// Gives a running sequence at most `most` rows, preempting others for blocks if it must.
  void grow(Sequence* sequence, bool decode, int64_t most) {
    if (budget_ == 0) return;
    if (!schedule_.preempted.empty() && !is_running(sequence)) return;
    const int64_t rows = std::min(scheduler_.rows_left(*sequence), most);
    const int64_t needed = scheduler_.blocks_for(sequence->scheduled + rows) -
                           static_cast<int64_t>(sequence->blocks.size());
    while (available_ < needed) {
      Sequence* other = first_to_yield(running_.back()->request->request.priority);
      preempt(other);
      if (other == sequence) return;
    }
    available_ -= needed;
    budget_ -= rows;
    schedule_.chunks.push_back({sequence, rows, needed, {}, decode});
  }

  void preempt(Sequence* sequence) {
    running_.erase(std::find(running_.begin(), running_.end(), sequence));
    ++preempted_[sequence->request->group];
    schedule_.preempted.push_back(sequence);
    const auto planned =
        std::find_if(schedule_.chunks.begin(), schedule_.chunks.end(),
                     [&](const Chunk& chunk) { return chunk.sequence == sequence; });
    if (planned != schedule_.chunks.end()) {
      available_ += planned->new_blocks;
      budget_ += planned->rows;
      schedule_.chunks.erase(planned);
    }
    // A shared block comes back only when its last holder gives it up.
    for (BlockId block : sequence->blocks) {
      auto [entry, fresh] = references_.try_emplace(block, 0);
      if (fresh) entry->second = scheduler_.pool_.references(block);
      if (--entry->second == 0) ++available_;
    }
  }

  /// Blocks that running sequences still need for the tokens they have.
  int64_t promised() const {
    int64_t blocks = 0;
    for (const Sequence* sequence : running_) {
      blocks +=
          scheduler_.blocks_for(sequence->length()) - static_cast<int64_t>(sequence->blocks.size());
    }
    for (const Chunk& chunk : schedule_.chunks) {
      blocks -= chunk.new_blocks + static_cast<int64_t>(chunk.reused.size());
    }
    return blocks;
  }

  /// Starts sequences, group by group in turns, until something is used up.
  void start_waiting() {
    const TurnBefore before = scheduler_.turns_.key_comp();
    // Groups that have had a turn in this schedule, and what each started last.
    std::map<Turn, Sequence*, TurnBefore> again(before);
    bool started = false;
    auto next = scheduler_.turns_.begin();
    const auto end = scheduler_.turns_.end();
    while (next != end || !again.empty()) {
      Turn turn{};
      Sequence* last = nullptr;
      if (again.empty() || (next != end && before(*next, again.begin()->first))) {
        turn = *next++;
      } else {
        std::tie(turn, last) = *again.begin();
        again.erase(again.begin());
      }
      Sequence* sequence = first_ready(*turn.group, last);
      if (sequence == nullptr) continue;
      if (full()) {
        if (turn.running == 0 && !started) make_place(*turn.group);
        return;
      }
      const bool others = next != end && next->running == 0;
      if (budget_ == 0 || !start(sequence, rows_for_prompt(others))) return;
      started = true;
      again[{turn.group, turn.running + 1}] = sequence;
    }
  }

  /// The first waiting sequence of a group after `last` that does not wait for its prompt; or null.
  static Sequence* first_ready(const Group& group, Sequence* last) {
    auto next = last == nullptr ? group.waiting.begin() : group.waiting.upper_bound(last);
    while (next != group.waiting.end()) {
      const LiveRequest& request = *(*next)->request;
      if ((*next)->index == 0 || request.prompt_done()) return *next;
      next = group.waiting.upper_bound(request.sequences.back().get());
    }
    return nullptr;
  }

  /// Whether another running sequence would have no place or no row.
  bool full() const {
    const EngineOptions& options = scheduler_.options_;
    return static_cast<int64_t>(running_.size()) >=
           std::min(options.max_sequences, options.max_rows);
  }

  /// A group with nothing running gets a place, in the next step, where another has several.
  void make_place(const Group& group) {
    Sequence* other = first_to_yield(group.priority);
    if (other != nullptr && running(*other->request->group) > 1) preempt(other);
  }

  /// Rows left over for others who could not use them go to the first prompt that can.
  void use_up_rows() {
    const int64_t size = scheduler_.pool_.block_size();
    for (Chunk& chunk : schedule_.chunks) {
      const Sequence& sequence = *chunk.sequence;
      const auto reused = static_cast<int64_t>(chunk.reused.size());
      const int64_t begin = sequence.running ? sequence.scheduled : reused * size;
      const int64_t end = begin + chunk.rows;
      const int64_t left = scheduler_.rows_left(sequence) - (sequence.running ? 0 : begin);
      const int64_t rows = std::min(left - chunk.rows, budget_);
      const int64_t held = static_cast<int64_t>(sequence.blocks.size()) + reused + chunk.new_blocks;
      const int64_t blocks = scheduler_.blocks_for(end + rows) - held;
      if (rows == 0 || blocks > available_) continue;
      chunk.rows += rows;
      chunk.new_blocks += blocks;
      available_ -= blocks;
      budget_ -= rows;
    }
  }

  bool start(Sequence* sequence, int64_t most_rows) {
    Chunk chunk{sequence, 0, 0, scheduler_.find_reusable(*sequence), false};
    const auto reused = static_cast<int64_t>(chunk.reused.size());
    int64_t revived = 0;
    for (BlockId block : chunk.reused) {
      if (scheduler_.pool_.references(block) == 0 && !revived_.contains(block)) ++revived;
    }
    const int64_t cached = reused * scheduler_.pool_.block_size();
    // Room for all its tokens and the first that it will choose: starting a prompt that could not
    // be finished would only push others out.
    const int64_t whole = scheduler_.blocks_for(sequence->size() + 1) - reused;
    if (!running_.empty() && available_ - revived - promised() < whole) return false;
    chunk.rows = std::min(sequence->size() - cached, most_rows);
    chunk.new_blocks = scheduler_.blocks_for(cached + chunk.rows) - reused;
    if (available_ - revived < chunk.new_blocks) return false;
    for (BlockId block : chunk.reused) {
      if (scheduler_.pool_.references(block) == 0) revived_.insert(block);
    }
    available_ -= revived + chunk.new_blocks;
    budget_ -= chunk.rows;
    if (scheduler_.options_.prefix_caching && scheduler_.reuses(*sequence)) {
      schedule_.prefix_queries += sequence->size();
      schedule_.prefix_hits += cached;
    }
    schedule_.chunks.push_back(std::move(chunk));
    running_.push_back(sequence);
    return true;
  }

  const Scheduler& scheduler_;
  int64_t budget_;
  int64_t available_;
  std::vector<Sequence*> running_;
  std::unordered_map<const Group*, int64_t> preempted_;
  std::unordered_map<BlockId, int32_t> references_;
  std::set<BlockId> revived_;
  StepSchedule schedule_;
};

StepSchedule Scheduler::schedule() const { return Draft(*this).make(); }

/// All memory that carrying a schedule out takes is got first, so that it happens whole or not at
/// all.
void Scheduler::commit(const StepSchedule& schedule) {
  std::set<Sequence*, ServedBefore> returning(order_);
  for (Sequence* sequence : schedule.preempted) returning.insert(sequence);
  running_.reserve(running_.size() + schedule.chunks.size());
  retired_.reserve(retired_.size() + running_.size() + schedule.chunks.size());
  for (const Chunk& chunk : schedule.chunks) {
    std::vector<BlockId>& blocks = chunk.sequence->blocks;
    blocks.reserve(blocks.size() + chunk.reused.size() + static_cast<size_t>(chunk.new_blocks));
  }

  ++steps_;
  for (Sequence* sequence : schedule.preempted) {
    running_.erase(std::find(running_.begin(), running_.end(), sequence));
    give_back(*sequence);
    Group& group = *sequence->request->group;
    count_running(group, -1);
    group.waiting.insert(returning.extract(sequence));
    ++preemptions_;
  }
  // Reused blocks first: a new block must not be one that another chunk is about to reuse.
  for (const Chunk& chunk : schedule.chunks) {
    for (BlockId block : chunk.reused) {
      pool_.retain(block);
      chunk.sequence->blocks.push_back(block);
    }
  }
  for (const Chunk& chunk : schedule.chunks) {
    if (!chunk.sequence->running) start(chunk);
    for (int64_t i = 0; i < chunk.new_blocks; ++i) {
      chunk.sequence->blocks.push_back(pool_.take());
    }
    chunk.sequence->scheduled += chunk.rows;
    ++chunk.sequence->flights;
    ++flights_;
  }
}

/// Moves a waiting sequence among the running ones; it holds the blocks it reuses.
void Scheduler::start(const Chunk& chunk) {
  Sequence& sequence = *chunk.sequence;
  sequence.running = true;
  sequence.computed = static_cast<int64_t>(chunk.reused.size()) * pool_.block_size();
  sequence.scheduled = sequence.computed;
  sequence.published = static_cast<int64_t>(chunk.reused.size());
  if (!chunk.reused.empty()) sequence.chain_end = pool_.content(chunk.reused.back());
  sequence.request->group->waiting.erase(&sequence);
  count_running(*sequence.request->group, 1);
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence, order_), &sequence);
}

void Scheduler::end_flight(Sequence& sequence) {
  --flights_;
  if (--sequence.flights > 0) return;
  const auto retired = std::find(retired_.begin(), retired_.end(), &sequence);
  if (retired == retired_.end()) return;
  retired_.erase(retired);
  give_back(sequence);
}

void Scheduler::lost(const Chunk& chunk) { end_flight(*chunk.sequence); }

void Scheduler::landed(const Chunk& chunk) {
  Sequence& sequence = *chunk.sequence;
  if (sequence.running) {
    sequence.computed += chunk.rows;
    if (publishes(sequence)) publish(sequence);
  }
  end_flight(sequence);
}

/// Offers the full blocks of what is computed to the prefix cache.
void Scheduler::publish(Sequence& sequence) {
  const int64_t size = pool_.block_size();
  const int64_t full = sequence.computed / size;
  std::vector<int32_t> scratch;
  extend_keys(sequence, full);
  for (; sequence.published < full && !sequence.chain_broken; ++sequence.published) {
    const auto b = static_cast<size_t>(sequence.published);
    const auto stands = pool_.publish(sequence.blocks[b], sequence.keys[b], sequence.chain_end,
                                      sequence.tokens(sequence.published * size, size, scratch));
    sequence.chain_broken = !stands;
    if (stands) sequence.chain_end = *stands;
  }
}

int64_t Scheduler::running_requests() const {
  // The sequences of a request follow each other in serving order.
  int64_t count = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    if (i == 0 || running_[i]->request != running_[i - 1]->request) ++count;
  }
  return count;
}

}  // namespace moesaic::engine
