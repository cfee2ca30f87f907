// What messages say, in the shapes that clients send and templates read: text and parts, reasoning
// under its names, and final messages to go on from.

#include "server/testing.h"

namespace moesaic::server::testing {
namespace {

/// Answers come from a server with that template.
class Shown {
 public:
  explicit Shown(const char* chat_template, const char* format = "auto")
      : rig_({{"chat-template", chat_template}, {"chat-template-content-format", format}}) {}

  Answer answer(const std::string& messages, const std::string& more = "") const {
    return ask(rig_, post("/v1/chat/completions",
                          R"({"max_tokens": 1, "return_prompt_text": true, "messages": )" +
                              messages + more + "}"));
  }
  /// The prompt, or "!" and the status.
  std::string operator()(const std::string& messages, const std::string& more = "") const {
    const Answer got = answer(messages, more);
    if (got.status != 200) return "!" + std::to_string(got.status);
    return text_of(got.value().at("prompt_text"));
  }

 private:
  Rig rig_;
};

constexpr const char* kText = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
constexpr const char* kParts =
    "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{% if p.type == 'text' %}"
    "[{{ p.text }}]{% endif %}{% endfor %}{% endfor %}";
constexpr const char* kBoth =
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}[{{ p['text'] }}]{% endfor %}{% endif %}{% endfor %}";
/// Text of the system, parts of others, and of tools whatever comes.
constexpr const char* kMixed =
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'system' %}{{ m.content + '!' }}"
    "{% elif m.role == 'tool' %}{{ m.content }}{% else %}{{ m.content[0].text }}"
    "{% for p in m.content[1:] %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}";

constexpr const char* kStrings =
    R"([{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"}, {"role": "narrator", "content": "n"},
        {"role": "tool", "content": "t"}])";
constexpr const char* kLists =
    R"([{"role": "system", "content": [{"type": "text", "text": "s"}]},
        {"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "input_text",
        "text": "v"}]}, {"role": "assistant", "content": ["a", {"type": "refusal", "refusal": "b"}]},
        {"role": "tool", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "w"}]}])";

TEST(ChatContent, NoTemplateLosesAMessage) {
  EXPECT_EQ(Shown(kText)(kStrings), "<system>s<user>u<assistant>a<narrator>n<tool>t");
  EXPECT_EQ(Shown(kText)(kLists), "<system>s<user>u\nv<assistant>a\nb<tool>t\nw");
  EXPECT_EQ(Shown(kParts)(kStrings), "<system>[s]<user>[u]<assistant>[a]<narrator>[n]<tool>[t]");
  EXPECT_EQ(Shown(kParts)(kLists), "<system>[s]<user>[u][v]<assistant>[a][b]<tool>[t][w]");
  EXPECT_EQ(Shown(kBoth)(kStrings), "<system>s<user>u<assistant>a<narrator>n<tool>t");
  // A tool's result is text wherever the template shows text.
  EXPECT_EQ(Shown(kBoth)(kLists), "<system>[s]<user>[u][v]<assistant>[a][b]<tool>t\nw");
  EXPECT_EQ(Shown(kMixed)(kStrings), "<system>s!<user>u<assistant>a<narrator>n<tool>t");
  EXPECT_EQ(Shown(kMixed)(kLists), "<system>s!<user>u[v]<assistant>a[b]<tool>t\nw");
}

TEST(ChatContent, ATemplateThatReadsOnePartGetsAllTextInIt) {
  const Shown shown("{% for m in messages %}<{{ m.role }}>{{ m.content[0].text }}{% endfor %}");
  EXPECT_EQ(shown(kStrings), "<system>s<user>u<assistant>a<narrator>n<tool>t");
  EXPECT_EQ(shown(kLists), "<system>s<user>u\nv<assistant>a\nb<tool>t\nw");
}

TEST(ChatContent, TheFormatCanBeForced) {
  EXPECT_EQ(Shown(kParts, "string")(kStrings), "<system><user><assistant><narrator><tool>");
  EXPECT_EQ(Shown(kBoth, "openai")(kStrings),
            "<system>[s]<user>[u]<assistant>[a]<narrator>[n]<tool>t");
  EXPECT_EQ(Shown(kBoth, "string")(kLists), "<system>s<user>u\nv<assistant>a\nb<tool>t\nw");
}

TEST(ChatContent, APartWithoutTextSaysNothing) {
  const char* messages =
      R"([{"role": "user", "content": [{"type": "text", "text": null}, {"type": "text",
          "text": "x"}, {"type": "refusal", "refusal": null}]}, {"role": "user", "content": []}])";
  EXPECT_EQ(Shown(kText)(messages), "<user>x<user>");
  EXPECT_EQ(Shown(kParts)(messages), "<user>[x]<user>");
  EXPECT_EQ(Shown(kText)(R"([{"role": "user", "content": [{"type": "text"}]}])"), "!400");
  EXPECT_EQ(Shown(kText)(R"([{"role": "user", "content": [{"type": "text", "text": 5}]}])"),
            "!400");
}

/// As the field of that name is read by templates.
std::string reads(const std::string& name) {
  return "{% for m in messages %}{% if m." + name + " is string %}<think>{{ m." + name +
         " }}</think>{% endif %}{{ m.content }}{% endfor %}";
}

TEST(ChatContent, ReasoningReachesTemplatesUnderTheNameTheyRead) {
  for (const char* read : {"reasoning", "reasoning_content", "thinking"}) {
    const std::string chat_template = reads(read);
    const Shown shown(chat_template.c_str());
    for (const char* sent : {"reasoning", "reasoning_content", "thinking"}) {
      const std::string message = R"([{"role": "assistant", "content": "c", ")";
      EXPECT_EQ(shown(message + sent + R"(": "hm"}])"), "<think>hm</think>c") << read << sent;
      EXPECT_EQ(shown(message + sent + R"(": null}])"), "c");
      EXPECT_EQ(shown(message + sent + R"(": 5}])"), "!400");
    }
    EXPECT_EQ(shown(R"([{"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"},
                        {"type": "text", "text": "c"}]}])"),
              "<think>hm</think>c");
    EXPECT_EQ(shown(R"([{"role": "assistant", "content": [{"type": "reasoning", "text": "h"},
                        {"type": "thinking", "thinking": [{"type": "text", "text": "m"}]}, "c"]}])"),
              "<think>h\nm</think>c");
  }
  // Each name keeps its own.
  EXPECT_EQ(Shown(reads("reasoning").c_str())(
                R"([{"role": "assistant", "reasoning": "a", "reasoning_content": "b"}])"),
            "<think>a</think>");
  EXPECT_EQ(
      Shown(kText)(R"([{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}])"),
      "!400");
}

TEST(ChatContent, ThinkingPartsStayWhereTheTemplateReadsThem) {
  const Shown shown(
      "{% for m in messages %}{% for p in m.content %}{% if p.type == 'thinking' %}"
      "[THINK]{{ p.thinking }}[/THINK]{% else %}{{ p.text }}{% endif %}{% endfor %}"
      "{{ m.reasoning_content }}{% endfor %}");
  EXPECT_EQ(shown(R"([{"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"},
                      {"type": "text", "text": "c"}]}])"),
            "[THINK]hm[/THINK]c");
  // Calls beside both are what a template of this kind refuses.
  const Shown strict(
      "{% for m in messages %}{% if m.tool_calls and m.content and m.thinking %}"
      "{{ raise_exception('not both') }}{% endif %}{{ m.content }}{% endfor %}");
  EXPECT_EQ(strict(R"([{"role": "assistant", "content": "c", "reasoning": "hm", "tool_calls":
                       [{"function": {"name": "f", "arguments": "{}"}}]}])"),
            "c");
}

std::string go_on(const Shown& shown, const std::string& content) {
  return shown(
      R"([{"role": "user", "content": "u"}, {"role": "assistant", "content": )" + content + "}]",
      R"(, "continue_final_message": true, "add_generation_prompt": false)");
}

/// A template that shows content through a filter, with text of its own around.
std::string filtered(const std::string& content, const std::string& after) {
  return "{% for m in messages %}<{{ m.role }}> " + content + after + "{% endfor %}";
}

TEST(ChatContent, AFinalMessageIsGoneOnWithAsTheTemplateShowsIt) {
  struct Row {
    std::string content;  ///< of the template
    const char* sent;
    const char* shown;
  };
  const Row rows[] = {
      {"{{ m.content }}", R"("Answer: ")", "Answer: "},
      {"{{ m.content }}", R"("Answer:")", "Answer:"},
      {"{{ m.content }}", R"(" \n")", " \n"},
      {"{{ m.content | trim }}", R"("Answer: ")", "Answer:"},
      {"{{ m.content | trim }}", R"(" Answer:\n\u3000\u001c")", "Answer:"},
      {"{{ m.content | trim }}", R"(" \n ")", ""},
      {"{{ m.content.rstrip() }}", R"(" a b \t")", " a b"},
      {"{{ m.content.rstrip('\n') }}", R"("a \n\n")", "a "},
      {"{{ m.content.lstrip() }}", R"("  a  ")", "a  "},
      {"{{ m.content.split('</think>')[-1] | trim }}", R"("x</think> y ")", "y"},
  };
  for (const Row& row : rows) {
    for (const std::string after : {"", " ", "\n", " \n<end>"}) {
      const std::string text = filtered(row.content, "{{ '" + after + "' }}");
      EXPECT_EQ(go_on(Shown(text.c_str()), row.sent),
                "<user> u" + after + "<assistant> " + row.shown)
          << text << row.sent;
    }
  }
  EXPECT_EQ(
      go_on(Shown(kParts), R"([{"type": "text", "text": "a"}, {"type": "text", "text": "b "}])"),
      "<user>[u]<assistant>[a][b ");
  EXPECT_EQ(go_on(Shown("{% for m in messages %}{{ m.role }}{% endfor %}"), R"("a")"), "!400");
}

}  // namespace
}  // namespace moesaic::server::testing
