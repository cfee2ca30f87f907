"""web/markdown.js: what text becomes, and that no text becomes anything else."""

import random
import time

import pytest

CODE = (
    '<figure class="code"><figcaption><span>{}</span>'
    '<button type="button" class="copy">Copy</button></figcaption>'
    '<pre tabindex="0"><code>{}</code></pre></figure>'
)


@pytest.fixture
def markdown(demo, page):
    page.open(demo.url, "demo")
    page.driver.set_script_timeout(60)

    def render(*pieces):
        """The HTML of a text that comes in pieces."""
        return page.driver.execute_async_script(
            """const [pieces, done] = arguments;
            import("/web/markdown.js").then(({ Writer, render }) => {
              const box = document.createElement("div");
              if (pieces.length === 1) {
                box.append(render(pieces[0]));
              } else {
                const writer = new Writer(box);
                let text = "";
                for (const piece of pieces) writer.show(text += piece);
              }
              done(box.innerHTML);
            }).catch((error) => done("" + error));""",
            pieces,
        )

    return render


def link(address, text=None):
    safe = 'target="_blank" rel="noopener noreferrer nofollow"'
    return f'<a title="{address}" href="{address}" {safe}>{text or address}</a>'


def table(head, *rows):
    """Each row as its cells' elements."""
    rows = ["<tr>" + row + "</tr>" for row in rows]
    return (
        '<div class="table" tabindex="0"><table><thead><tr>' + head + "</tr></thead>"
        "<tbody>" + "".join(rows) + "</tbody></table></div>"
    )


EXAMPLES = [
    ("plain\ntext", "<p>plain\ntext</p>"),
    ("one\n\ntwo", "<p>one</p><p>two</p>"),
    ("# Head\n## Next ##\n#nohead", "<h3>Head</h3><h4>Next</h4><p>#nohead</p>"),
    ("*a* **b** ***c*** _d_ __e__ ~~f~~",
     "<p><em>a</em> <strong>b</strong> <strong><em>c</em></strong> <em>d</em> <strong>e</strong>"
     " <del>f</del></p>"),
    ("2 * 3 * 4 and snake_case_name and ~one~", "<p>2 * 3 * 4 and snake_case_name and ~one~</p>"),
    ("**미라**는 *여기*에", "<p><strong>미라</strong>는 <em>여기</em>에</p>"),
    ("**open and *half* done", "<p>**open and <em>half</em> done</p>"),
    ("\\*not\\* \\[x\\]", "<p>*not* [x]</p>"),
    ("`a*b*` and ``x`y`` and `open", "<p><code>a*b*</code> and <code>x`y</code> and `open</p>"),
    ("```c++\nint x;\n\n  y\n```\nafter", CODE.format("c++", "int x;\n\n  y") + "<p>after</p>"),
    ("~~~\n```\n~~~", CODE.format("code", "```")),
    ("```\nopen", CODE.format("code", "open")),
    ("text\n---\nmore", "<p>text</p><hr><p>more</p>"),
    ("> a\n> *b*\n\nc", "<blockquote><p>a\n<em>b</em></p></blockquote><p>c</p>"),
    ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
    ("1. run\n   ```sh\n   ls\n   ```\n2. look",
     '<ol start="1"><li>run' + CODE.format("sh", "ls") + "</li><li>look</li></ol>"),
    ("text\n- a\nlazy\n\nend", "<p>text</p><ul><li>a\nlazy</li></ul><p>end</p>"),
    ("|a|b|\n|:-:|-:|\n|1|`x`|\n|2|\n|3|4|5|\nend",
     table('<th class="center">a</th><th class="right">b</th>',
           '<td class="center">1</td><td class="right"><code>x</code></td>',
           '<td class="center">2</td><td class="right"></td>',
           '<td class="center">3</td><td class="right">4 | 5</td>') + "<p>end</p>"),
    ("a | b\nno table", "<p>a | b\nno table</p>"),
    ("[a *b*](https://x.org/q_(z) \"t\")",
     "<p>" + link("https://x.org/q_(z)", "a <em>b</em>") + "</p>"),
    ("see https://x.org/a_b, or (http://y.org/).",
     "<p>see " + link("https://x.org/a_b") + ", or (" + link("http://y.org/") + ").</p>"),
    ("![alt](https://x.org/i.png) wow![1]",
     "<p>" + link("https://x.org/i.png", "alt") + " wow![1]</p>"),
    ("[x](javascript:alert(1)) [y](/v1/models) [z](data:text/html,x)",
     "<p>[x](javascript:alert(1)) [y](/v1/models) [z](data:text/html,x)</p>"),
    ("<b>x</b> &amp; <script>1</script>",
     "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp; &lt;script&gt;1&lt;/script&gt;</p>"),
]  # fmt: skip


def test_what_text_becomes(markdown):
    for text, html in EXAMPLES:
        assert markdown(text) == html, text


PIECES = [
    *"*_`~[]()!>#|-+1.\\ \n\t", "\n\n", "**", "```", "~~~", "\n- ", "\n  - ", "\n1. ", "\n> ",
    "\n# ", "---", "|-|", "|a|b|\n|-|-|\n", "word", "a b", "https://x.org", "](https://x.org/)",
    "](javascript:x)", "<think>", "<img src=x>", "<script>", "&lt;", "한글", "\u2028",
    "\ud83d\ude00", "```js\ncode\n```\n", '"', "'",
]  # fmt: skip
ALLOWED = {
    "p": set(), "h3": set(), "h4": set(), "h5": set(), "h6": set(), "em": set(), "strong": set(),
    "del": set(), "code": set(), "hr": set(), "blockquote": set(), "ul": set(), "ol": {"start"},
    "li": set(), "table": set(), "thead": set(), "tbody": set(), "tr": set(), "th": {"class"},
    "td": {"class"}, "div": {"class", "tabindex"}, "figure": {"class"}, "figcaption": set(),
    "span": set(), "button": {"type", "class"}, "pre": {"tabindex"},
    "a": {"title", "href", "target", "rel"},
}  # fmt: skip


def test_a_growing_text_looks_as_the_whole_does_and_holds_nothing_but_markdown(demo, page):
    """3,000 random texts: the same in pieces as at once, the elements above and no other, nothing
    lost."""
    page.open(demo.url, "demo")
    page.driver.set_script_timeout(300)
    draw = random.Random(7)
    texts = [[draw.choice(PIECES) for _ in range(draw.randrange(1, 40))] for _ in range(3000)]
    wrong = page.driver.execute_async_script(
        """const [texts, allowed, done] = arguments;
        import("/web/markdown.js").then(({ Writer, render }) => {
          for (const pieces of texts) {
            const whole = document.createElement("div"), grown = document.createElement("div");
            whole.append(render(pieces.join("")));
            const writer = new Writer(grown);
            let text = "";
            for (const piece of pieces) writer.show(text += piece);
            if (whole.innerHTML !== grown.innerHTML) {
              return done(["grew differently", text, whole.innerHTML, grown.innerHTML]);
            }
            for (const element of whole.querySelectorAll("*")) {
              const names = allowed[element.localName];
              if (!names || [...element.attributes].some(({ name }) => !names.includes(name))) {
                return done(["made", text, element.outerHTML]);
              }
              if (element.href && !/^(https?|mailto):/.test(element.href)) {
                return done(["links to", text, element.href]);
              }
            }
            for (const word of ["word", "한글", "<img src=x>", "<script>", "&lt;"]) {
              const count = (string) => string.replaceAll("\\n", "").split(word).length;
              if (count(text) > count(whole.textContent)) {
                // An info string and a link's address are not shown; nothing else may be lost.
                if (!/(```|~~~|\\]\\()/.test(text)) return done(["lost", text, whole.innerHTML]);
              }
            }
          }
          done(null);
        }).catch((error) => done(["threw", "" + error]));""",
        texts,
        {name: sorted(attributes) for name, attributes in ALLOWED.items()},
    )
    assert wrong is None, wrong


HOSTILE = [
    "*", "_", "*a ", "**", "`", "``", "[", "]", "[](", "![", "[a](https://x", "~~", ">", "> ",
    "- ", " - ", "#", "# ", "|", "|-", "(", "((", "https://", "https://x.org/!", "\\", "*_",
    "*_~~", "[*", "a_", " ", "\t", "\n>", "\n- ", "\n  ", "<", "&", "1. ", "\n|a|\n|-|", "```\n",
    "~", '"', "한", "[[]", "](https://x.org)", "(a)", "](((a", "`" * 7 + " ",
]  # fmt: skip


def test_no_text_hangs_the_page_or_nests_without_end(markdown, page):
    """100,000 characters of anything are drawn in a moment, no deeper than a browser can bear."""
    slowest = 0
    for seed in HOSTILE:
        text = (seed * (100000 // len(seed)))[:100000]
        for whole in (text, text[:50000] + "x" + text[50000:]):
            begin = time.monotonic()
            html = markdown(whole)
            slowest = max(slowest, time.monotonic() - begin)
            assert "Error" not in html[:200], html[:200]
            assert time.monotonic() - begin < 5, f"{seed!r} took {time.monotonic() - begin:.1f} s"
            deepest = depth = 0
            for part in html.split("<")[1:]:
                if part.startswith("/"):
                    depth -= 1
                elif not part.startswith("hr"):
                    depth += 1
                deepest = max(deepest, depth)
            assert deepest < 150, f"{seed!r} nests {deepest} deep"
    print(f"slowest {slowest:.2f} s")
    runs = "".join("`" * n + " " for n in range(1, 440))  # each as long as no other
    begin = time.monotonic()
    markdown(runs)
    assert time.monotonic() - begin < 5
