#include "text/tokenizer.h"

#include <cstring>

#include "base/error.h"
#include "text/guard.h"
#include "text/rust_face.h"

namespace moesaic::text {
namespace {

/// Texts longer than this are encoded in pieces, so that a cancel is noticed.
constexpr size_t kPieceBytes = size_t{1} << 20;

/// Whether text may be cut before `at` without changing its tokens: at the
/// first line break after a letter or digit and before another. Pre-tokenisers
/// never join words over a line break, and a cut behind the break keeps runs of
/// white space whole.
bool may_cut(std::string_view text, size_t at) {
  auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9');
  };
  return at >= 2 && at < text.size() && text[at - 1] == '\n' &&
         plain(text[at - 2]) && plain(text[at]);
}

} // namespace

struct Tokenizer::Impl {
  MoesaicTokenizer *handle = nullptr;
  std::string file;
  bool cuttable = false; ///< byte-level: no prefix is added to each text
  ~Impl() {
    if (handle != nullptr)
      moesaic_tokenizer_delete(handle);
  }

  void encode(std::string_view text, bool add_bos, bool plain,
              std::vector<int32_t> &out) const {
    RustBuffer ids;
    RustBuffer error;
    check(moesaic_tokenizer_encode(handle, bytes_of(text), text.size(),
                                   add_bos ? 1 : 0, plain ? 1 : 0, ids.out(),
                                   error.out()),
          error, file);
    const size_t before = out.size();
    out.resize(before + ids.view().size() / sizeof(int32_t));
    if (!ids.view().empty()) {
      std::memcpy(out.data() + before, ids.view().data(), ids.view().size());
    }
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer>
Tokenizer::load(const std::filesystem::path &folder) {
  auto impl = std::make_unique<Impl>();
  impl->file = (folder / "tokenizer.json").string();
  const std::string json = read_text_file(impl->file, kMaxTokenizerBytes, true);
  const std::string config = read_text_file(
      (folder / "tokenizer_config.json").string(), kMaxConfigBytes, false);
  RustBuffer error;
  check(moesaic_tokenizer_new(bytes_of(json), json.size(), bytes_of(config),
                              config.size(), &impl->handle, error.out()),
        error, impl->file);
  impl->cuttable = json.find("\"ByteLevel\"") != std::string::npos;
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_bos,
                                       Specials specials,
                                       const std::atomic<bool> *cancel) const {
  std::vector<int32_t> ids;
  const bool plain = specials == Specials::kAsText;
  while (impl_->cuttable && text.size() > kPieceBytes && cancel != nullptr) {
    if (cancel->load())
      throw base::RequestError(400, "BadRequestError", "cancelled");
    size_t cut = kPieceBytes;
    while (cut < text.size() && !may_cut(text, cut))
      ++cut;
    if (cut == text.size())
      break;
    impl_->encode(text.substr(0, cut), add_bos, plain, ids);
    add_bos = false;
    text.remove_prefix(cut);
  }
  impl_->encode(text, add_bos, plain, ids);
  return ids;
}

std::vector<int32_t> Tokenizer::encode_chat(std::string_view rendered,
                                            bool add_bos) const {
  std::vector<int32_t> ids;
  for (;;) {
    const size_t start = rendered.find(kGuardStart);
    const std::string_view open = rendered.substr(0, start);
    if (!open.empty() || start == std::string_view::npos) {
      impl_->encode(open, add_bos, false, ids);
      add_bos = false;
    }
    if (start == std::string_view::npos)
      return ids;
    rendered.remove_prefix(start + kGuardStart.size());
    const size_t end = rendered.find(kGuardEnd);
    impl_->encode(rendered.substr(0, end), false, true, ids);
    rendered.remove_prefix(end == std::string_view::npos
                               ? rendered.size()
                               : end + kGuardEnd.size());
    if (rendered.empty())
      return ids;
  }
}

std::string Tokenizer::decode(std::span<const int32_t> ids,
                              bool skip_special) const {
  RustBuffer text;
  RustBuffer error;
  check(moesaic_tokenizer_decode(impl_->handle, ids.data(), ids.size(),
                                 skip_special ? 1 : 0, text.out(), error.out()),
        error, impl_->file);
  return text.str();
}

std::string Tokenizer::token_bytes(int32_t id) const {
  RustBuffer bytes;
  moesaic_tokenizer_token_bytes(impl_->handle, id, bytes.out());
  return bytes.str();
}

std::string Tokenizer::token_text(int32_t id) const {
  return with_replacements(token_bytes(id));
}

int64_t Tokenizer::vocab_size() const {
  return moesaic_tokenizer_vocab_size(impl_->handle);
}

bool Tokenizer::is_special(int32_t id) const {
  return moesaic_tokenizer_is_special(impl_->handle, id) != 0;
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const int32_t id = moesaic_tokenizer_token_to_id(
      impl_->handle, bytes_of(token), token.size());
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<int32_t> Tokenizer::bos_id() const {
  const int32_t id = moesaic_tokenizer_bos(impl_->handle);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<int32_t> Tokenizer::eos_id() const {
  const int32_t id = moesaic_tokenizer_eos(impl_->handle);
  return id < 0 ? std::nullopt : std::optional(id);
}

} // namespace moesaic::text
