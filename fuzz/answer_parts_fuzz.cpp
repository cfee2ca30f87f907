// Any text as a model's answer, in the forms that the first two bytes say: reasoning, calls and
// content are the same in whatever pieces the text comes, and what is neither of the first two is
// content, whole and in order.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "server/reasoning.h"
#include "server/tool_calls.h"

namespace {

using namespace moesaic::server;

struct Parts {
  std::string reasoning, content;
  std::vector<ToolCall> calls;
};

Parts parse(std::string_view text, size_t piece, const ReasoningForm* thinks, Reasoning coming,
            const CallForm& form) {
  Parts out;
  ReasoningParser reasoning(thinks, coming);
  ToolCallParser calls(form, nullptr);
  const auto take = [&](const ReasoningParser::Pieces& pieces, bool end) {
    out.reasoning += pieces.reasoning;
    for (auto part : {calls.add(pieces.answer), end ? calls.end() : ToolCallParser::Pieces{}}) {
      out.content += part.content;
      for (ToolCall& call : part.calls) out.calls.push_back(std::move(call));
    }
  };
  for (size_t at = 0; at < text.size(); at += piece) {
    take(reasoning.add(text.substr(at, piece)), false);
  }
  take(reasoning.end(), true);
  return out;
}

/// Whether one text is another without some of its characters.
bool is_left_of(std::string_view part, std::string_view whole) {
  for (const char c : whole) {
    if (!part.empty() && part.front() == c) part.remove_prefix(1);
  }
  return part.empty();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto forms = call_forms();
  const auto thoughts = reasoning_forms();
  const CallForm& form = forms[data[0] % forms.size()];
  const size_t thought = data[1] / 2 % (thoughts.size() + 1);
  const ReasoningForm* thinks = thought < thoughts.size() ? &thoughts[thought] : nullptr;
  const Reasoning coming = data[1] % 2 != 0 ? Reasoning::kOpened : Reasoning::kMayCome;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);

  const Parts whole = parse(text, text.size() + 1, thinks, coming, form);
  for (const size_t piece : {size_t{1}, size_t{5}}) {
    const Parts pieces = parse(text, piece, thinks, coming, form);
    MOESAIC_ASSERT(pieces.reasoning == whole.reasoning);
    MOESAIC_ASSERT(pieces.content == whole.content);
    MOESAIC_ASSERT(pieces.calls.size() == whole.calls.size());
    for (size_t i = 0; i < whole.calls.size(); ++i) {
      MOESAIC_ASSERT(pieces.calls[i].name == whole.calls[i].name);
      MOESAIC_ASSERT(pieces.calls[i].arguments == whole.calls[i].arguments);
    }
  }
  for (const ToolCall& call : whole.calls) MOESAIC_ASSERT(!call.name.empty());
  MOESAIC_ASSERT(is_left_of(whole.reasoning + whole.content, text));
  return 0;
}
