#include "plan/throughput.h"

#include <algorithm>
#include <cmath>

namespace moesaic::plan {

namespace {

using model::AttentionKind;
using model::LayerSpec;
using model::ModelSpec;
using model::Part;
using model::SpecTensor;

double real(int64_t value) { return static_cast<double>(value); }

/// What a step must read and compute on each device of a stage, summed over all layers.
struct Work {
  double bytes = 0;  ///< weights and KV
  double operations = 0;
  double distinct = 0;  ///< most distinct experts expected in a layer
};

/// A step's tokens.
struct Step {
  double rows = 0;        ///< tokens
  double logit_rows = 0;  ///< those that want logits
  double sequences = 0;
  double context = 0;  ///< cached tokens that a sequence's rows attend to, on average
  bool prefill = false;
};

class Sizer {
 public:
  Sizer(const ModelSpec& spec, const Layout& layout, const WeightFormat& format,
        double kv_element_bytes)
      : spec_(spec), layout_(layout), format_(format), kv_bytes_(kv_element_bytes) {}

  Work work(const Step& step) const {
    Work work;
    for (const LayerSpec& layer : spec_.layers) {
      weights(layer, step, work);
      attention(layer.attention, step, work);
    }
    for (const SpecTensor& tensor : output_tensors(spec_)) head(tensor, step, work);
    if (spec_.tied_embeddings) head(embedding_tensor(spec_), step, work);
    return work;
  }

 private:
  void weights(const LayerSpec& layer, const Step& step, Work& work) const {
    double distinct = 0;
    if (layer.ffn.moe) {
      distinct = expected_experts(real(layer.ffn.experts), layer.ffn.chosen(), step.rows);
      work.distinct = std::max(work.distinct, distinct);
    }
    const double devices = real(layout_.stage_devices());
    for (const SpecTensor& tensor : layer_tensors(spec_, layer)) {
      const double one = real(tensor.rows * tensor.columns);
      if (tensor.part == Part::kExpert) {
        // Each of the ep groups reads its share of the experts that the batch touches.
        work.bytes += tensor_bytes(tensor, layout_, format_, distinct / real(layout_.ep));
        work.operations += 2 * one * layer.ffn.chosen() * step.rows / devices;
      } else {
        const double bytes = tensor_bytes(tensor, layout_, format_);
        work.bytes += bytes;
        const double cut = tensor.cut == model::Cut::kNone ? 1 : devices;
        work.operations += 2 * one / cut * step.rows;
      }
    }
  }

  void attention(const model::AttentionSpec& attention, const Step& step, Work& work) const {
    const double devices = real(layout_.stage_devices());
    if (attention.kind == AttentionKind::kRecurrent) {
      // The state is read and written once a step, and each token decays it, adds to it, reads it.
      work.bytes += 2 * step.sequences * state_bytes(attention, layout_);
      work.operations += 6 * step.rows * real(attention.recurrent.state) / devices;
    }
    if (attention.heads == 0) return;
    const double window = real(attention.sliding_window);
    double seen = window > 0 ? std::min(window, step.context) : step.context;
    const model::IndexerSpec& indexer = attention.indexer;
    if (indexer.heads > 0) {
      work.bytes += step.sequences * step.context * indexer.cached_bytes();
      work.operations += 2 * step.rows * step.context * real(indexer.heads * indexer.dim);
    }
    if (indexer.top_k > 0) seen = std::min(seen, real(indexer.top_k));
    const double token = cached_bytes(attention, layout_, kv_bytes_) - indexer.cached_bytes();
    work.bytes += step.sequences * seen * token;
    // Scores and weighted sum. Decoding with a latent attends over the latent itself.
    const bool latent = attention.kind == AttentionKind::kMla;
    double width =
        real(attention.head_dim) + real(attention.output_width()) / real(attention.heads);
    if (latent && !step.prefill) width = real(attention.cached_values() + attention.latent.kv_rank);
    work.operations += 2 * step.rows * seen * width * real(attention.heads) / devices;
  }

  void head(const SpecTensor& tensor, const Step& step, Work& work) const {
    work.bytes += tensor_bytes(tensor, layout_, format_);
    work.operations +=
        2 * real(tensor.rows * tensor.columns) * step.logit_rows / real(layout_.stage_devices());
  }

  const ModelSpec& spec_;
  const Layout& layout_;
  const WeightFormat& format_;
  double kv_bytes_;
};

/// Seconds that the devices of a stage spend on exchanging, at full rates and as expected: two
/// all-reduces of the hidden state a layer (attention's output and the feed-forward's), by the ring
/// that moves 2 (n - 1) / n of the data (https://doi.org/10.1016/j.jpdc.2008.09.002); and one
/// hand-over between stages.
struct Exchange {
  double ideal = 0, expected = 0;
};

Exchange exchange(const ModelSpec& spec, const Layout& layout, const Machine& machine,
                  double rows) {
  Exchange time;
  const Efficiency& efficiency = *machine.efficiency;
  const double state = rows * real(spec.hidden) * 2;
  const double devices = real(layout.stage_devices());
  const auto add = [&](bool network, double times, double bytes) {
    const double link = network ? machine.network_bandwidth : machine.device->link_bandwidth;
    const double latency = network ? efficiency.network_seconds : efficiency.link_seconds;
    time.ideal += times * bytes / link;
    time.expected += times * (bytes / link / efficiency.link_share + latency);
  };
  if (layout.stage_devices() > 1) {
    const double reduces = 2 * real(static_cast<int64_t>(spec.layers.size()));
    add(layout.stage_devices() > machine.node_devices, reduces,
        2 * (devices - 1) / devices * state);
  }
  if (layout.pp > 1) {
    add(layout.devices() > machine.node_devices, real(layout.pp - 1), state / devices);
  }
  return time;
}

/// Times of one step through all stages.
Estimate step_estimate(const ModelSpec& spec, const Layout& layout, const WeightFormat& format,
                       double kv_element_bytes, const Machine& machine, const Step& step) {
  const Accelerator& device = *machine.device;
  const Efficiency& efficiency = *machine.efficiency;
  const Work work = Sizer(spec, layout, format, kv_element_bytes).work(step);
  const bool fp8 = format.fp8_arithmetic && device.fp8_flops > 0;
  const double memory = work.bytes / device.bandwidth;
  const double arithmetic = work.operations / (fp8 ? device.fp8_flops : device.bf16_flops);
  const Exchange link = exchange(spec, layout, machine, step.rows);
  const double bandwidth_share =
      format.value_bits <= 4 ? efficiency.bandwidth_share_4bit : efficiency.bandwidth_share;
  Estimate estimate;
  estimate.distinct_experts = work.distinct;
  estimate.memory_seconds = memory / bandwidth_share;
  estimate.arithmetic_seconds = arithmetic / efficiency.arithmetic_share;
  estimate.link_seconds = link.expected;
  estimate.fixed_seconds =
      real(static_cast<int64_t>(spec.layers.size())) *
          (efficiency.layer_seconds + (fp8 ? efficiency.quantize_seconds : 0)) +
      efficiency.sequence_seconds * step.sequences;
  const double busy = std::max(estimate.memory_seconds, estimate.arithmetic_seconds);
  estimate.step_seconds = busy + estimate.link_seconds + estimate.fixed_seconds;
  estimate.bound = estimate.link_seconds > busy                            ? Bound::kLink
                   : estimate.arithmetic_seconds > estimate.memory_seconds ? Bound::kArithmetic
                                                                           : Bound::kMemory;
  estimate.ideal_tokens_per_s = step.rows / (std::max(memory, arithmetic) + link.ideal);
  estimate.tokens_per_s = step.rows / estimate.step_seconds;
  return estimate;
}

/// A full step of `rows` tokens of prompts of `prompt` tokens.
Step prefill_step(double prompt, double rows) {
  Step step;
  step.rows = rows;
  step.sequences = std::max(1.0, rows / prompt);
  step.logit_rows = rows / prompt;
  step.context = prompt / 2;  // a causal row sees half of its prompt on average
  step.prefill = true;
  return step;
}

}  // namespace

const char* to_string(Bound bound) {
  switch (bound) {
    case Bound::kMemory:
      return "memory";
    case Bound::kArithmetic:
      return "arithmetic";
    case Bound::kLink:
      break;
  }
  return "link";
}

double expected_experts(double experts, double top_k, double tokens) {
  if (experts <= 0) return 0;
  return experts * (1 - std::pow(1 - top_k / experts, tokens));
}

Estimate decode_estimate(const ModelSpec& spec, const Layout& layout, const WeightFormat& format,
                         double kv_element_bytes, const Machine& machine, double sequences,
                         double context) {
  // Stages work on different sequences at the same time, so each pass carries its share of them.
  const double stages = real(layout.pp);
  const double each = std::max(1.0, sequences / stages);
  const Step step{.rows = each, .logit_rows = each, .sequences = each, .context = context};
  Estimate estimate = step_estimate(spec, layout, format, kv_element_bytes, machine, step);
  const double under_way = std::min(stages, sequences);
  estimate.tokens_per_s *= under_way;
  estimate.ideal_tokens_per_s *= under_way;
  estimate.per_user = 1 / estimate.step_seconds;
  return estimate;
}

Estimate prefill_estimate(const ModelSpec& spec, const Layout& layout, const WeightFormat& format,
                          double kv_element_bytes, const Machine& machine, double prompt,
                          double rows) {
  Estimate estimate =
      step_estimate(spec, layout, format, kv_element_bytes, machine, prefill_step(prompt, rows));
  estimate.tokens_per_s *= real(layout.pp);
  estimate.ideal_tokens_per_s *= real(layout.pp);
  estimate.per_user = estimate.tokens_per_s;
  return estimate;
}

double served_rate(const Estimate& prefill, const Estimate& decode, double prompt, double output) {
  return output / (prompt / prefill.tokens_per_s + output / decode.tokens_per_s);
}

double first_token_seconds(const ModelSpec& spec, const Layout& layout, const WeightFormat& format,
                           double kv_element_bytes, const Machine& machine, double prompt,
                           double rows) {
  double seconds = machine.efficiency->request_seconds;
  double done = 0;
  while (done < prompt) {
    const double chunk = std::min(rows, prompt - done);
    const Step step{.rows = chunk,
                    .logit_rows = done + chunk >= prompt ? 1.0 : 0.0,
                    .sequences = 1,
                    .context = done + chunk / 2,
                    .prefill = true};
    seconds += step_estimate(spec, layout, format, kv_element_bytes, machine, step).step_seconds;
    done += chunk;
  }
  return seconds;
}

}  // namespace moesaic::plan
