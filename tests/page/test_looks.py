"""What the page looks like: contrast, keyboard, the picture of the experts."""

import pytest
from selenium.webdriver.common.keys import Keys

# Elements that say something, each with its text's contrast and, where it has an edge, the edge's.
CONTRASTS = """
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (colour) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return { r, g, b, a };
    };
    const light = ({ r, g, b }) => [r, g, b].reduce((sum, value, i) => {
      const part = value / 255;
      const linear = part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
      return sum + linear * [0.2126, 0.7152, 0.0722][i];
    }, 0);
    const contrast = (one, other) => {
      const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    };
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = rgb(getComputedStyle(at).backgroundColor);
        if (colour.a === 255) return colour;
      }
      throw new Error("nothing is behind " + element.outerHTML);
    };
    const out = [];
    for (const element of document.querySelectorAll("body *")) {
      if (!element.checkVisibility()) continue;
      const style = getComputedStyle(element);
      const name = element.localName + "." + element.className + "#" + element.id;
      const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
      const field = element.matches("input, textarea, select");
      if (own || field) out.push([name, contrast(rgb(style.color), behind(element)), 4.5]);
      if (field && element.placeholder) {
        const colour = getComputedStyle(element, "::placeholder").color;
        out.push([name + " placeholder", contrast(rgb(colour), behind(element)), 4.5]);
      }
      if (field || element.matches("button")) {
        const around = behind(element.parentElement);
        const edge = contrast(rgb(style.borderTopColor), around);
        out.push([name + " edge", Math.max(edge, contrast(behind(element), around)), 3]);
      }
    }
    return out;
"""

EVERYTHING = [
    "<think>hmm</think>## Head\n\nText with `code`, **strong**, [a link](https://example.org/).\n",
    "\n- item\n\n",
    "> quoted `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx = 1\n```\n\n---\n",
]


@pytest.mark.parametrize("kind", ["page", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(request, scripted, scheme, kind):
    """WCAG 2.2 AA: 4.5 for text, 3 for what shows where a field or a button is."""
    page = request.getfixturevalue(kind)
    page.cdp(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    scripted.models += [{"id": "adapter", "max_model_len": 77}]
    scripted.answers += [EVERYTHING, [500, "sorry"]]
    page.open(scripted.url, "scripted")
    seen = page.js(CONTRASTS)
    page.ask("hello")
    page.find(".thought summary").click()
    page.ask("and now?")
    page.find("#settings summary").click()
    page.find("#temperature").send_keys("9")
    page.send("a draft")
    seen += page.js(CONTRASTS)
    if kind == "phone":
        page.find("#panel").click()
        seen += page.js(CONTRASTS)
    names = " ".join(name for name, _, _ in seen)
    for part in (
        "#send",
        "#reset",
        "#notice",
        ".note",
        ".copy",
        "code",
        "placeholder",
        "#busiest",
        "#now",
    ):
        assert part in names, f"{part} was not looked at"
    bad = {f"{name}: {ratio:.2f}, needs {least}" for name, ratio, least in seen if ratio < least}
    assert not bad, bad
    assert not page.complaints() or all("500" in line["message"] for line in page.complaints())


def test_nothing_moves_for_who_wants_it_so(page, scripted):
    script = """document.querySelector("#log").innerText;
        const box = document.createElement("div");
        box.className = "completion waiting";
        document.querySelector("#log").append(box);
        return getComputedStyle(box, "::after").animationName;"""
    page.open(scripted.url, "scripted")
    assert page.js(script) == "blink"
    page.cdp(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-reduced-motion", "value": "reduce"}],
    )
    assert page.js(script) == "none"


def test_the_whole_page_works_with_the_keyboard(page, scripted):
    page.open(scripted.url, "scripted")
    scripted.answers.append(["```js\nx\n```\n"])
    page.ask("hello")
    reached = set()
    for _ in range(40):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(
            page.js(
                "return document.activeElement.id || document.activeElement.className"
                " || document.activeElement.localName"
            )
        )
    assert reached >= {
        "log",
        "copy",
        "pre",
        "input",
        "send",
        "summary",
        "reset",
        "now",
        "all",
        "experts",
    }


# --- the experts

SHARES = """const c = document.getElementById("experts"), dots = devicePixelRatio;
    const [layers, experts] = arguments, left = 48 * dots, top = 18 * dots;
    const wide = (c.width - left) / experts;
    const high = Math.min(Math.max(wide / dots, 6), Math.max(6, 420 / layers)) * dots;
    const pen = c.getContext("2d");
    const count = (n) => [...Array(n).keys()];
    return count(layers).map((row) => count(experts).map((expert) => {
      const [x, y] = [left + (expert + 0.5) * wide, top + (row + 0.5) * high];
      return pen.getImageData(x, y, 1, 1).data.slice(0, 3).join();
    }));"""


@pytest.fixture
def experts(page, scripted):
    """Two layers with eight experts, after one without: 2 of 8 for each token."""
    recent = [[64, 32, 16, 8, 4, 2, 1, 1], [0, 0, 0, 0, 4, 4, 60, 60]]
    scripted.load = {
        **scripted.load,
        "layers": 2,
        "experts": 8,
        "top_k": 2,
        "layer_numbers": [1, 3],
        "recent": recent,
        "total": [[10 * n for n in row] for row in recent],
        "model": {**scripted.load["model"], "layers": 4},
    }
    page.open(scripted.url, "scripted")
    page.until(lambda: "8 experts" in page.text("#summary"))
    return page


def test_the_picture_tells_shares_apart_up_to_the_most_there_can_be(experts):
    first, second = experts.js(SHARES, 2, 8)
    # 4, 2, 1, 1/2, 1/4 and 1/8 times an even share have each a colour of its own.
    assert len(set(first)) == 7, first
    # 4 times is the most there can be, and still not the same as 3.75.
    assert second[6] == second[7] != first[0]


def test_the_words_name_the_models_layers(experts, scripted):
    assert experts.text("#summary") == "2 layers with 8 experts, top 2; 2 more without."
    assert experts.text("#busiest") == "Busiest: expert 0 of layer 1, 4.0 times an even share."
    experts.find("#all").click()
    assert experts.find("#all").get_attribute("aria-pressed") == "true"
    assert experts.find("#now").get_attribute("aria-pressed") == "false"


def test_an_idle_server_has_no_busiest_expert(experts, scripted):
    bright = experts.js(SHARES, 2, 8)
    scripted.load = {**scripted.load, "recent": [[0] * 8] * 2}
    experts.until(
        lambda: (
            experts.text("#busiest")
            == "Idle. Busiest last: expert 0 of layer 1, 4.0 times an even share."
        )
    )
    experts.until(lambda: experts.js(SHARES, 2, 8) != bright, "the picture does not fade")
    # A new run of the server has no last picture.
    scripted.load = {**scripted.load, "started": 2, "total": [[0] * 8] * 2}
    experts.until(lambda: experts.text("#busiest") == "No expert has worked yet: ask something.")


def test_the_keys_choose_an_expert(experts):
    canvas = experts.find("#experts")
    canvas.send_keys(Keys.ARROW_RIGHT)
    says = "expert 0 of layer 1: 4.00 times an even share, 640 tokens since the server started"
    assert experts.text("#cell") == says
    canvas.send_keys(Keys.ARROW_DOWN, Keys.END)
    assert experts.text("#cell").startswith("expert 7 of layer 3: 3.75 times")
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert experts.text("#cell").startswith("expert 7 of layer 3:")
    canvas.send_keys(Keys.HOME, Keys.ARROW_UP, Keys.ARROW_UP)
    assert experts.text("#cell").startswith("expert 0 of layer 1:")
    canvas.send_keys(Keys.ESCAPE)
    assert experts.text("#cell") == ""


def test_the_scale_is_not_overwritten(experts):
    assert "1× is an even share" in " ".join(experts.text("aside").split())
    size = "const c = document.getElementById('experts'); return [c.clientWidth, c.clientHeight];"
    _, high = experts.js(size)
    ink = """const c = document.getElementById("experts"), dots = devicePixelRatio;
        const [left, top, wide, high] = [...arguments].map((n) => Math.round(n * dots));
        const d = c.getContext("2d").getImageData(left, top, wide, high).data;
        let seen = 0;
        for (let i = 3; i < d.length; i += 4) seen += d[i] > 0;
        return seen;"""
    assert experts.js(ink, 0, 0, 46, high - 44) > 50, "the layers have no numbers"
    assert experts.js(ink, 48, high - 60, 200, 14) > 50, "the experts have no numbers"
    assert experts.js(ink, 48, high - 22, 260, 22) > 50, "the scale has no numbers"


@pytest.mark.parametrize("layers, count", [(1, 2), (32, 8), (61, 256), (94, 128)])
def test_models_of_all_sizes_fit(page, scripted, layers, count):
    row = list(range(count))
    scripted.load = {
        **scripted.load,
        "layers": layers,
        "experts": count,
        "top_k": 2,
        "layer_numbers": list(range(layers)),
        "recent": [row] * layers,
        "total": [row] * layers,
        "model": {**scripted.load["model"], "layers": layers},
    }
    page.open(scripted.url, "scripted")
    page.until(lambda: f"{count} experts" in page.text("#summary"))
    wide, high = page.js(
        "const c = document.getElementById('experts'); return [c.clientWidth, c.clientHeight];"
    )
    assert wide <= 480 and high < 700
    assert not page.js(
        "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )


def test_a_dense_model_has_no_picture(page, scripted):
    scripted.load = {
        **scripted.load,
        "layers": 0,
        "experts": 0,
        "layer_numbers": [],
        "total": [],
        "recent": [],
    }
    page.open(scripted.url, "scripted")
    page.until(lambda: "dense" in page.text("#summary"))
    assert not page.find("#experts").is_displayed() and not page.find("#views").is_displayed()
