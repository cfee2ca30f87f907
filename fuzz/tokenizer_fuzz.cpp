// Any bytes as a tokenizer's files, parted by a zero: a tokenizer whose ids are its own and whose
// tokens can be read, or ModelFileError. Its library is Rust and carries no coverage of its own.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using moesaic::text::Tokenizer;
  const std::string all(reinterpret_cast<const char*>(data), size);
  const size_t end = all.find('\0');
  std::map<std::string, std::string> files{{"tokenizer.json", all.substr(0, end)}};
  if (end != std::string::npos) files.emplace("tokenizer_config.json", all.substr(end + 1));
  try {
    const auto tokenizer = Tokenizer::load({"fuzz", std::move(files)});
    for (const auto specials : {Tokenizer::Specials::kParse, Tokenizer::Specials::kAsText}) {
      const auto ids =
          tokenizer->encode("<s>Hi, the caf\xc3\xa9 \xed\x95\x9c 12\n", true, specials);
      for (const int32_t id : ids) {
        MOESAIC_ASSERT(id >= 0 && id < tokenizer->vocab_size());
        MOESAIC_ASSERT(tokenizer->token_bytes(id).size() <= tokenizer->longest_token());
        tokenizer->token_text(id);
      }
      tokenizer->decode(ids, true);
    }
  } catch (const moesaic::base::ModelFileError&) {
    // The answer to most inputs.
  } catch (const moesaic::base::MissingFileError&) {
  } catch (const moesaic::base::RequestError&) {
    // A text that this tokenizer cannot take.
  } catch (const moesaic::base::UnavailableError&) {
    // The machine has no memory to spare.
  }
  return 0;
}
