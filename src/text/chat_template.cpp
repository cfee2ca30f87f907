#include "text/chat_template.h"

#include "base/error.h"
#include "text/guard.h"
#include "text/rust_face.h"

namespace moesaic::text {

struct ChatTemplate::Impl {
  MoesaicTemplate *handle = nullptr;
  std::string file;
  ~Impl() {
    if (handle != nullptr)
      moesaic_template_delete(handle);
  }
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::shared_ptr<const ChatTemplate>
ChatTemplate::load(const std::filesystem::path &folder,
                   const std::string &override_text_or_file) {
  auto impl = std::make_unique<Impl>();
  std::string source;
  if (!override_text_or_file.empty()) {
    const bool inline_text =
        override_text_or_file.find_first_of("{}\n") != std::string::npos;
    impl->file = inline_text ? "--chat-template" : override_text_or_file;
    source = inline_text
                 ? override_text_or_file
                 : read_text_file(override_text_or_file, kMaxConfigBytes, true);
  } else {
    impl->file = (folder / "chat_template.jinja").string();
    source = read_text_file(impl->file, kMaxConfigBytes, false);
    if (source.empty())
      impl->file = (folder / "tokenizer_config.json").string();
  }
  const std::string config = read_text_file(
      (folder / "tokenizer_config.json").string(), kMaxConfigBytes, false);
  const std::string json = read_text_file((folder / "tokenizer.json").string(),
                                          kMaxTokenizerBytes, false);
  RustBuffer error;
  check(moesaic_template_new(bytes_of(source), source.size(), bytes_of(config),
                             config.size(), bytes_of(json), json.size(),
                             &impl->handle, error.out()),
        error, impl->file);
  if (impl->handle == nullptr)
    return nullptr;
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::string ChatTemplate::render(std::string_view context_json) const {
  RustBuffer text;
  RustBuffer error;
  check(moesaic_template_render(impl_->handle, bytes_of(context_json),
                                context_json.size(), text.out(), error.out()),
        error, impl_->file);
  return text.str();
}

std::string ChatTemplate::without_guards(std::string_view rendered) {
  std::string text;
  while (!rendered.empty()) {
    const size_t mark =
        std::min(rendered.find(kGuardStart), rendered.find(kGuardEnd));
    text += rendered.substr(0, mark);
    if (mark == std::string_view::npos)
      break;
    rendered.remove_prefix(mark + kGuardStart.size());
  }
  return text;
}

} // namespace moesaic::text
