// Any bytes as a grammar, of the kind that the first one says: a grammar whose paths go on as long
// as something is allowed, or an error that a client can be told. The engine is Rust and carries no
// coverage of its own, so the seeds do the leading.

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/grammar.h"

namespace {

using moesaic::text::Grammars;
using moesaic::text::Tokenizer;

constexpr int kMostTokens = 60;

struct Demo {
  std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::load(
      moesaic::base::ModelFolder(std::filesystem::path(MOESAIC_SOURCE_DIR) / "models/demo"));
  Grammars grammars{*tokenizer, tokenizer->vocab_size(), {*tokenizer->eos_id()}};
};

/// Takes tokens by a number that goes on with each.
void walk(const moesaic::text::Grammar& grammar, const Demo& demo, uint32_t number) {
  const auto path = grammar.start();
  const auto vocab = static_cast<uint32_t>(demo.tokenizer->vocab_size());
  std::vector<uint32_t> words((vocab + 31) / 32);
  for (int i = 0; i < kMostTokens; ++i) {
    path->allowed(words);
    std::vector<int32_t> ids;
    for (uint32_t id = 0; id < vocab; ++id) {
      if ((words[id / 32] >> (id % 32) & 1U) != 0) ids.push_back(static_cast<int32_t>(id));
    }
    MOESAIC_ASSERT(!ids.empty());
    number = number * 1664525 + 1013904223;
    const int32_t id = ids[(number >> 8) % ids.size()];
    path->accept(id);
    if (id == demo.tokenizer->eos_id()) return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Demo demo;
  if (size == 0) return 0;
  constexpr Grammars::Kind kKinds[] = {Grammars::Kind::kJsonSchema, Grammars::Kind::kRegex,
                                       Grammars::Kind::kRules};
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const auto grammar = demo.grammars.compile(
        kKinds[data[0] % 3], text,
        {data[0] % 4 > 1 ? "<think>" : "", data[0] % 2 != 0 ? "</think>" : ""});
    for (uint32_t number = 1; number <= 2; ++number) walk(*grammar, demo, number);
  } catch (const moesaic::base::RequestError&) {
    // It is no grammar, or too much of one.
  } catch (const moesaic::base::UnavailableError&) {
    // The machine has no memory to spare.
  } catch (const std::runtime_error&) {
    // A path has failed: its answer ends with an error.
  }
  return 0;
}
