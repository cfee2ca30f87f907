#pragma once

// Text in and out of tokens: Hugging Face `tokenizers` and `minijinja` behind a small Rust static
// library (text/rust). All classes here are immutable once loaded and may be used from many
// threads.

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/model_file.h"

struct MoesaicTokenizer;

namespace moesaic::text {

class Tokenizer {
 public:
  /// Loads `folder`/tokenizer.json with tokenizer_config.json beside it. Throws MissingFileError,
  /// or ModelFileError naming the file.
  static std::shared_ptr<const Tokenizer> load(const base::ModelFolder& folder);
  ~Tokenizer();

  /// What to do with the text of special tokens ("</s>", "<|im_end|>") in the input.
  enum class Specials { kParse, kAsText };

  /// Token ids of UTF-8 text; `add_bos` adds what the tokenizer's post-processor adds. Linear in
  /// the text's length. Stops early and throws RequestError(400) when `cancel` becomes true, and
  /// UnavailableError when there is not enough memory, as all methods here do.
  std::vector<int32_t> encode(std::string_view text, bool add_bos, Specials specials,
                              const std::atomic<bool>* cancel = nullptr) const;

  /// Encodes a rendered chat template: special tokens of the template are parsed, text marked with
  /// ChatTemplate's guard marks (user content) never is.
  std::vector<int32_t> encode_chat(std::string_view rendered, bool add_bos) const;

  /// Whole text of `ids`. Ids without a token (padding rows of the embedding) give nothing.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  /// One token's own text as logprobs show it (may be a replacement character), and its raw bytes.
  std::string token_text(int32_t id) const;
  std::string token_bytes(int32_t id) const;

  size_t longest_token() const;  ///< bytes of the longest token as it stands in a text
  int64_t vocab_size() const;    ///< largest id + 1
  bool is_special(int32_t id) const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;

 private:
  friend class StreamDecoder;
  friend class Grammars;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  MoesaicTokenizer* handle() const;
  std::unique_ptr<Impl> impl_;
};

/// Incremental detokenizer of one sequence: emits text as soon as it is certain and never half a
/// UTF-8 character. The concatenation of all push() results and finish() equals the decode of all
/// ids after the prompt.
class StreamDecoder {
 public:
  /// `prompt_tail`: the last few prompt ids give context for leading spaces; their text is not
  /// emitted.
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, std::span<const int32_t> prompt_tail,
                bool skip_special);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;

  /// Text that `id` makes certain; may be empty.
  std::string push(int32_t id);
  /// What is left, with U+FFFD for an unfinished character.
  std::string finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::text
