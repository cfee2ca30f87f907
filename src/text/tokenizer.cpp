#include "text/tokenizer.h"

#include "base/memory_claim.h"
#include "text/model_files.h"
#include "text/rust_error.h"

namespace moesaic::text {
namespace {

std::vector<int32_t> take(MoesaicIds ids) {
  std::vector<int32_t> out;
  try {
    if (ids.size > 0) out.assign(ids.data, ids.data + ids.size);
  } catch (...) {
    moesaic_ids_free(ids);
    throw;
  }
  moesaic_ids_free(ids);
  return out;
}

std::optional<int32_t> known(int32_t id) {
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(MoesaicTokenizer* handle) : tokenizer(handle) {}
  ~Impl() { moesaic_tokenizer_free(tokenizer); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::vector<int32_t> encode(std::string_view text, bool add_bos, int32_t specials,
                              const std::atomic<bool>* cancel) const;

  MoesaicTokenizer* tokenizer;
};

std::vector<int32_t> Tokenizer::Impl::encode(std::string_view text, bool add_bos, int32_t specials,
                                             const std::atomic<bool>* cancel) const {
  static_assert(sizeof(std::atomic<bool>) == 1 && std::atomic<bool>::is_always_lock_free,
                "the Rust side reads the flag as an atomic byte");
  const base::MemoryClaim claim(
      moesaic_tokenizer_encode_memory(tokenizer, bytes_of(text), text.size()),
      "tokenising this text");
  MoesaicTextError error = no_error();
  MoesaicIds ids{};
  if (!moesaic_tokenizer_encode(tokenizer, bytes_of(text), text.size(), add_bos, specials, cancel,
                                &ids, &error)) {
    raise(error);
  }
  return take(ids);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

MoesaicTokenizer* Tokenizer::handle() const { return impl_->tokenizer; }

std::shared_ptr<const Tokenizer> Tokenizer::load(const base::ModelFolder& folder) {
  MoesaicTextError error = no_error();
  ModelFiles files(folder, false);
  const base::MemoryClaim claim(loading_memory(files.bytes()), "loading the tokenizer");
  MoesaicTokenizer* handle = moesaic_tokenizer_load(files.view(), &error);
  if (handle == nullptr) raise(error);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::make_unique<Impl>(handle)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_bos, Specials specials,
                                       const std::atomic<bool>* cancel) const {
  return impl_->encode(
      text, add_bos,
      specials == Specials::kParse ? MOESAIC_SPECIALS_PARSE : MOESAIC_SPECIALS_AS_TEXT, cancel);
}

std::vector<int32_t> Tokenizer::encode_chat(std::string_view rendered, bool add_bos) const {
  return impl_->encode(rendered, add_bos, MOESAIC_SPECIALS_GUARDED, nullptr);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  const base::MemoryClaim claim(
      moesaic_tokenizer_decode_memory(impl_->tokenizer, ids.data(), ids.size()),
      "the text of these tokens");
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_tokenizer_decode(impl_->tokenizer, ids.data(), ids.size(), skip_special, &text,
                                &error)) {
    raise(error);
  }
  return text::take(text);
}

std::string Tokenizer::token_text(int32_t id) const {
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_tokenizer_token_text(impl_->tokenizer, id, &text, &error)) raise(error);
  return text::take(text);
}

std::string Tokenizer::token_bytes(int32_t id) const {
  MoesaicTextError error = no_error();
  MoesaicBytes bytes{};
  if (!moesaic_tokenizer_token_bytes(impl_->tokenizer, id, &bytes, &error)) raise(error);
  return text::take(bytes);
}

size_t Tokenizer::longest_token() const {
  return moesaic_tokenizer_longest_token(impl_->tokenizer);
}

int64_t Tokenizer::vocab_size() const { return moesaic_tokenizer_vocab_size(impl_->tokenizer); }

bool Tokenizer::is_special(int32_t id) const {
  return moesaic_tokenizer_is_special(impl_->tokenizer, id);
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  return known(moesaic_tokenizer_token_to_id(impl_->tokenizer, bytes_of(token), token.size()));
}

std::optional<int32_t> Tokenizer::bos_id() const {
  return known(moesaic_tokenizer_bos(impl_->tokenizer));
}

std::optional<int32_t> Tokenizer::eos_id() const {
  return known(moesaic_tokenizer_eos(impl_->tokenizer));
}

struct StreamDecoder::Impl {
  Impl(std::shared_ptr<const Tokenizer> owner, MoesaicStream* handle)
      : tokenizer(std::move(owner)), stream(handle) {}
  ~Impl() { moesaic_stream_free(stream); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::shared_ptr<const Tokenizer> tokenizer;
  MoesaicStream* stream;
};

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer,
                             std::span<const int32_t> prompt_tail, bool skip_special) {
  MoesaicTextError error = no_error();
  MoesaicStream* handle = moesaic_stream_new(tokenizer->impl_->tokenizer, prompt_tail.data(),
                                             prompt_tail.size(), skip_special, &error);
  if (handle == nullptr) raise(error);
  impl_ = std::make_unique<Impl>(std::move(tokenizer), handle);
}

StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_stream_push(impl_->stream, impl_->tokenizer->impl_->tokenizer, id, &text, &error)) {
    raise(error);
  }
  return take(text);
}

std::string StreamDecoder::finish() {
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_stream_finish(impl_->stream, &text, &error)) raise(error);
  return take(text);
}

}  // namespace moesaic::text
