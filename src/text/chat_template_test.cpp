#include "text/chat_template.h"

#include <gtest/gtest.h>

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

TEST(ChatTemplate, RendersConversationsLikeJinja2) {
  const TempFolder folder;
  for (const json::value& golden : read_list(testdata() / "conversations.json")) {
    const auto path = testdata() / "templates" / string_of(golden.at("template"));
    expect_like_jinja2(*ChatTemplate::load(folder.path(), path.string()), golden.as_object());
  }
}

}  // namespace
}  // namespace moesaic::text
