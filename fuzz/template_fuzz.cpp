// Any bytes as a chat template: a text within its bounds, or an error that a client or an operator
// can be told. The engine is Rust and carries no coverage of its own, so the seeds do the leading.

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "text/chat_template.h"

namespace {

constexpr const char* kContext =
    R"({"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": [)"
    R"({"type": "text", "text": "<s>hi"}]}, {"role": "assistant", "content": null, "tool_calls": [)"
    R"({"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]}],)"
    R"( "tools": [{"type": "function", "function": {"name": "f"}}], "add_generation_prompt": true,)"
    R"( "bos_token": "<s>", "x": 1.5, "ok": true})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using moesaic::text::ChatTemplate;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const moesaic::base::ModelFolder folder("fuzz", {{"chat_template.jinja", text}});
  try {
    const auto loaded = ChatTemplate::load(folder, "");
    MOESAIC_ASSERT(loaded != nullptr && loaded->text() == text);
    const std::string rendered = loaded->render(kContext);
    MOESAIC_ASSERT(ChatTemplate::without_guards(rendered).size() <= rendered.size());
  } catch (const moesaic::base::ModelFileError&) {
    // It is no text.
  } catch (const moesaic::base::RequestError&) {
    // It is no template, or refuses the conversation.
  } catch (const moesaic::base::UnavailableError&) {
    // The machine has no memory to spare.
  }
  return 0;
}
