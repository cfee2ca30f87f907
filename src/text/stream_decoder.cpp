#include <algorithm>

#include "text/tokenizer.h"

namespace moesaic::text {
namespace {

/// Prompt tokens that give the first generated ones their context.
constexpr size_t kContext = 6;
/// Tokens that may be held back for a character's end; more means the bytes are
/// not text.
constexpr size_t kMaxHeld = 16;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

} // namespace

/// Decodes a sliding window: ids_[0, shown_) have been emitted and are context,
/// the rest is held back. What the window's text has beyond its context's text
/// is new.
struct StreamDecoder::Impl {
  std::shared_ptr<const Tokenizer> tokenizer;
  bool skip_special = true;
  std::vector<int32_t> ids;
  size_t shown = 0;
  std::string shown_text;

  std::string emit(const std::string &whole) {
    // Decoders may rewrite the context when text follows (they trim it); then
    // all of it is unsure and what is new starts where the two texts part.
    const size_t same =
        static_cast<size_t>(std::mismatch(shown_text.begin(), shown_text.end(),
                                          whole.begin(), whole.end())
                                .second -
                            whole.begin());
    std::string fresh = whole.substr(same);
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(shown));
    shown = ids.size();
    shown_text = tokenizer->decode(ids, skip_special);
    return fresh;
  }
};

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer,
                             std::span<const int32_t> prompt_tail,
                             bool skip_special)
    : impl_(std::make_unique<Impl>()) {
  impl_->tokenizer = std::move(tokenizer);
  impl_->skip_special = skip_special;
  const auto tail = prompt_tail.last(std::min(prompt_tail.size(), kContext));
  impl_->ids.assign(tail.begin(), tail.end());
  impl_->shown = tail.size();
  impl_->shown_text = impl_->tokenizer->decode(impl_->ids, skip_special);
}

StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder &&) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  impl_->ids.push_back(id);
  const std::string whole =
      impl_->tokenizer->decode(impl_->ids, impl_->skip_special);
  if (whole.size() <= impl_->shown_text.size())
    return {};
  const bool unfinished = whole.ends_with(kReplacement);
  if (unfinished && impl_->ids.size() - impl_->shown < kMaxHeld)
    return {};
  return impl_->emit(whole);
}

std::string StreamDecoder::finish() {
  const std::string whole =
      impl_->tokenizer->decode(impl_->ids, impl_->skip_special);
  if (whole.size() <= impl_->shown_text.size())
    return {};
  return impl_->emit(whole);
}

} // namespace moesaic::text
