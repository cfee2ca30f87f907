// Promise 7 of docs/engine.md with real models: sixteen requests of different lengths at once, in
// chunks, from a pool too small for them, with shared prefixes, give bit for bit the tokens and
// log-probabilities that each gives alone, with one step in flight and with two, and where the host
// chooses what the backend does not.

#include "engine/local_executor.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "backend/backends_testing.h"
#include "backend/host/host_backend.h"
#include "checkpoint/checkpoint.h"
#include "engine/core.h"
#include "model/family.h"

namespace moesaic::engine {
namespace {

constexpr int64_t kContext = 128;

struct Case {
  std::string backend;
  tensor::DType dtype;
  std::string checkpoint;
};

std::vector<Case> cases() {
  std::vector<Case> result;
  std::vector<std::string> backends = backend::testing::backend_names();
  backends.emplace_back("cuda");
  for (const std::string& backend : backends) {
    for (const tensor::DType dtype : {tensor::DType::kF32, tensor::DType::kBF16}) {
      if (backend == "cuda" && dtype == tensor::DType::kF32) continue;  // it has none
      for (const char* checkpoint : {"mixtral", "qwen2_moe"}) {
        result.push_back({backend, dtype, checkpoint});
      }
    }
  }
  return result;
}

/// What a sequence was given.
struct Given : OutputSink {
  void deliver(SequenceOutput&& output) override {
    tokens.insert(tokens.end(), output.tokens.begin(), output.tokens.end());
    for (PositionLogprobs& position : output.logprobs) logprobs.push_back(std::move(position));
    for (PositionLogprobs& position : output.prompt_logprobs) {
      prompt_logprobs.push_back(std::move(position));
    }
    finish = output.finish;
  }
  std::vector<int32_t> tokens;
  std::vector<PositionLogprobs> logprobs, prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
};

void expect_same(const std::vector<PositionLogprobs>& a, const std::vector<PositionLogprobs>& b) {
  const auto same = [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.id == y.id && x.logprob == y.logprob && x.rank == y.rank;
  };
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(same(a[i].token, b[i].token)) << "position " << i;
    ASSERT_TRUE(
        std::equal(a[i].top.begin(), a[i].top.end(), b[i].top.begin(), b[i].top.end(), same))
        << "position " << i;
  }
}

class LocalExecutorTest : public testing::TestWithParam<Case> {
 protected:
  LocalExecutorTest()
      : folder_(std::filesystem::path(MOESAIC_SOURCE_DIR) / "tests/golden/checkpoints" /
                GetParam().checkpoint),
        spec_(model::load_spec(folder_)) {}

  bool on_cuda() const { return GetParam().backend == "cuda"; }

  std::unique_ptr<backend::HostOps> make_ops() {
    const std::string& name = GetParam().backend;
    return name == "reference" ? backend::make_reference_ops() : backend::make_cpu_ops(pool_, name);
  }

  void use(std::unique_ptr<backend::Backend> backend) {
    weights_ = {};
    backend_ = std::move(backend);
    weights_ = model::load_weights(model::lay_out_weights(spec_, *backend_, GetParam().dtype),
                                   *backend_, pool_, checkpoint::Checkpoint::open(folder_), {});
  }

  std::vector<Request> requests() const {
    std::mt19937 random(1);
    const auto token = [&] {
      return static_cast<int32_t>(random() % static_cast<uint32_t>(spec_.vocab_size));
    };
    std::vector<int32_t> beginning(40);
    for (int32_t& id : beginning) id = token();
    std::vector<Request> list(16);
    for (size_t i = 0; i < list.size(); ++i) {
      Request& request = list[i];
      request.id = i + 1;
      if (i % 2 == 0) request.prompt = beginning;
      for (size_t k = 0; k <= i * 3; ++k) request.prompt.push_back(token());
      request.sampling.temperature = i % 3 == 0 ? 0.0f : 1.0f;
      request.sampling.seed = i;
      request.sampling.max_tokens = 12;
      request.sampling.logprobs = 3;
      if (i == 5) request.sampling.prompt_logprobs = 2;
      if (i % 4 == 1) request.sampling.repetition_penalty = 1.5f;
      if (i % 4 == 2) request.sampling.frequency_penalty = 0.5f;
      if (i % 5 == 3) request.sampling.min_tokens = 6;
      if (i == 7) {
        // Half the vocabulary ends it, after six tokens.
        TokenRules rules;
        for (int32_t id = 0; id < spec_.vocab_size; id += 2) rules.stop_token_ids.push_back(id);
        request.sampling.rules = token_rules(std::move(rules));
        request.sampling.min_tokens = 6;
      }
    }
    return list;
  }

  /// Serves the requests together.
  std::vector<std::shared_ptr<Given>> serve(std::vector<Request> list, EngineOptions options,
                                            int depth = 1) {
    const model::KvCache cache(spec_, {}, *backend_, GetParam().dtype, options.block_size,
                               options.num_blocks);
    backend::SoloCommunicator solo;
    LocalExecutor executor(spec_, weights_, *backend_, solo, cache, options.max_rows, depth);
    EngineObserver observer;
    EngineCore core(options, executor, observer, [] { return TimePoint(); });
    std::vector<std::shared_ptr<Given>> given;
    for (Request& request : list) {
      given.push_back(std::make_shared<Given>());
      request.sink = given.back();
      core.add(std::move(request));
    }
    while (!core.idle()) {
      while (core.schedule_step()) core.submit_step();
      if (core.in_flight() > 0) core.wait_step();
    }
    core.check_invariants();
    stats_ = core.stats();
    return given;
  }

  std::filesystem::path folder_;
  base::ThreadPool pool_{2, /*pin=*/false};
  std::unique_ptr<backend::Backend> backend_;
  model::ModelSpec spec_;
  model::LoadedWeights weights_;
  EngineStats stats_;
};

/// Leaves rows of two kinds to the host.
class Refusing : public backend::HostBackend {
 public:
  using HostBackend::HostBackend;
  backend::Unsupported samples(const SampleRow& row) const override {
    if (row.target >= 0) return {};
    if (row.repetition_penalty != 1.0f) return "no repetition penalty";
    return row.temperature == 0 && row.frequency_penalty == 0 ? "nothing greedy" : "";
  }
};

TEST_P(LocalExecutorTest, SixteenAtOnceAreAsEachAlone) {
  if (const std::string reason = backend::testing::missing(GetParam().backend); !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  if (on_cuda()) {
    use(backend::make_cuda_backend(0));
  } else {
    use(std::make_unique<backend::HostBackend>(make_ops(), &pool_));
  }
  EngineOptions options;
  options.max_model_len = kContext;
  options.prefix_caching = false;
  options.block_size = 16;
  options.num_blocks = 60;
  options.max_rows = 2048;
  std::vector<Request> list = requests();
  std::vector<std::shared_ptr<Given>> alone;
  for (const Request& request : list) alone.push_back(serve({request}, options)[0]);
  EXPECT_LT(alone[7]->tokens.size(), 12u);

  options.prefix_caching = true;
  options.block_size = on_cuda() ? 16 : 8;
  options.num_blocks = 360 / options.block_size;
  options.max_rows = 50;
  const auto check = [&](int depth, const char* what) {
    SCOPED_TRACE(std::string(what) + ", depth " + std::to_string(depth));
    const auto together = serve(requests(), options, depth);
    EXPECT_GT(stats_.preemptions, 0u);
    EXPECT_GT(stats_.prefix_hits, 0u);
    for (size_t i = 0; i < list.size(); ++i) {
      SCOPED_TRACE("request " + std::to_string(i));
      EXPECT_EQ(together[i]->finish, alone[i]->finish);
      ASSERT_EQ(together[i]->tokens, alone[i]->tokens);
      expect_same(together[i]->logprobs, alone[i]->logprobs);
      expect_same(together[i]->prompt_logprobs, alone[i]->prompt_logprobs);
    }
    EXPECT_EQ(together[5]->prompt_logprobs.size(), list[5].prompt.size() - 1);
  };
  check(1, "chosen by the backend");
  check(2, "chosen by the backend");
  if (on_cuda()) return;
  use(std::make_unique<Refusing>(make_ops(), &pool_));
  check(1, "chosen by the host in part");
  check(2, "chosen by the host in part");
}

INSTANTIATE_TEST_SUITE_P(Backends, LocalExecutorTest, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& info) {
                           std::string name =
                               info.param.backend + "_" + info.param.checkpoint +
                               (info.param.dtype == tensor::DType::kF32 ? "_f32" : "_bf16");
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); },
                               '_');
                           return name;
                         });

}  // namespace
}  // namespace moesaic::engine
