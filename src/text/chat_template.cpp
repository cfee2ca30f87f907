#include "text/chat_template.h"

#include "text/rust_error.h"

namespace moesaic::text {

struct ChatTemplate::Impl {
  explicit Impl(MoesaicTemplate* handle) : chat_template(handle) {}
  ~Impl() { moesaic_template_free(chat_template); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  MoesaicTemplate* chat_template;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::shared_ptr<const ChatTemplate> ChatTemplate::load(const std::filesystem::path& folder,
                                                       const std::string& override_text_or_file) {
  MoesaicTextError error = no_error();
  const std::string& name = folder.native();
  MoesaicTemplate* handle =
      moesaic_template_load(bytes_of(name), name.size(), bytes_of(override_text_or_file),
                            override_text_or_file.size(), &error);
  if (handle == nullptr) {
    if (error.kind == MOESAIC_TEXT_OK) return nullptr;
    raise(error);
  }
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::make_unique<Impl>(handle)));
}

std::string ChatTemplate::render(std::string_view context_json) const {
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_template_render(impl_->chat_template, bytes_of(context_json), context_json.size(),
                               &text, &error)) {
    raise(error);
  }
  return take(text);
}

std::string ChatTemplate::without_guards(std::string_view rendered) {
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_without_guards(bytes_of(rendered), rendered.size(), &text, &error)) raise(error);
  return take(text);
}

}  // namespace moesaic::text
