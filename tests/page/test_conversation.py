"""The page's conversation against a server whose answers the test writes."""

import threading
import time

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

HELD = "the part before the wait"


@pytest.fixture
def chat(page, scripted):
    page.open(scripted.url, "scripted")
    return page


@pytest.fixture
def held(chat, scripted):
    """An answer that has begun and waits for the event to go on."""
    go_on = threading.Event()
    scripted.answers.append([HELD, go_on, " and after"])
    chat.send("first question")
    chat.until(lambda: HELD in chat.text(".message.assistant"))
    yield go_on
    go_on.set()


def sent(scripted, number=-1):
    """What a request told the model, as (role, content)."""
    return [(m["role"], m["content"]) for m in scripted.requests[number][1]["messages"]]


def was_left(scripted):
    return scripted.gone > 0


# --- while an answer comes


def test_a_new_conversation_leaves_the_old_answer_behind(chat, scripted, held):
    chat.find("#reset").click()
    chat.until(lambda: was_left(scripted), "the old answer was not given up")
    assert not chat.all(".exchange") and chat.idle()
    scripted.answers.append(["new answer"])
    assert chat.ask("second question") == "new answer"
    assert sent(scripted) == [("user", "second question")]
    assert HELD not in chat.text("#log")
    chat.driver.refresh()
    chat.until(lambda: chat.all(".exchange"))
    assert HELD not in chat.text("#log")


def test_enter_does_not_end_an_answer(chat, scripted, held):
    chat.send("too soon")
    assert chat.find("#input").get_property("value") == "too soon"
    assert "still coming" in chat.text("#notice")
    held.set()
    chat.until(chat.idle)
    assert chat.text(".message.assistant") == HELD + " and after"
    assert not was_left(scripted)


@pytest.mark.parametrize("how", ["button", "escape"])
def test_an_answer_can_be_stopped_and_is_kept(chat, scripted, held, how):
    if how == "button":
        chat.find("#stop").click()
    else:
        chat.find("#input").send_keys(Keys.ESCAPE)
    chat.until(lambda: was_left(scripted))
    assert chat.text(".note") == "stopped"
    scripted.answers.append(["fine"])
    chat.ask("and then?")
    assert sent(scripted) == [
        ("user", "first question"),
        ("assistant", HELD),
        ("user", "and then?"),
    ]


def test_the_log_is_quiet_for_readers_until_the_answer_is_there(chat, held):
    assert chat.find(".message.assistant").get_attribute("aria-busy") == "true"
    held.set()
    chat.until(lambda: chat.find(".message.assistant").get_attribute("aria-busy") == "false")


# --- what keeps a question from being sent says so


@pytest.mark.parametrize(
    "field, value",
    [("temperature", "7"), ("temperature", "-"), ("max_tokens", "0"), ("max_tokens", "1.5")],
)
def test_a_field_out_of_range_is_shown(chat, scripted, field, value):
    assert not chat.find("#" + field).is_displayed()
    chat.find("#settings summary").click()
    chat.find("#" + field).send_keys(value)
    chat.find("#settings summary").click()
    chat.send("hello")
    assert chat.find("#" + field).is_displayed() and chat.text("#notice").startswith(
        {"temperature": "temperature:", "max_tokens": "longest answer"}[field]
    )
    assert chat.find("#input").get_property("value") == "hello" and not scripted.requests
    chat.find("#" + field).clear()
    scripted.answers.append(["yes"])
    chat.find("#send").click()
    chat.until(lambda: chat.all(".message.assistant") and chat.idle())
    assert chat.text(".message.assistant") == "yes"
    assert field not in scripted.requests[0][1]


def test_a_missing_key_is_asked_for(page, scripted):
    scripted.key = "secret"
    page.open(scripted.url)
    page.until(lambda: "API key" in page.text("#notice"))
    page.send("hello")
    assert page.find("#key").is_displayed()
    assert page.driver.switch_to.active_element.get_attribute("id") == "key"
    assert page.find("#input").get_property("value") == "hello"
    page.find("#key").send_keys("secret\t")
    page.until(lambda: "scripted" in page.text("#model"))
    assert page.text("#notice") == ""
    scripted.answers.append(["welcome"])
    page.find("#send").click()
    page.until(lambda: page.all(".message.assistant") and page.idle())
    assert page.text(".message.assistant") == "welcome"
    page.driver.refresh()
    page.until(lambda: "scripted" in page.text("#model"), "the key was forgotten")


def test_a_server_that_goes_and_comes_back_is_noticed(chat, scripted):
    scripted.away = True
    chat.until(lambda: "does not answer" in chat.text("#notice"), seconds=5)
    scripted.away = False
    chat.until(lambda: chat.text("#notice") == "The server is back.", seconds=5)
    scripted.away = True
    chat.until(lambda: "does not answer" in chat.text("#notice"), seconds=5)
    scripted.load = {**scripted.load, "started": 2}
    scripted.models = [{"id": "another", "max_model_len": 100}]
    scripted.away = False
    chat.until(lambda: chat.text("#notice") == "The server has been started anew.", seconds=5)
    assert chat.text("#model") == "another, context 100"
    scripted.answers.append(["yes"])
    assert chat.ask("there?") == "yes"
    assert scripted.requests[-1][1]["model"] == "another"


def test_a_restart_is_noticed_though_nobody_saw_it_go(chat, scripted):
    scripted.load = {**scripted.load, "started": 2}
    chat.until(lambda: chat.text("#notice") == "The server has been started anew.", seconds=5)


# --- answers that do not come


def test_a_refused_question_can_be_mended_and_is_not_sent_again(chat, scripted):
    scripted.answers += [[400, "this is too much"], ["better"]]
    chat.ask("too long a question")
    assert chat.text(".note").startswith("this is too much")
    chat.find(".note button").click()
    assert not chat.all(".exchange")
    assert chat.find("#input").get_property("value") == "too long a question"
    chat.find("#input").clear()
    assert chat.ask("short") == "better"
    assert sent(scripted) == [("user", "short")]


def test_a_question_without_an_answer_stays_out_of_the_next_request(chat, scripted):
    scripted.answers += [[500, "sorry"], ["yes"]]
    chat.ask("first")
    assert chat.ask("second") == "yes"
    assert sent(scripted) == [("user", "second")]


def test_a_broken_answer_is_kept_and_said_to_be_broken(chat, scripted):
    scripted.answers += [["half an ans", None], ["yes"]]
    assert chat.ask("first") == "half an ans"
    assert "broke off" in chat.text(".note")
    chat.ask("second")
    assert sent(scripted)[1] == ("assistant", "half an ans")


def test_an_answer_cut_at_its_limit_says_so(chat, scripted):
    scripted.finish = "length"
    scripted.answers.append(["some"])
    chat.ask("first")
    assert chat.text(".note") == "cut at the limit of tokens"


# --- the context


def test_old_turns_make_room_for_new_ones(page, scripted):
    scripted.models = [{"id": "scripted", "max_model_len": 200}]
    page.open(scripted.url, "scripted")
    for number in range(12):
        scripted.answers.append([f"answer {number} "] + ["word "] * 20)
        page.ask(f"question {number} " + "x" * 60)
    first = sent(scripted, -1)[0]
    assert first[0] == "user" and int(first[1].split()[1]) > 3, first
    # What was sent leaves a quarter of the context to the answer.
    for _, body in scripted.requests:
        assert sum(3 + len(m["content"]) // 4 for m in body["messages"]) <= 150
    mark = page.find(".left")
    after = page.js("return arguments[0].nextElementSibling.textContent", mark)
    assert after.startswith(first[1]), "the mark stands at the wrong place"
    assert len(page.all(".exchange")) == 12, "what is not sent is still shown"


def test_a_stopped_answer_counts_as_well(page, scripted):
    scripted.models = [{"id": "scripted", "max_model_len": 200}]
    page.open(scripted.url, "scripted")
    go_on = threading.Event()
    scripted.answers += [["word "] * 160 + ["END", go_on], ["yes"]]
    page.send("first")
    page.until(lambda: "END" in page.text("#log"))
    page.find("#stop").click()
    page.until(page.idle)
    assert page.ask("second") == "yes"
    assert sent(scripted) == [("user", "second")]


def test_no_limit_is_sent_unless_one_is_set(chat, scripted):
    scripted.answers += [["a"], ["b"]]
    chat.ask("first")
    assert (
        "max_tokens" not in scripted.requests[-1][1]
        and "temperature" not in scripted.requests[-1][1]
    )
    chat.find("#settings summary").click()
    chat.find("#max_tokens").send_keys("7")
    chat.find("#temperature").send_keys("0.25")
    chat.find("#system").send_keys("Be brief.")
    chat.ask("second")
    body = scripted.requests[-1][1]
    assert body["max_tokens"] == 7 and body["temperature"] == 0.25
    assert sent(scripted)[0] == ("system", "Be brief.")


# --- long answers


def work(page, scripted, steps):
    """Processor seconds that the page's thread takes for an answer; prints its longest stall."""
    page.js("""window.gaps = [];
        let last = performance.now();
        setInterval(() => {
          const now = performance.now();
          gaps.push(now - last);
          last = now;
        }, 5);""")
    page.cdp("Performance.enable", timeDomain="threadTicks")
    scripted.answers.append(steps)
    page.ask("a long answer, please")
    figures = {m["name"]: m["value"] for m in page.cdp("Performance.getMetrics")["metrics"]}
    stall = page.js("return Math.max(...gaps)")
    print(f"{figures['TaskDuration']:.1f} s of work, longest stall {stall:.0f} ms")
    return figures["TaskDuration"]


WORDS = ["the ", "river ", "**mill** ", "of ", "`Tessary`, ", "and ", "a ", "*small* "]


@pytest.mark.parametrize("newline", [0, 60], ids=["one paragraph", "paragraphs"])
def test_a_long_answer_does_not_freeze_the_page(chat, scripted, newline):
    words = [WORDS[i % 8] if not newline or i % newline else "end.\n\n" for i in range(4000)]
    assert work(chat, scripted, words) < 5  # 27 when every token writes the text anew
    shown = chat.js("return document.querySelector('.message.assistant').textContent")
    assert len(shown) > 15000


def test_a_long_block_of_code_does_not_freeze_the_page(chat, scripted):
    lines = ["```python\n"] + [f"line_{i} = {i}\n" for i in range(4000)] + ["```\n"]
    assert work(chat, scripted, lines) < 5
    assert chat.js("return document.querySelector('.message code').textContent").count("\n") == 3999


def test_painting_leaves_time_for_everything_else(chat):
    """Where one painting takes long, as of a paragraph of 56,000 letters, it is done less often."""
    chat.driver.set_script_timeout(60)
    turns, paintings = chat.driver.execute_async_script("""
        const [done] = arguments, begin = performance.now();
        import("/web/chat.js").then(({ Chat }) => {
          const exchange = {
            question: "?", completion: false, raw: "*word* ".repeat(8000), thought: "", note: "",
            open: true, failed: false,
          };
          const log = document.querySelector("#log");
          const chat = new Chat(log, document.createElement("p"));
          chat.add(exchange);
          let turns = 0, paintings = 0;
          new MutationObserver(() => ++paintings).observe(log, { childList: true, subtree: true });
          (function more() {
            ++turns;
            exchange.raw += "more ";
            chat.later(exchange);
            if (performance.now() - begin < 3000 || paintings < 3) setTimeout(more, 1);
            else done([turns, paintings]);
          })();
        });""")
    print(f"{turns} turns of other work, {paintings} paintings")
    assert turns / paintings > 20  # two or three when every frame paints


@pytest.mark.parametrize("kind", ["page", "phone"])
def test_the_log_follows_the_answer_unless_it_is_scrolled_away(request, scripted, kind):
    page = request.getfixturevalue(kind)
    page.open(scripted.url, "scripted")
    go_on, again = threading.Event(), threading.Event()
    scripted.answers.append(
        ["line\n\n"] * 60 + ["MIDDLE\n\n", go_on] + ["line\n\n"] * 60 + ["LAST", again, " word"]
    )
    page.send("hello")
    in_sight = """const log = document.getElementById("log").getBoundingClientRect();
        const end = document.querySelector(".text > :last-child").getBoundingClientRect();
        const inside = end.bottom <= log.bottom + 1 && end.top >= log.top;
        return inside && log.bottom <= innerHeight + 1;"""
    page.until(lambda: "MIDDLE" in page.text("#log") and page.js(in_sight), "it does not follow")
    page.js("document.getElementById('log').scrollTop = 0")
    time.sleep(0.1)
    go_on.set()
    page.until(lambda: "LAST" in page.text("#log"))
    assert page.js("return document.getElementById('log').scrollTop") == 0
    again.set()
    page.until(page.idle)


# --- over a reload


def test_the_conversation_outlives_a_reload(chat, scripted):
    scripted.answers += [["**one**"], ["two"]]
    chat.ask("first")
    chat.find("#settings summary").click()
    chat.find("#system").send_keys("Be brief.")
    chat.find("#input").send_keys("a draft")
    chat.driver.refresh()
    chat.until(lambda: "scripted" in chat.text("#model"))
    assert chat.find(".message.assistant strong").text == "one"
    assert chat.find("#input").get_property("value") == "a draft"
    chat.find("#input").clear()
    chat.ask("second")
    assert sent(scripted) == [
        ("system", "Be brief."),
        ("user", "first"),
        ("assistant", "**one**"),
        ("user", "second"),
    ]
    chat.find("#reset").click()
    chat.driver.refresh()
    chat.until(lambda: "scripted" in chat.text("#model"))
    assert not chat.all(".exchange") and chat.all("#hints button")


def test_half_an_answer_outlives_a_reload(chat, scripted, held):
    chat.driver.refresh()
    chat.until(lambda: "scripted" in chat.text("#model"))
    assert chat.text(".message.assistant") == HELD
    assert "broken off" in chat.text(".note") and chat.idle()


def test_another_tab_has_its_own_conversation(chat, scripted):
    scripted.answers.append(["one"])
    chat.ask("first")
    chat.driver.switch_to.new_window("tab")
    chat.open(scripted.url, "scripted")
    assert not chat.all(".exchange")


def test_what_is_stored_may_be_anything(chat, scripted):
    rubbish = ["{", "null", "7", '{"conversation": null, "fields": 5}']
    for exchanges in ["3", "[7]", "[{}]", '[{"question": "x", "raw": null}]']:
        rubbish.append(f'{{"conversation": {{"exchanges": {exchanges}, "left": "x"}}}}')
    for text in rubbish:
        chat.js(
            """const [text] = arguments;
            addEventListener("pagehide", () => sessionStorage.setItem("moesaic", text));""",
            text,
        )
        chat.driver.refresh()
        chat.until(lambda: "scripted" in chat.text("#model"), text)
        assert not chat.all(".exchange")
    scripted.answers.append(["yes"])
    assert chat.ask("still there?") == "yes"


# --- models, thinking, code, completions


def test_a_model_can_be_picked(page, scripted):
    scripted.models += [{"id": "adapter", "max_model_len": 77}]
    page.open(scripted.url, "adapter")
    page.find("#model select").find_elements(By.TAG_NAME, "option")[1].click()
    scripted.answers.append(["yes"])
    page.ask("hello")
    assert scripted.requests[-1][1]["model"] == "adapter"
    time.sleep(1.5)  # the next look at the server does not take the choice back
    assert page.find("#model select").get_property("value") == "adapter"


@pytest.mark.parametrize(
    "steps",
    [
        ["<think>", "\nsix times ", "seven", "\n</think>", "\n\nforty-two"],
        ["<th", "ink>six times seven</think>forty-two"],
        ["six times seven\n", "</think>", "\n\nforty-two"],
        [("reasoning", "six times "), ("reasoning", "seven"), "forty-two"],
        [("reasoning_content", "six times seven"), "forty-two"],
    ],
)
def test_thinking_is_folded_and_not_sent_back(chat, scripted, steps):
    scripted.answers += [steps, ["you are welcome"]]
    chat.ask("what is it?")
    assert chat.text(".message.assistant .text") == "forty-two"
    assert chat.text(".thought") == "Thoughts", "the thinking is not folded"
    chat.find(".thought summary").click()
    assert chat.text(".thought") == "Thoughts\nsix times seven"
    chat.ask("thanks")
    assert sent(scripted)[1] == ("assistant", "forty-two")


def test_thinking_that_goes_on_says_so(chat, scripted):
    go_on = threading.Event()
    scripted.answers.append(["<think>hmm", go_on, "</think>x"])
    chat.send("hello")
    chat.until(lambda: chat.text(".thought") == "Thinking…")
    go_on.set()
    chat.until(lambda: chat.text(".thought") == "Thoughts")


def test_words_about_thinking_are_no_thinking(chat, scripted):
    scripted.answers.append(["The mark `</think>` ends it, ", "</think> it is."])
    assert chat.ask("what ends it?") == "The mark </think> ends it, </think> it is."
    assert not chat.find(".thought").is_displayed()


@pytest.mark.parametrize("clipboard", [True, False])
def test_code_can_be_copied(chat, scripted, clipboard):
    code = "if a < b:\n    print('<b>')"
    scripted.answers.append(["Look:\n```python\n", code, "\n```\n"])
    chat.ask("code, please")
    if clipboard:
        chat.cdp(
            "Browser.grantPermissions",
            permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
            origin=scripted.url,
        )
    else:
        chat.js(
            "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
        )  # as without TLS
    chat.find(".copy").click()
    chat.until(lambda: chat.text(".copy") == "Copied")
    chat.find("#input").click()
    chat.find("#input").send_keys(Keys.CONTROL, "v")
    assert chat.find("#input").get_property("value") == code
    chat.until(lambda: chat.text(".copy") == "Copy")


def test_a_completion_goes_on(chat, scripted):
    chat.find("#settings summary").click()
    chat.find("#mode").find_elements(By.TAG_NAME, "option")[1].click()
    scripted.answers += [[" was", " a **mill**"], [", and"]]
    scripted.finish = "length"
    assert chat.ask("  Once there") == "  Once there was a **mill**"
    path, body = scripted.requests[-1]
    assert (
        path == "/v1/completions" and body["prompt"] == "  Once there" and body["max_tokens"] == 256
    )
    chat.find(".note button").click()
    chat.until(lambda: len(scripted.requests) == 2 and chat.idle())
    assert scripted.requests[-1][1]["prompt"] == "  Once there was a **mill**"
    assert chat.text(".message") == "  Once there was a **mill**, and"
    assert len(chat.all(".note button")) == 1


def test_a_model_without_a_template_completes_and_one_with_it_chats_again(page, scripted):
    scripted.load["model"]["chat"] = False
    page.open(scripted.url, "scripted")
    page.until(lambda: page.find("#mode").get_property("value") == "completion")
    assert "Once upon a time" in page.text("#hints")
    scripted.answers.append(["x"])
    page.ask("abc")
    assert scripted.requests[-1][0] == "/v1/completions"
    scripted.load = {
        **scripted.load,
        "started": 2,
        "model": {**scripted.load["model"], "chat": True},
    }
    page.until(lambda: page.find("#mode").get_property("value") == "chat")


def test_a_server_without_a_tokenizer_is_said_to_be_none_for_this_page(page, scripted):
    scripted.load["model"] |= {"chat": False, "text": False}
    page.open(scripted.url, "scripted")
    page.until(lambda: "no tokenizer" in page.text("#notice"))
    page.send("hello")
    assert "no tokenizer" in page.text("#notice") and not scripted.requests


# --- the server's figures


def test_the_figures_are_the_servers_own(chat, scripted):
    scripted.load = {
        **scripted.load,
        "first_token_seconds": 0.0123,
        "inter_token_seconds": 0.002,
        "running": 3,
        "waiting": 5,
    }
    chat.until(
        lambda: chat.text("#speed") == "first token 12 ms, then 500 tokens/s · 3 running, 5 waiting"
    )
    # They stay when the server has nothing to do.
    scripted.load = {
        **scripted.load,
        "first_token_seconds": None,
        "inter_token_seconds": None,
        "running": 0,
        "waiting": 0,
    }
    chat.until(
        lambda: chat.text("#speed") == "first token 12 ms, then 500 tokens/s · 0 running, 0 waiting"
    )
