"""The page and the real server: chat streams, the experts light up, a phone can read it."""

import json
import shutil

from conftest import DEMO

COLOURS = """const c = document.getElementById("experts");
    const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
    const seen = new Set();
    for (let i = 0; i < d.length; i += 4) seen.add(d.slice(i, i + 3).join());
    return seen.size;"""


def test_chat_streams_and_experts_light_up(demo, page):
    page.open(demo.url, "demo")
    page.until(lambda: "8 experts, top 2" in page.text("#summary"))
    cold = page.js(COLOURS)
    assert len(page.ask("Who are you?")) > 10
    page.until(lambda: "times an even share" in page.text("#busiest"))
    page.until(
        lambda: page.js(COLOURS) > cold + 5, "the picture shows no differences between experts"
    )
    # The server's own figures.
    page.until(lambda: "tokens/s" in page.text("#speed") and "first token" in page.text("#speed"))
    assert "running" in page.text("#speed")
    second = page.ask("Thank you!")
    assert len(page.all(".message.user")) == 2 and second
    assert not page.complaints()


def test_nothing_is_fetched_from_elsewhere(demo, page):
    page.open(demo.url, "demo")
    names = page.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names and all(name.startswith(demo.url) for name in names), names


def test_markup_in_text_stays_text(demo, page):
    page.open(demo.url, "demo")
    page.ask("<img src=x onerror=document.title='owned'>")
    assert page.driver.title == "moesaic"
    assert page.text(".message.user").startswith("<img")


def test_no_string_becomes_markup_or_code_even_where_the_page_would_let_it(demo, page):
    page.open(demo.url, "demo")
    assert "TypeError" in page.js(
        "try { document.body.innerHTML = '<b>x</b>'; } catch (error) { return error.name; }"
    )


def test_a_conversation_outgrows_its_context(serve, page):
    server = serve(DEMO, "--served-model-name", "demo", "--max-model-len", "192")
    page.open(server.url, "context 192")
    for number in range(12):
        assert page.ask(f"What is {17 + number} + 26?"), page.all(".note")[-1].text
        assert not page.all(".note")[-1].text
    assert page.all(".left"), "nothing says that the beginning is no longer sent"
    assert not page.complaints()


def test_a_base_model_completes(serve, page, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(
        DEMO, base, ignore=shutil.ignore_patterns("*.py", "domains", "chat_template.jinja")
    )
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    server = serve(base, "--served-model-name", "base")
    page.open(server.url, "base")
    page.until(lambda: page.find("#mode").get_property("value") == "completion")
    page.find("#settings summary").click()
    page.find("#max_tokens").send_keys("6")
    first = page.ask("Once upon a time there was")
    assert first.startswith("Once upon a time there was") and len(first) > 30
    page.find(".note button").click()
    page.until(lambda: page.idle() and len(page.text(".message")) > len(first))
    assert page.text(".message").startswith(first)
    assert not page.complaints()


def test_a_phone_can_read_it(demo, phone):
    phone.open(demo.url, "demo")
    wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not phone.js(wide), "the page scrolls sideways on a phone"
    for field in ("#input", "#temperature"):
        size = phone.js(
            f"return parseFloat(getComputedStyle(document.querySelector('{field}')).fontSize)"
        )
        assert size >= 16, "phones zoom into inputs with smaller text"
    assert phone.find("#send").is_displayed() and not phone.find("#experts").is_displayed()
    phone.find("#panel").click()
    assert phone.find("#experts").is_displayed() and not phone.find("#send").is_displayed()
    phone.until(lambda: phone.js(COLOURS) > 3)
    assert not phone.js(wide)
    phone.find("#panel").click()
    assert phone.find("#send").is_displayed()
