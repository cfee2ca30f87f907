#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/error.h"
#include "text/text_testing.h"

namespace moesaic::text {
namespace {

namespace json = boost::json;

/// The plain text of a rendering, or "!" and the message of the refusal.
std::string outcome(const ChatTemplate& chat_template, const json::value& context) {
  try {
    return ChatTemplate::without_guards(chat_template.render(json::serialize(context)));
  } catch (const base::RequestError& e) {
    EXPECT_EQ(e.status(), 400);
    return std::string("!") + e.what();
  }
}

void expect_like_jinja2(const ChatTemplate& chat_template, const json::object& golden) {
  const std::string found = outcome(chat_template, golden.at("context"));
  if (golden.contains("text")) {
    EXPECT_EQ(found, string_of(golden.at("text"))) << json::serialize(golden);
    return;
  }
  const std::string message = string_of(golden.at("error"));
  // Python's own errors have Python's words; raise_exception's reach the client as they are.
  EXPECT_EQ(found.substr(0, 1), "!") << json::serialize(golden);
  if (!message.empty()) {
    EXPECT_EQ(found, "!" + message);
  }
}

TEST(ChatTemplate, RendersSnippetsLikeJinja2) {
  const TempFolder folder;
  for (const json::value& golden : read_list(testdata() / "snippets.json")) {
    folder.write("chat_template.jinja", string_of(golden.at("template")));
    const auto chat_template = ChatTemplate::load(folder.path(), "");
    ASSERT_NE(chat_template, nullptr);
    expect_like_jinja2(*chat_template, golden.as_object());
  }
}

TEST(ChatTemplate, RendersGeneratedTemplatesLikeJinja2) {
  const TempFolder folder;
  const json::value goldens = json::parse(read_file(testdata() / "generated.json"));
  const json::value& context = goldens.at("context");
  const json::array& cases = goldens.at("cases").as_array();
  EXPECT_GT(cases.size(), 4000U);
  for (const json::value& golden : cases) {
    folder.write("chat_template.jinja", string_of(golden.at(0)));
    const std::string found = outcome(*ChatTemplate::load(folder.path(), ""), context);
    if (golden.at(1).is_null()) {
      EXPECT_EQ(found.substr(0, 1), "!") << golden.at(0);
    } else {
      EXPECT_EQ(found, string_of(golden.at(1))) << golden.at(0);
    }
  }
}

/// What generated.py names as done otherwise, where it is refused.
TEST(ChatTemplate, FiltersThatNoPromptIsMadeWithAreRefusedInWords) {
  const TempFolder folder;
  for (const std::string name : {"random", "urlize"}) {
    folder.write("chat_template.jinja", "{{ 'a' | " + name + " }}");
    const std::string found = outcome(*ChatTemplate::load(folder.path(), ""), json::object());
    EXPECT_TRUE(found.starts_with("!the chat template uses the filter " + name)) << found;
  }
  folder.write("chat_template.jinja", "{% autoescape true %}{{ 'a' }}{% endautoescape %}");
  EXPECT_NE(ChatTemplate::load(folder.path(), "")->problem().find("autoescape"), std::string::npos);
}

TEST(ChatTemplate, RendersConversationsLikeJinja2) {
  for (const json::value& golden : read_list(testdata() / "conversations.json")) {
    const auto path = testdata() / "templates" / string_of(golden.at("template"));
    expect_like_jinja2(*ChatTemplate::load(testdata() / "byte_level", path.string()),
                       golden.as_object());
  }
}

/// A template given as text, with the special tokens of the byte-level tokenizer.
std::shared_ptr<const ChatTemplate> inline_template(const std::string& text) {
  return ChatTemplate::load(testdata() / "byte_level", "{#- test -#}\n" + text);
}

json::object user_says(const std::string& text) {
  return {{"messages", json::array{json::object{{"role", "user"}, {"content", text}}}},
          {"add_generation_prompt", true}};
}

TEST(ChatTemplate, ComesFromTheFirstSourceThereIs) {
  const TempFolder folder;
  EXPECT_EQ(ChatTemplate::load(folder.path(), ""), nullptr);
  const auto loaded = [&](const std::string& replacement, const json::object& context = {}) {
    return outcome(*ChatTemplate::load(folder.path(), replacement), context);
  };
  folder.write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(ChatTemplate::load(folder.path(), ""), nullptr);
  folder.write("tokenizer_config.json", R"({"chat_template": "config {{ bos_token }}",
      "bos_token": {"content": "<s>"}})");
  EXPECT_EQ(loaded(""), "config <s>");
  EXPECT_EQ(loaded("", {{"bos_token", "mine"}}), "config mine");
  folder.write("tokenizer_config.json", R"({"chat_template": [
      {"name": "tool_use", "template": "tools {{ tools | length }}"},
      {"name": "default", "template": "default {{ tools is none }}"}]})");
  EXPECT_EQ(loaded(""), "default True");
  EXPECT_EQ(loaded("", {{"tools", nullptr}}), "default True");
  EXPECT_EQ(loaded("", {{"tools", json::array{1, 2}}}), "tools 2");
  folder.write("special_tokens_map.json", R"({"eos_token": "</s>"})");
  folder.write("chat_template.jinja", "file {{ eos_token }}\n");
  EXPECT_EQ(loaded(""), "file </s>");
  EXPECT_EQ(loaded("inline {{ 1 }}"), "inline 1");
  const auto other = folder.write("other.jinja", "other {{ documents is none }}");
  EXPECT_EQ(loaded(other.string()), "other True");
}

TEST(ChatTemplate, WrongSourcesAreNamed) {
  const TempFolder folder;
  const auto refused_file = [&](const std::string& replacement) -> std::string {
    try {
      ChatTemplate::load(folder.path(), replacement);
    } catch (const base::ModelFileError& e) {
      return e.file();
    }
    return "none";
  };
  EXPECT_THROW(ChatTemplate::load(folder.path(), "/no/such/file"), base::MissingFileError);
  EXPECT_EQ(refused_file("{% if %}"), "--chat-template");
  const auto jinja = folder.write("chat_template.jinja", "\xFF\xFE");
  EXPECT_EQ(refused_file(""), jinja.string());
  std::filesystem::resize_file(jinja, uint64_t{4} << 30);
  EXPECT_EQ(refused_file(""), jinja.string());
  std::filesystem::remove(jinja);
  const auto config = folder.path() / "tokenizer_config.json";
  for (const char* text : {R"({"chat_template": 3})", R"({"chat_template": [3]})", "{",
                           R"({"chat_template": [{"name": "a"}]})"}) {
    folder.write("tokenizer_config.json", text);
    EXPECT_EQ(refused_file(""), config.string()) << text;
  }
}

TEST(ChatTemplate, AModelsWrongTemplateOnlyStopsChats) {
  const TempFolder folder;
  const json::object tools{{"tools", json::array{1}}};
  const auto expect = [&](const std::string& problem, bool plain, bool with_tools) {
    const auto chat_template = ChatTemplate::load(folder.path(), "");
    ASSERT_NE(chat_template, nullptr);
    EXPECT_NE(chat_template->problem().find(problem), std::string::npos)
        << chat_template->problem();
    EXPECT_EQ(chat_template->problem().empty(), problem.empty());
    for (const bool has_tools : {false, true}) {
      const std::string got = outcome(*chat_template, has_tools ? tools : json::object{});
      EXPECT_EQ(got.starts_with("!"), !(has_tools ? with_tools : plain)) << got;
      if (got.starts_with("!")) {
        EXPECT_NE(got.find(problem), std::string::npos) << got;
        EXPECT_NE(got.find("--chat-template"), std::string::npos) << got;
        EXPECT_EQ(got.find(folder.path().string()), std::string::npos) << got;
      }
    }
  };
  const auto named = [&](const std::string& list) {
    folder.write("tokenizer_config.json", R"({"chat_template": [)" + list + "]}");
  };
  named(R"({"name": "a", "template": "x"}, {"name": "b", "template": "y"})");
  expect("tokenizer_config.json: its chat_template has no entry named \"default\"", false, false);
  named(R"({"name": "a", "template": "x"}, {"name": "tool_use", "template": "y"})");
  expect("no entry named \"default\"", false, true);
  named(R"({"name": "default", "template": "x"}, {"name": "tool_use", "template": "{% if %}"})");
  expect("is not a template", true, false);
  named(R"({"name": "default", "template": "{{ 'x }}"}, {"name": "tool_use", "template": "y"})");
  expect("is not a template", false, true);
  // What nobody asks for does no harm.
  named(R"({"name": "default", "template": "x"}, {"name": "rag", "template": "{% if %}"})");
  expect("", true, true);
  folder.write("tokenizer_config.json", R"({"chat_template": "{{ 'x }}"})");
  expect("is not a template", false, false);
  folder.write("chat_template.jinja", "{% for x in %}");
  expect("chat_template.jinja: is not a template", false, false);
}

TEST(ChatTemplate, SaysWhichContentItShows) {
  const auto shapes = [](const std::string& text, const char* role) {
    const auto found = inline_template(text)->shapes(role);
    std::string out;
    if (found.text) out += "text ";
    if (found.part) out += "part ";
    if (found.parts) out += "parts ";
    if (found.thinking) out += "thinking ";
    return out;
  };
  const std::string each = "{% for m in messages %}";
  for (const char* role : {"system", "developer", "user", "other", "assistant", "tool"}) {
    EXPECT_EQ(shapes(each + "{{ m.content }}{% endfor %}", role), "text ");
    EXPECT_EQ(shapes(each + "{{ m.content | trim }}{% endfor %}", role), "text ");
    EXPECT_EQ(shapes(each + "{{ {'c': m.content} | tojson }}{% endfor %}", role), "text ");
    EXPECT_EQ(shapes(each + "{{ m.content.split('x') | join }}{% endfor %}", role), "text ");
    EXPECT_EQ(shapes(each + "{{ m.content[0].text }}{% endfor %}", role), "part ");
    EXPECT_EQ(shapes(each + "{{ m.content | map(attribute='text') | join }}{% endfor %}", role),
              "part parts ");
  }
  EXPECT_EQ(shapes("{{ messages[0].content }}", "assistant"), "");
  EXPECT_EQ(shapes("{{ raise_exception('no') }}", "user"), "");
  EXPECT_EQ(shapes("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}"
                   "{% endfor %}",
                   "user"),
            "");
}

TEST(ChatTemplate, TellsTheTime) {
  EXPECT_EQ(outcome(*inline_template("{{ strftime_now('%Y') | length }}"), json::object()), "4");
  EXPECT_EQ(outcome(*inline_template("{{ strftime_now('%d %b') | length }}"), json::object()), "6");
  EXPECT_EQ(outcome(*inline_template("{{ strftime_now('%Y' * 100000) }}"), json::object()), "");
}

TEST(ChatTemplate, ARequestThatIsNoObjectIsRefused) {
  const auto chat_template = inline_template("x");
  EXPECT_THROW(chat_template->render("[]"), base::RequestError);
  EXPECT_THROW(chat_template->render("{"), base::RequestError);
  EXPECT_THROW(chat_template->render(std::string(100000, '[')), base::RequestError);
}

TEST(ChatTemplate, SeesNoFilesAndNoHost) {
  for (const char* text :
       {"{% include '/etc/passwd' %}", "{% import '/etc/passwd' as x %}{{ x }}",
        "{% extends '/etc/passwd' %}", "{{ debug() }}", "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{{ self._TemplateReference }}",
        "{{ open('/etc/passwd').read() }}", "{{ range.__globals__.x }}"}) {
    EXPECT_EQ(outcome(*inline_template(text), user_says("hi")).substr(0, 1), "!") << text;
  }
}

TEST(ChatTemplate, ConcurrentRenderingsHaveTheirOwnBudgets) {
  const auto chat_template = ChatTemplate::load(testdata() / "byte_level",
                                                (testdata() / "templates/thinking.jinja").string());
  const std::string context = json::serialize(user_says("hello"));
  const std::string expected = chat_template->render(context);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) wrong += chat_template->render(context) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace moesaic::text
