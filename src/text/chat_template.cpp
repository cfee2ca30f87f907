#include "text/chat_template.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory_claim.h"
#include "base/printable.h"
#include "text/model_files.h"
#include "text/rust_error.h"

namespace moesaic::text {
namespace {

/// A template in place of the model's own, and what messages call it.
struct Replacement {
  std::string name = "--chat-template";
  std::string text;
};

/// Jinja text has braces or more than one line; anything else is the path of a file.
Replacement replacement_of(const std::string& text_or_file) {
  constexpr size_t kLongestPath = 4096;
  std::error_code error;
  const bool is_text = text_or_file.find_first_of("\n{") != std::string::npos;
  const bool is_file =
      text_or_file.size() < kLongestPath && std::filesystem::exists(text_or_file, error);
  if (!is_file) {
    if (is_text) return {.text = text_or_file};
    throw base::MissingFileError(
        fmt::format("chat template {} does not exist; give a file, or Jinja text with {{{{ }}}}",
                    base::printable(text_or_file)));
  }
  auto content = base::read_file(text_or_file, kMaxTemplateBytes);
  if (!content) {
    throw base::ModelFileError(
        text_or_file, fmt::format("has more than the {} bytes that are read", kMaxTemplateBytes));
  }
  return {text_or_file, std::move(*content)};
}

}  // namespace

struct ChatTemplate::Impl {
  explicit Impl(MoesaicTemplate* handle) : chat_template(handle) {}
  ~Impl() { moesaic_template_free(chat_template); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  MoesaicTemplate* chat_template;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::shared_ptr<const ChatTemplate> ChatTemplate::load(const base::ModelFolder& folder,
                                                       const std::string& override_text_or_file) {
  MoesaicTextError error = no_error();
  const bool replaced = !override_text_or_file.empty();
  ModelFiles files(folder, !replaced);
  const uint64_t memory = loading_memory(files.bytes());
  const base::MemoryClaim claim(memory, memory, moesaic_template_stack(),
                                "loading the chat template");
  Replacement replacement;
  if (replaced) replacement = replacement_of(override_text_or_file);
  const MoesaicFile view = file_view(replacement.name, replacement.text);
  MoesaicTemplate* handle = moesaic_template_load(files.view(), replaced ? &view : nullptr, &error);
  if (handle == nullptr) {
    if (error.kind == MOESAIC_TEXT_OK) return nullptr;
    raise(error);
  }
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::make_unique<Impl>(handle)));
}

std::string ChatTemplate::problem() const {
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_template_problem(impl_->chat_template, &text, &error)) raise(error);
  return take(text);
}

ChatTemplate::Shapes ChatTemplate::shapes(std::string_view role) const {
  uint32_t known = MOESAIC_ROLE_USER;
  if (role == "system" || role == "developer") known = MOESAIC_ROLE_SYSTEM;
  if (role == "assistant") known = MOESAIC_ROLE_ASSISTANT;
  if (role == "tool" || role == "function") known = MOESAIC_ROLE_TOOL;
  const MoesaicShapes shapes = moesaic_template_shapes(impl_->chat_template, known);
  return {shapes.text, shapes.part, shapes.parts, shapes.thinking};
}

std::string ChatTemplate::render(std::string_view context_json) const {
  uint64_t least = 0;
  uint64_t most = 0;
  moesaic_template_memory(context_json.size(), &least, &most);
  const base::MemoryClaim claim(least, most, moesaic_template_stack(),
                                "the chat template of this conversation");
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_template_render(impl_->chat_template, bytes_of(context_json), context_json.size(),
                               claim.bytes(), &text, &error)) {
    raise(error);
  }
  return take(text);
}

std::string_view ChatTemplate::text() const {
  size_t size = 0;
  const uint8_t* text = moesaic_template_text(impl_->chat_template, &size);
  return {reinterpret_cast<const char*>(text), size};
}

std::string ChatTemplate::without_guards(std::string_view rendered) {
  MoesaicTextError error = no_error();
  MoesaicBytes text{};
  if (!moesaic_without_guards(bytes_of(rendered), rendered.size(), &text, &error)) raise(error);
  return take(text);
}

}  // namespace moesaic::text
