// Templates that would take all time or memory end in a 400, soon and in bounded memory.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/text_testing.h"

namespace moesaic::text {
namespace {

int64_t peak_megabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

std::string repeated(const std::string& text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

class Bomb : public testing::TestWithParam<std::pair<const char*, std::string>> {};

TEST_P(Bomb, IsRefusedSoonAndSmall) {
  const TempFolder folder;
  const int64_t before = peak_megabytes();
  const auto start = std::chrono::steady_clock::now();
  bool refused = false;
  std::string message;
  try {
    const auto chat_template = ChatTemplate::load(folder.path(), "{#- x -#}\n" + GetParam().second);
    const std::string text = chat_template->render(R"({"messages": [{"role": "user"}]})");
    message = "it renders " + std::to_string(text.size()) + " bytes";
  } catch (const base::RequestError& e) {
    EXPECT_EQ(e.status(), 400);
    refused = true;
    message = e.what();
  } catch (const base::ModelFileError& e) {
    refused = true;
    message = e.what();
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_TRUE(refused) << message;
  EXPECT_LT(message.size(), 1000u);
  // Real limits are steps and bytes; the clock is for a machine that is busy with other things.
  EXPECT_LT(seconds, 30);
  EXPECT_LT(peak_megabytes() - before, 1200) << message;
  std::printf("  %-16s %6.2f s %5ld MB  %s\n", GetParam().first, seconds,
              static_cast<long>(peak_megabytes()), message.c_str());
}

std::vector<std::pair<const char*, std::string>> bombs() {
  const std::string grow = "{% set s = s ~ s %}";
  return {
      {"range", "{% for i in range(10**9) %}{{ i }}{% endfor %}"},
      {"loops", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"},
      {"output", "{% for i in range(99999) %}" + repeated("raw text ", 1000) + "{% endfor %}"},
      {"output_value", "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}"},
      {"recursion", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"},
      {"recursion_two", "{% macro f(g, n) %}{{ g(g, n) }}{{ g(g, n) }}{% endmacro %}{{ f(f, 0) }}"},
      {"recursive_loop", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"},
      {"product",
       "{{ ('x' * 90000000)|length + ('x' * 90000000)|length + ('y' * 90000000)|length }}"},
      {"product_const", "{{ 'x' * 100000000 ~ 'y' * 100000000 ~ 'z' * 100000000 }}"},
      {"list_product", "{% for x in [0] * 1000000000 %}{% endfor %}"},
      {"list_in", "{{ 1 in [0] * 1000000000 }}"},
      {"concat", "{% set s = 'abcdefgh' %}" + repeated(grow, 60) + "{{ s }}"},
      {"concat_loop",
       "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor "
       "%}"},
      {"plus", "{% set s = 'abcdefgh' %}" + repeated("{% set s = s + s %}", 60) + "{{ s }}"},
      {"list_plus", "{% set s = [1] %}" + repeated("{% set s = s + s %}", 60) + "{{ s | length }}"},
      {"set_block", "{% set s = 'x' * 1000 %}" +
                        repeated("{% set s %}{{ s }}{{ s }}{% endset %}", 60) + "{{ s }}"},
      {"replace", "{% set s = 'x' * 100000 %}{{ s | replace('x', s) }}"},
      {"replace_method", "{% set s = 'x' * 100000 %}{{ s.replace('', s) }}"},
      {"join", "{{ range(99999) | join('x' * 100000) }}"},
      {"join_method", "{{ ('x' * 100000).join(range(99999) | map('string')) }}"},
      {"indent", "{{ ('\n' * 1000000) | indent(1000, true, true) }}"},
      {"format", "{{ '%999999999d' | format(1) }}"},
      {"format_method", "{{ '{:>999999999}'.format(1) }}"},
      {"center", "{{ 'x'.center(999999999) }}"},
      {"batch", "{{ [1] | batch(999999999, 0) | list }}"},
      {"slice", "{{ [1] | slice(999999999) | list }}"},
      {"upper_loop",
       "{% set s = 'x' * 10000000 %}{% set n = namespace(l=[]) %}"
       "{% for i in range(999) %}{% set n.l = n.l + [s | upper] %}{% endfor %}"},
      {"slice_loop",
       "{% set s = 'x' * 10000000 %}{% set n = namespace(l=[]) %}"
       "{% for i in range(999) %}{% set n.l = n.l + [s[i:]] %}{% endfor %}"},
      {"chars_loop",
       "{% set s = 'x' * 1000000 %}{% set n = namespace(l=[]) %}"
       "{% for i in range(999) %}{% set n.l = n.l + [s | list] %}{% endfor %}"},
      {"nested_print",
       "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
       "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"},
      {"nested_json",
       "{% set n = namespace(x=[1]) %}{% for i in range(60) %}"
       "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}"},
      {"nested_deep",
       "{% set n = namespace(x=[1]) %}{% for i in range(99999) %}"
       "{% set n.x = [n.x] %}{% endfor %}{{ n.x }}"},
      {"nested_drop",
       "{% set n = namespace(x=[1]) %}{% for j in range(99) %}{% for i in range(99999) "
       "%}{% set n.x = [n.x] %}{% endfor %}{% endfor %}"},
      {"nested_dicts",
       "{% set n = namespace(x=1) %}{% for j in range(99) %}{% for i in range(99999) "
       "%}{% set n.x = {'a': n.x} %}{% endfor %}{% endfor %}"},
      {"nested_equal",
       "{% set n = namespace(x=1, y=1) %}{% for j in range(99) %}"
       "{% for i in range(9999) %}{% set n.x = [n.x] %}{% set n.y = [n.y] %}"
       "{% endfor %}{{ n.x == n.y }}{% endfor %}{{ n.x.y.z }}"},
      {"sorts", "{% for i in range(99999) %}{{ range(99999) | sort | first }}{% endfor %}"},
      {"counts",
       "{% set s = 'x' * 9000000 %}{% for i in range(99999) %}{{ s.count('y') }}{% endfor %}"},
      {"searches",
       "{% set s = 'x' * 9000000 %}{% for i in range(999999 // 10) %}{% if 'y' in s %}{% "
       "endif %}{% endfor %}"},
      {"compares",
       "{% set s = 'x' * 9000000 %}{% set t = s ~ 'y' %}{% for i in range(99999) %}"
       "{% if s ~ '' == t %}{% endif %}{% endfor %}"},
      {"powers", "{{ 10 ** 10 ** 10 }}{{ 9 ** 9 ** 9 ** 9 }}{{ 1 + 'x' }}"},
      {"deep_source", "{{ " + repeated("-", 40000) + "x.y.z }}"},
      {"deep_expression", "{{ " + repeated("(", 20000) + "1" + repeated(")", 20000) + " }}"},
      {"deep_blocks", repeated("{% if true %}", 20000) + repeated("{% endif %}", 20000)},
      {"deep_nots", "{{ " + repeated("not ", 50000) + "1 }}"},
      {"deep_filters", "{{ 1" + repeated("|string", 30000) + "|no_such_filter }}"},
      {"deep_getattr", "{{ x" + repeated(".y", 60000) + " }}"},
      {"long_sum", "{{ 1" + repeated("+1", 60000) + " + x.y.z }}"},
      {"long_concat", "{{ x" + repeated("~1", 60000) + " ~ x.y.z }}"},
  };
}

INSTANTIATE_TEST_SUITE_P(Templates, Bomb, testing::ValuesIn(bombs()),
                         [](const auto& info) { return std::string(info.param.first); });

TEST(TemplateBudget, ALongConversationFits) {
  const TempFolder folder;
  for (const char* name : {"thinking.jinja", "headers.jinja", "bars.jinja", "channels.jinja"}) {
    const auto chat_template =
        ChatTemplate::load(folder.path(), (testdata() / "templates" / name).string());
    boost::json::array messages;
    for (int i = 0; i < 5000; ++i) {
      messages.push_back(boost::json::object{{"role", i % 2 == 0 ? "user" : "assistant"},
                                             {"content", std::string(200, 'x')}});
    }
    const auto start = std::chrono::steady_clock::now();
    const std::string text = chat_template->render(boost::json::serialize(
        boost::json::object{{"messages", messages}, {"bos_token", "<s>"}, {"eos_token", "</s>"}}));
    EXPECT_GT(text.size(), 1000000u);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  }
}

}  // namespace
}  // namespace moesaic::text
