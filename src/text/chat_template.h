#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/model_file.h"

namespace moesaic::text {

/// A chat template in Jinja, rendered under budgets of steps, depth and output bytes. It sees no
/// files, no clock but `strftime_now` and no host calls.
class ChatTemplate {
 public:
  /// From `override_text_or_file` (a path or inline Jinja) when not empty, else
  /// chat_template.jinja, else tokenizer_config.json. Null when the model has none. A syntax error
  /// in `override_text_or_file` is ModelFileError; one in the model's own template is problem().
  static std::shared_ptr<const ChatTemplate> load(const base::ModelFolder& folder,
                                                  const std::string& override_text_or_file);
  ~ChatTemplate();

  /// Why conversations, or those with tools, are refused: the model's own template is wrong. ""
  /// when it is not.
  std::string problem() const;

  /// Shapes of a message's "content" that the template shows whole.
  struct Shapes {
    bool text = false;      ///< one string
    bool part = false;      ///< a list of one {"type": "text", "text": ...}
    bool parts = false;     ///< a list of several
    bool thinking = false;  ///< {"type": "thinking", "thinking": ...} in that list
  };
  /// For messages of a role; found by trying it when the template was loaded.
  Shapes shapes(std::string_view role) const;

  /// Renders. `context_json` is a JSON object with messages, and optionally tools, documents,
  /// add_generation_prompt and template kwargs. Special-token text inside message content is
  /// guarded (see Tokenizer::encode_chat). Throws RequestError(400) when the template refuses the
  /// messages (raise_exception) or a budget runs out, UnavailableError when there is not enough
  /// memory.
  std::string render(std::string_view context_json) const;

  /// The template of conversations without tools, as it was found.
  std::string_view text() const;

  /// The rendered text with guard marks removed, as a person would read it.
  static std::string without_guards(std::string_view rendered);

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moesaic::text
