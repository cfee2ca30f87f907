#include "engine/local_executor.h"

#include <span>

namespace moesaic::engine {

LocalExecutor::LocalExecutor(const model::ModelSpec& spec, const model::LoadedWeights& weights,
                             backend::Backend& backend, backend::Communicator& ranks,
                             const model::KvCache& cache, int64_t max_rows, int depth)
    : spec_(spec),
      backend_(backend),
      cache_(cache),
      decoder_(spec, weights, backend, ranks, max_rows),
      depth_(depth) {}

void LocalExecutor::submit(std::shared_ptr<const Step> step) {
  InFlight flight;
  flight.step = std::move(step);
  flight.end = decoder_.forward(flight.step->batch, cache_,
                                [&](const backend::StepView& view, int64_t first, int64_t count) {
                                  sample(view, flight, first, count);
                                });
  flights_.push_back(std::move(flight));
}

void LocalExecutor::sample(const backend::StepView& step, InFlight& flight, int64_t first,
                           int64_t count) {
  if (flight.step->samples.empty()) return;
  // Before sample(), which writes over logits.
  read_for_host(flight, first, count);
  const std::span<const SampleRow> rows = flight.step->samples;
  backend_.sample(step, first,
                  rows.subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
}

void LocalExecutor::read_for_host(InFlight& flight, int64_t first, int64_t count) {
  const backend::Activation logits = backend_.activation(backend::ActivationKind::kLogits);
  const auto vocab = static_cast<size_t>(spec_.vocab_size);
  for (int64_t i = 0; i < count; ++i) {
    const auto wanted = static_cast<size_t>(first + i);
    if (backend_.samples(flight.step->samples[wanted]).empty()) continue;
    HostRow& row = flight.host_rows.emplace_back(HostRow{wanted, std::vector<float>(vocab)});
    backend_.read(logits.address + static_cast<size_t>(i * logits.stride) * sizeof(float),
                  std::as_writable_bytes(std::span(row.logits)));
  }
}

std::vector<Sampled> LocalExecutor::wait() {
  InFlight flight = std::move(flights_.front());
  flights_.pop_front();
  const auto state_of = [&](const SampleRow& row) {
    return row.state < 0 ? nullptr : &host_states_.at(static_cast<size_t>(row.state));
  };
  // What constraints allow is found while the backend computes; sample() asks for it again.
  std::vector<uint32_t> words(static_cast<size_t>((spec_.vocab_size + 31) / 32));
  for (const HostRow& host : flight.host_rows) {
    const SampleRow& row = flight.step->samples[host.wanted];
    if (row.constrained && state_of(row)->path != nullptr) state_of(row)->path->allow(words);
  }
  std::vector<Sampled> sampled = backend_.take_samples(flight.end);
  for (HostRow& host : flight.host_rows) {
    const SampleRow& row = flight.step->samples[host.wanted];
    backend::SamplingState* state = state_of(row);
    Sampled& result = sampled[host.wanted];
    result = backend::sample(host.logits, row, state);
    if (state != nullptr && row.target < 0 && !result.broken) state->append(result.token);
  }
  return sampled;
}

void LocalExecutor::set_sampling_state(const SampleRow& row, backend::SamplingState state) {
  if (backend_.samples(row).empty()) {
    backend_.set_sampling_state(row.state, std::move(state));
    return;
  }
  const auto slot = static_cast<size_t>(row.state);
  if (slot >= host_states_.size()) host_states_.resize(slot + 1);
  host_states_[slot] = std::move(state);
}

ExpertCounts LocalExecutor::expert_counts() const {
  ExpertCounts result{spec_.moe_layers(), spec_.max_experts(), {}};
  result.counts.resize(static_cast<size_t>(result.layers * result.experts));
  backend_.expert_counts(result.counts);
  return result;
}

}  // namespace moesaic::engine
