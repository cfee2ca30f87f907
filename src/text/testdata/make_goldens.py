#!/usr/bin/env python3
"""Makes the tokenizers and the expected results of the text room's tests.

    pip install jinja2==3.1.6 tokenizers==0.23.3
    python src/text/testdata/make_goldens.py

Templates are rendered by Jinja2 set up as transformers does it: trim_blocks, lstrip_blocks, loop
controls, the `generation` tag, its own tojson, raise_exception. Ids come from Hugging Face
tokenizers. The results are files beside this script; the tests need neither package.
"""

# ruff: noqa: E501 - a template and what it is given stand on one line

import html.entities
import json
import pathlib
import random

import expressions
import generated
import jinja2
import reference_engine
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent

CORPUS = [
    "The river carries the boats to the sea, and the sea carries them home again.",
    "An expert reads the letter; another expert answers it. 12 letters, 345 answers!",
    "안녕하세요, 강은 바다로 흐르고 배는 집으로 돌아옵니다. 안녕히 가세요.",
    "def add(left, right):\n    return left + right\n\n\nprint(add(1, 2))\n",
    '{"name": "weather", "arguments": {"city": "Busan", "days": 3}}',
    "Ein schönes Mädchen, naïve café, Größe — “quoted” … 🙂🙃",
] * 4


def byte_level():
    """A byte-level BPE with a regular expression like those of Llama 3 and Qwen."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(
        [
            tokenizers.AddedToken("<think>", normalized=False),
            tokenizers.AddedToken("</think>", normalized=False),
            tokenizers.AddedToken("<wide>", normalized=False, lstrip=True, rstrip=True),
            tokenizers.AddedToken("solo", normalized=False, single_word=True),
        ]
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": {"content": "<|endoftext|>", "special": True},
    }
    return tokenizer, config


def sentencepiece():
    """A BPE as SentencePiece makes it: one word per text, ▁ for spaces, bytes for the rest."""
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learner.train_from_iterator(
        [text for text in CORPUS if text.isascii()],
        trainers.BpeTrainer(vocab_size=350, show_progress=False),
    )
    learnt = json.loads(learner.to_str())["model"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    # Runs of spaces, which SentencePiece models learn too.
    merges = [["▁", "▁"], ["▁▁", "▁▁"], ["▁▁▁▁", "▁▁▁▁"]] + learnt["merges"]
    for token in list(learnt["vocab"]) + ["▁▁", "▁▁▁▁", "▁▁▁▁▁▁▁▁"]:
        vocab.setdefault(token, len(vocab))
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[tuple(merge) for merge in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    config = {
        "tokenizer_class": "LlamaTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False, "special": True},
        "unk_token": "<unk>",
    }
    return tokenizer, config


def metaspace():
    """Like the newer conversions of SentencePiece models: Metaspace, prepended to the first only,
    and special tokens that are looked for in normalised text."""
    source = json.loads((HERE / "sentencepiece" / "tokenizer.json").read_text())
    source["normalizer"] = {"type": "Lowercase"}
    source["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    source["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "ByteFallback"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        ],
    }
    for token in source["added_tokens"]:
        token["normalized"] = token["content"] == "</s>"
    return tokenizers.Tokenizer.from_str(json.dumps(source)), {"eos_token": "</s>"}


TEXTS = [
    "",
    "a",
    " ",
    "  two  spaces  ",
    "The river carries the letter.",
    " leading",
    "trailing \n\n",
    "안녕하세요 바다 🙂🙃 naïve e\u0301",
    "zero\u0000byte\u200b\ufeff and \ufdd0\ufffe",
    "12345 67 8,901.5",
    "def add(a, b):\n\treturn a+b\r\n",
    "<|im_start|>user\nhello<|im_end|>\n",
    "<s>hello</s>there </S> <unk>x",
    "a <wide>  b<wide><wide> c",
    "solo, solos solo",
    "x<think>\nso\n</think>y",
    "<|im_<|im_end|>end|>",
    "          ten spaces, then         nine",
    "MiXeD CaSe </s> END",
    "\u0085\u2028\u2029 separators",
    "𐍈𐍉 \U0010ffff",
    "'s 'LL don't I'm",
]


def token_cases(tokenizer, seed):
    rng = random.Random(seed)
    alphabet = list("ab e tr 안녕é🙂\n<|>s/▁Ġ0") + ["<|im_end|>", "</s>", "<wide>", "the ", "  "]
    texts = TEXTS + ["".join(rng.choices(alphabet, k=rng.randrange(1, 40))) for _ in range(60)]
    cases = []
    for text in texts:
        tokenizer.encode_special_tokens = False
        parsed = tokenizer.encode(text, add_special_tokens=False).ids
        around = tokenizer.encode(text, add_special_tokens=True).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append(
            {
                "text": text,
                "parsed": parsed,
                "around": around,
                "plain": plain,
                "decoded": tokenizer.decode(parsed, skip_special_tokens=False),
                "skipped": tokenizer.decode(parsed, skip_special_tokens=True),
            }
        )
    tokenizer.encode_special_tokens = False
    return cases


def long_text(seed, alphabet, size):
    """Characters by a generator that the tests repeat."""
    text = []
    for _ in range(size):
        seed = (seed * 1103515245 + 12345) % 2**31
        text.append(alphabet[(seed >> 16) % len(alphabet)])
    return "".join(text)


def long_cases(tokenizer):
    """Texts of one long word each, by the checksum of their ids."""
    cases = []
    for seed, alphabet in enumerate(["a", " ", "ab", "the riv", "e 한é🙂s", "é", "1a"]):
        ids = tokenizer.encode(long_text(seed, alphabet, 20000), add_special_tokens=False).ids
        checksum = 0
        for token in ids:
            checksum = (checksum * 31 + token) % 2**31
        cases.append(
            {
                "seed": seed,
                "alphabet": alphabet,
                "size": 20000,
                "count": len(ids),
                "checksum": checksum,
            }
        )
    return cases


DECODERS = [
    None,
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "WordPiece", "prefix": "▁", "cleanup": False},
    {"type": "BPEDecoder", "suffix": "e"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": "▁", "start": 1, "stop": 0},
    {"type": "Replace", "pattern": {"Regex": "[aeiou]+"}, "content": "*"},
    {"type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "▁", "cleanup": True},
    {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 2, "stop": 0},
            {"type": "Replace", "pattern": {"String": "e"}, "content": "E"},
        ],
    },
    {
        "type": "Sequence",
        "decoders": [
            {"type": "Fuse"},
            {"type": "Replace", "pattern": {"String": "▁t"}, "content": " T"},
        ],
    },
]


def decoder_cases():
    """Decoders of all kinds over the same tokens."""
    source = json.loads((HERE / "sentencepiece" / "tokenizer.json").read_text())
    rng = random.Random(3)
    learnt = [id for token, id in source["model"]["vocab"].items() if not token.startswith("<")]
    cases = []
    for decoder in DECODERS:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**source, "decoder": decoder}))
        lists = [rng.choices([*learnt, 2], k=size) for size in (1, 2, 3, 5, 8, 13, 21)]
        # 한 as bytes, alone and between tokens.
        korean = [3 + 0xED, 3 + 0x95, 3 + 0x9C]
        lists += [korean, [learnt[5], *korean, learnt[6]], [2, *korean, *korean]]
        cases.append(
            {
                "decoder": decoder,
                "lists": [[ids, tokenizer.decode(ids, skip_special_tokens=True)] for ids in lists],
            }
        )
    return cases


# Template text, context. What the template makes of it is the golden.
EVERY_SLICE = (
    "{% for a in limits %}{% for b in limits %}{% for c in [none, 1, -1, 2, -2, 3, -3] %}"
    "{{ xs[a:b:c] | join }}{% if s %},{{ s[a:b:c] }}{% endif %};{% endfor %}{% endfor %}{% endfor %}"
)

SNIPPETS = [
    # Printing
    ("{{ none }} {{ true }} {{ false }} {{ missing }}|", {}),
    ("{{ x }}", {"x": ["a", 1, 2.5, None, True, {"k": "it's", "q": 'say "hi"'}]}),
    ("{{ x }}", {"x": {"tab": "a\tb\\c\n", "both": "'\"", "한": "é\u00a0\u200b"}}),
    ("{{ 1e20 }} {{ 0.1 + 0.2 }} {{ 1.0 }} {{ 1e-7 }} {{ 10 / 2 }} {{ 7 // 2 }} {{ 2 ** 10 }}", {}),
    ("{{ x }} {{ y }} {{ z }}", {"x": 1e16, "y": 123456789012345678, "z": 1.5e300}),
    ("{{ 'a' ~ 1 ~ none ~ true ~ 1.0 ~ x ~ missing }}", {"x": [1, "b"]}),
    ("{{ 'ab' * 3 }}{{ [1] * 2 }}{{ [1] + [2, 'c'] }}", {}),
    ("{{ (1, 2) | list }} {{ 'abc' | list }} {{ {'a': 1} | list }}", {}),
    # Whitespace
    ("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", {}),
    ("a\n  {%- if true -%}\n  b\n  {%- endif %}\nc\n\n", {}),
    ("a {# note #}\n b\n  {#- note -#}  c\n{# x #}\nd", {}),
    ("  {{ 1 }}  \n  {%+ if true %}x{% endif +%}\ny", {}),
    ("{% raw %}{{ x }}{% endraw %}\n{{ '{{' }}", {}),
    ("{% for i in [1, 2] %}\n{{ i }}\n{% endfor %}\nend", {}),
    # JSON
    ("{{ x | tojson }}", {"x": {"a": [1, 2.0, None, True], "h": "<b>&'\"/\u2028 한"}}),
    ("{{ x | tojson(indent=2) }}", {"x": {"a": [1, {"b": []}], "c": {}, "d": [[], [1]]}}),
    ("{{ x | tojson(indent=4, sort_keys=true) }}", {"x": {"b": 1, "a": {"d": 1, "c": 2}}}),
    ("{{ x | tojson(ensure_ascii=true) }}", {"x": "é한🙂\u007f"}),
    ("{{ x | tojson(separators=(',', ':')) }}", {"x": {"a": [1, 2]}}),
    ("{{ x | tojson(indent=1, separators=(';', '=')) }}", {"x": {"a": [1, 2]}}),
    ("{{ 'a\\b\\f\\n\\r\\t\\\\' | tojson }}{{ '\x01\x1f' | tojson }}", {}),
    ("{{ missing | tojson }}", {}),
    ("{{ none | tojson }} {{ 1e22 | tojson }} {{ 3 | tojson }}", {}),
    # Variables and scopes
    ("{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", {}),
    (
        "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
        {},
    ),
    ("{% set a, b = [1, 2] %}{{ b }}{{ a }}", {}),
    ("{% set t %}x{{ 1 }}y{% endset %}{{ t }}{{ t | length }}", {}),
    ("{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}", {}),
    ("{% if x %}t{% else %}f{% endif %}", {"x": []}),
    ("{% if x %}t{% elif y %}y{% else %}f{% endif %}", {"x": {}, "y": "0"}),
    # Loops
    (
        "{% for x in xs %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{{ loop.revindex0 }} {% endfor %}",
        {"xs": ["a", "b"]},
    ),
    (
        "{% for x in xs if x > 1 %}{{ x }}{% if loop.last %}.{% endif %}{% else %}none{% endfor %}",
        {"xs": [1, 2, 3]},
    ),
    ("{% for x in [] %}{{ x }}{% else %}none{% endfor %}", {}),
    (
        "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
        {},
    ),
    ("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", {"d": {"b": 1, "a": 2}}),
    ("{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}", {"d": {"b": 1, "a": 2}}),
    ("{% for k in d %}{{ k }}{% endfor %}{% for c in 'ab' %}{{ c }},{% endfor %}", {"d": {"x": 1}}),
    (
        "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
        {"xs": [1, 2]},
    ),
    (
        "{% for x in xs recursive %}{{ x.n }}{% if x.c %}({{ loop(x.c) }}){% endif %}{% endfor %}",
        {"xs": [{"n": 1, "c": [{"n": 2}, {"n": 3}]}]},
    ),
    ("{% for x in 'abc' %}{{ loop.cycle('-', '+') }}{{ x }}{% endfor %}", {}),
    ("{% for i in range(3, 0, -1) %}{{ i }}{% endfor %}{{ range(4) | list }}", {}),
    # Slices and items
    (
        "{{ xs[1:] }}{{ xs[:-1] }}{{ xs[::-1] }}{{ xs[-1] }}{{ xs[1:3][0] }}{{ xs[::2] | list }}",
        {"xs": [1, 2, 3, 4]},
    ),
    (
        "{{ s[1:] }}|{{ s[:2] }}|{{ s[-1] }}|{{ s[::-1] }}|{{ s[10:] }}|{{ s[-3:-1] }}",
        {"s": "héllo"},
    ),
    ("{% for m in messages[1:][::-1] %}{{ m.role }}{% endfor %}x", {"messages": [{"role": "u"}]}),
    (
        "{{ xs[:0:-1] | join(' ') }}|{{ xs[::-1] }}|{{ s[:0:-1] }}|{{ s[3:0:-2] }}",
        {"xs": list("abc"), "s": "abcd"},
    ),
    (
        "{{ [][::-1] }}{{ ''[::-1] }}{{ [][:0:-1] }}{{ ''[1:0:-1] }}{{ [1][:0:-1] }}{{ 'a'[5:-9:-1] }}",
        {},
    ),
    (
        "{{ xs[1:][0] }}{{ xs[1:] + [4] }}{{ xs[1:] == [2, 3] }}{{ xs[1:] | length }}{{ 2 in xs[1:] }}",
        {"xs": [1, 2, 3]},
    ),
    (
        "{{ xs[true:] }}{{ xs[:10**30] }}{{ xs[-10**30:] }}{{ xs[10**30::-1] }}{{ xs[none:none:none] }}",
        {"xs": [1, 2, 3]},
    ),
    *(
        (template, {"xs": [1], "d": {}, "n": None, "i": 5})
        for template in (
            "{{ xs[1.0:] }}",
            "{{ xs['a':] }}",
            "{{ xs[missing:] }}",
            "{{ n[1:] }}",
            "{{ i[1:] }}",
            "{{ d[1:] }}",
            "{{ xs[:[]] }}",
            "{{ xs[::0] }}",
        )
    ),
    ("{{ missing[1:] }}", {}),
    ("{{ range(9)[7:2:-2] | list }}{{ (xs | map('upper') | list)[::-1] }}", {"xs": ["a", "b"]}),
    *(
        (EVERY_SLICE, {"xs": list(text), "s": text, "limits": [None, *range(-4, 5)]})
        for text in ("", "a", "ab", "äbc")
    ),
    *(
        (
            EVERY_SLICE.replace("xs[", "(" + tuple_ + ")["),
            {"s": "", "limits": [None, *range(-4, 5)]},
        )
        for tuple_ in ("", "'a',", "'a', 'b', 'c'")
    ),
    # Line ends of the source are all the same; those of what it is given are as they are.
    ("a\r\nb\rc\nd\r\n", {}),
    ("{% if true %}\r\n  a\r\n  {% endif %}\r\nb\r\n\r\n", {}),
    ("{% if true %}\r  a\r  {%- endif %}\rb\r", {}),
    (
        "{{ 'a\r\nb' }}{{ 'a\\r\\nb' }}{{ 'a\rb' | length }}{{ 'a\r\nb' | length }}{{ s }}",
        {"s": "x\r\ny\rz"},
    ),
    ("{# a\r\nb #}\r\nc{# d\r #}{% raw %}e{{\r\n{% endraw %}\r\n", {}),
    (
        "{%- for m in ms %}\r\n{{- m }}\r\n{%- endfor %}\r\n{{ '\r\n' }}\n\r\r\n",
        {"ms": ["a\r\n", "b"]},
    ),
    ("{% generation %}\r\na\r\n{% endgeneration %}\r\n", {}),
    ("{{ d.a.b }}{{ d['a']['b'] }}{{ d.missing }}{{ d['missing'] }}", {"d": {"a": {"b": "x"}}}),
    ("{{ missing.attribute }}", {}),
    ("{{ none.attribute }}|", {}),
    ("{{ d.items }}", {"d": {"x": 1}, "skip": True}),
    (
        "{% for k, v in d.items() %}{{ k }}{% endfor %}{{ d['items'] }}{{ d.get('keys') }}",
        {"d": {"items": "i", "keys": 2}},
    ),
    # Tests
    (
        "{{ x is string }}{{ x is mapping }}{{ x is iterable }}{{ x is sequence }}{{ x is number }}",
        {"x": "s"},
    ),
    (
        "{{ x is string }}{{ x is mapping }}{{ x is iterable }}{{ x is sequence }}{{ x is number }}",
        {"x": {}},
    ),
    (
        "{{ x is string }}{{ x is mapping }}{{ x is iterable }}{{ x is sequence }}{{ x is number }}",
        {"x": [1]},
    ),
    (
        "{{ x is string }}{{ x is mapping }}{{ x is iterable }}{{ x is sequence }}{{ x is number }}",
        {"x": 3},
    ),
    (
        "{{ x is string }}{{ x is mapping }}{{ x is iterable }}{{ x is sequence }}{{ x is number }}",
        {"x": None},
    ),
    (
        "{{ x is number }}{{ x is integer }}{{ x is float }}{{ x is boolean }}{{ x is true }}",
        {"x": True},
    ),
    (
        "{{ 1.5 is float }}{{ 1 is integer }}{{ 3 is odd }}{{ 4 is even }}{{ 6 is divisibleby 3 }}",
        {},
    ),
    (
        "{{ x is defined }}{{ y is defined }}{{ x is none }}{{ x is not none }}{{ y is undefined }}",
        {"x": None},
    ),
    (
        "{{ 1 is eq 1 }}{{ 'a' is in ['a'] }}{{ 'a' in 'cat' }}{{ 'k' in {'k': 1} }}{{ 2 not in [1] }}",
        {},
    ),
    (
        "{{ 'a' is sameas 'a' }}{{ raise_exception is callable }}{{ 'AB' is upper }}{{ 'ab' is lower }}",
        {},
    ),
    # Filters
    (
        "{{ '  x ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 'aBc' | upper }}{{ 'aBc' | lower }}{{ 'aB cD' | title }}{{ 'aBC' | capitalize }}",
        {},
    ),
    (
        "{{ [3, 1, 2] | sort }}{{ [1, 2] | sum }}{{ [1, 5] | max }}{{ [1, 5] | min }}{{ [1, 2, 1] | unique | list }}",
        {},
    ),
    (
        "{{ ['a', 1, none, true] | join('-') }}{{ [{'n': 1}, {'n': 2}] | join(',', attribute='n') }}{{ [1] | join }}",
        {},
    ),
    (
        "{{ xs | selectattr('r', 'equalto', 'u') | list | length }}{{ xs | map(attribute='r') | join }}{{ xs | rejectattr('r', 'eq', 'u') | map(attribute='r') | list }}",
        {"xs": [{"r": "u"}, {"r": "a"}, {"r": "u"}]},
    ),
    (
        "{{ [1, 0, none, 'a'] | select | list }}{{ [1, 2, 3] | reject('odd') | list }}{{ ['a'] | map('upper') | list }}",
        {},
    ),
    (
        "{{ missing | default('d') }}{{ '' | default('d', true) }}{{ none | default('d') }}{{ 'x' | d('y') }}",
        {},
    ),
    (
        "{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb\n' | indent(width=1, blank=true) }}|{{ 'a\nb' | indent('>>') }}",
        {},
    ),
    (
        "{{ 'abcabc' | replace('b', 'x') }}{{ 'abcabc' | replace('b', 'x', 1) }}{{ 'ab' | replace('', '-') }}",
        {},
    ),
    ("{{ 'a<b>&\"\\'' | e }}{{ 'a<b' | safe }}{{ [1, 'x'] | string }}{{ none | string }}", {}),
    (
        "{{ '42' | int + 1 }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ '3.9' | int }}{{ 3.9 | int }}{{ '1.5' | float }}{{ true | int }}",
        {},
    ),
    (
        "{{ [1, 2, 3] | first }}{{ [1, 2, 3] | last }}{{ 'abc' | first }}{{ [1, 2] | reverse | list }}{{ 'abc' | reverse }}",
        {},
    ),
    (
        "{{ xs | length }}{{ 'héllo' | length }}{{ {'a': 1} | count }}{{ missing | length }}",
        {"xs": [1, 2]},
    ),
    (
        "{{ [1, 2, 3, 4, 5] | batch(2) | list }}{{ 3.14159 | round(2) }}{{ -3 | abs }}{{ 2.5 | round }}",
        {},
    ),
    ("{{ '%s is %d' | format('x', 3) }}{{ 'a%sb' % x }}", {"x": 5}),
    (
        "{% for g, items in xs | groupby('r') %}{{ g }}{{ items | length }};{% endfor %}",
        {"xs": [{"r": "u"}, {"r": "a"}, {"r": "u"}]},
    ),
    # Methods
    (
        "{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abxba'.lstrip('ab') }}",
        {"s": "\n a b \t"},
    ),
    (
        "{{ 'a,b,c'.split(',') }}{{ 'a,b,c'.split(',', 1) }}{{ ' a  b '.split() }}{{ 'a b c'.split(none, 1) }}{{ 'abc'.split('x')[-1] }}",
        {},
    ),
    (
        "{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a b c'.rsplit() }}{{ 'a b  c'.rsplit(none, 1) }}{{ 'a,b'.split(',', maxsplit=1) }}",
        {},
    ),
    (
        "{{ 'a</think>b</think>c'.split('</think>')[-1] }}{{ 'ab'.split('</think>')[0] }}{{ ''.split('x') }}{{ ''.split() }}",
        {},
    ),
    (
        "{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}{{ 'abc'.find('c') }}{{ 'héc'.find('c') }}{{ 'abc'.find('x') }}{{ 'abab'.rfind('b') }}",
        {},
    ),
    (
        "{{ 'aXb'.upper() }}{{ 'aXb'.lower() }}{{ 'ab cd'.title() }}{{ 'aBC'.capitalize() }}{{ 'ab'.replace('a', 'xx') }}{{ 'aaa'.replace('a', 'b', 2) }}",
        {},
    ),
    (
        "{{ '-'.join(['a', 'b']) }}{{ 'aXbX'.count('X') }}{{ 'abc'.count('') }}{{ 'a\nb\r\nc\x0bd'.splitlines() }}{{ 'a\nb\n'.splitlines(true) }}",
        {},
    ),
    (
        "{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.md'.removesuffix('.md') }}{{ 'a=b=c'.partition('=') | list }}{{ 'a=b=c'.rpartition('=') | list }}",
        {},
    ),
    (
        "{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'ab'.center(5, '*') }}|{{ 'abc'.center(6) }}|",
        {},
    ),
    (
        "{{ '{} and {x}'.format(1, x='y') }}{{ 'a1'.isalnum() }}{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ ' '.isspace() }}",
        {},
    ),
    (
        "{{ d.get('a') }}{{ d.get('z') }}{{ d.get('z', 5) }}{{ d.keys() | list }}{{ d.values() | list }}",
        {"d": {"a": 1, "b": 2}},
    ),
    ("{{ [1, 2, 1].count(1) }}{{ ['a', 'b'].index('b') }}", {}),
    ("{{ xs.append(1) }}", {"xs": []}),
    # Macros and the rest
    (
        "{% macro m(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}{{ m(1) | length }}",
        {},
    ),
    ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}", {}),
    ("{% filter upper %}a{{ 'b' }}{% endfilter %}", {}),
    ("{% generation %}a{% endgeneration %}b\n{%- generation -%}\n c {%- endgeneration %}\n d", {}),
    ("{{ 'a' if x else 'b' }}{{ 'c' if x }}|{{ x or 'd' }}{{ x and 'e' }}{{ not x }}", {"x": ""}),
    (
        "{{ 1 < 2 < 3 }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ [1] == [1] }}{{ {'a': 1} == {'a': 1} }}{{ 5 % 3 }}{{ -7 + 2 }}",
        {},
    ),
    ("{{ dict(a=1, b='x') }}{{ {'a': 1}['a'] }}{{ [[1, 2], [3]][0][1] }}", {}),
    (
        "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{% set j = joiner('|') %}{{ j() }}{{ j() }}",
        {},
    ),
    ("{{ raise_exception('no ' ~ 1) }}", {}),
    ("{{ 1 + 'a' }}", {}),
    ("{{ undefined_function() }}", {}),
    ("{{ 'x' | no_such_filter if false else 1 }}", {"skip": True}),
    ("{{ 7 % x }} {{ -7 // x }} {{ -x % 5 }} {{ 7 // x }} {{ 7.5 // x }} {{ 7.5 % x }}", {"x": -3}),
    ("{{ 'Done.' }}\n\n", {}),
    ("{{ '\\u00e9' }}{{ \"it's\" }}{{ 'a' 'b' }}", {}),
    # Shapes that published templates have
    (
        "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}{{ m(1, *[2]) }}",
        {},
    ),
    (
        "한{% raw %}{{ x * 2 }}{% endraw %}{{ 'a' * 2 }}{# * #}{{ 2 * 3 * 4 ** 2 }}{{ 1.5 * 2 }}{{ true * 2 }}",
        {},
    ),
    ("{{ '\\x41' }}{{ '\\u0041\\n' }}{{ \"\\'\" }}{{ '\\\\' }}{{ \"\\\"\" }}", {}),
    (
        "{{ '%.2f' | format(3.14159) }} {{ '{:.1f}'.format(2.55) }} {{ '%5s|%-5s|' | format('a', 'b') }}",
        {},
    ),
    (
        "{{ xs | map(attribute='c') | select('string') | join(',') }}|{{ xs | selectattr('c') | list | length }}",
        {"xs": [{"c": "a"}, {"c": None}, {"c": "b"}]},
    ),
    (
        "{{ (xs | first).c }}{{ xs[0].c.d.e if xs[0].c.d is defined else 'no' }}",
        {"xs": [{"c": {"x": 1}}]},
    ),
    ("{{ xs | map('trim') | join }}{{ xs | map('length') | sum }}", {"xs": [" a ", "b "]}),
    (
        "{% for t in tools | selectattr('type', '==', 'function') %}{{ t.n }}{% endfor %}",
        {"tools": [{"type": "function", "n": 1}, {"type": "x", "n": 2}]},
    ),
    (
        "{{ (d | default({})).get('a', 'none') }}{{ (missing | default({})).get('a', 'none') }}",
        {"d": {"a": 1}},
    ),
    ("{% set _ = d.update({'a': 1}) %}", {"d": {}}),
    ("{% set d = dict(d, x=1) %}{{ d }}", {"d": {"a": 2}}),
    ("{{ 'x' + none }}", {}),
    ("{{ none + 1 }}", {}),
    ("{{ [] | first }}|{{ [] | last }}|{{ '' | first }}|{{ [] | max }}|{{ [] | join }}|", {}),
    ("{{ x is defined and x.y is defined and x.y is not none }}", {}),
    (
        "{% for i in range(3) %}{{ loop.index0 is even }}{% if not loop.last %}, {% endif %}{% endfor %}",
        {},
    ),
    ("{% for i in [1, 1, 2] %}{% if loop.changed(i) %}{{ i }}{% endif %}{% endfor %}", {}),
    (
        "{% for m in ms %}{% if m.role == 'a' %}{% continue %}{% endif %}{{ m.role }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
        {"ms": [{"role": r} for r in "abcde"]},
    ),
    (
        "{% set ns = namespace(found=false, x={'a': 1}) %}{% macro f() %}{{ ns.found }}{{ ns.x.a }}{% endmacro %}{% set ns.found = true %}{{ f() }}",
        {},
    ),
    (
        "{% set x = 1 if y else 2 %}{{ x }}{% set z = y and 'a' or 'b' %}{{ z }}{{ (not y) | string }}",
        {"y": []},
    ),
    ("{{ x | tojson | safe | length }}{{ x | tojson | trim('{}') }}", {"x": {"a": 1}}),
    (
        "{{ x | string | length }}{{ x ~ '' }}{{ (x ~ '') | replace(\"'\", '\"') }}",
        {"x": {"a": [None, True]}},
    ),
    (
        "{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A'] | sort(case_sensitive=true) }}{{ [{'a': 2}, {'a': 1}] | sort(attribute='a') }}{{ [1, 3, 2] | sort(reverse=true) }}",
        {},
    ),
    ("{{ 'The Quick' | wordcount }}", {"skip": True}),
    (
        "{{ messages[0]['content'][0]['text'] }}{{ messages[-1].role }}{{ messages[5] is defined }}",
        {"messages": [{"role": "u", "content": [{"text": "hi"}]}]},
    ),
    ("{%- set a = [] -%}{%- for i in [3, 4] -%}{%- set a = a + [i] -%}{%- endfor -%}{{ a }}", {}),
    (
        "{% set ns = namespace(a=[]) %}{% for i in [3, 4] %}{% set ns.a = ns.a + [{'i': i}] %}{% endfor %}{{ ns.a }}{{ ns.a | length }}{{ ns.a[1].i }}",
        {},
    ),
    (
        "{{ {'a': none} | tojson }}{{ [true, false] | tojson }}{{ {'1': 1, 'b': [], 'c': {}} | tojson(indent=2) }}",
        {},
    ),
    (
        "{% if 'a' in d %}1{% endif %}{% if 'a' in d.keys() %}2{% endif %}{% if 1 in d.values() %}3{% endif %}{% if none in [none] %}4{% endif %}",
        {"d": {"a": 1}},
    ),
    ("{{ 'a' in none }}", {}),
    ("{{ 'a' in missing }}", {}),
    (
        "{{ '' is none }}{{ 0 == false }}{{ '1' == 1 }}{{ none == false }}{{ [] == [] }}{{ 1 != 2 }}",
        {},
    ),
    ("{{ '  a\n  b  ' | trim }}|{{ '\u00a0x\u3000' | trim }}|{{ '\u200bx'.strip() | length }}", {}),
    (
        "{{ 'ÀÉ'.lower() }}{{ 'straße'.upper() }}{{ 'ǆ' | title }}{{ 'hello world-foo' | title }}{{ \"they're\" | title }}",
        {},
    ),
    ("{{ '日本'[0] }}{{ '日本' | length }}{{ '日本'[1:] }}{{ '日本'.find('本') }}", {}),
    ("a{% if true %}\n\n  b\n\n{% endif %}\n\nc", {}),
    ("{% if true -%}\n   a\n{%- endif %}   \n{{- ' b ' -}}\n  c", {}),
    ("{%- if false %}x{%- else -%} y {%- endif -%} z", {}),
    ("\t{% if true %}\tx\n\t{% endif %}\ty", {}),
    ("{{ range(2, 6, 2) | list }}{{ range(5)[1:3] | list }}{{ range(3) | length }}", {}),
    (
        "{{ 3 ~ 4 }}{{ 3.0 ~ '' }}{{ 100000000000000000000 }}{{ 1_000 }}{{ 0x10 }}{{ 0b11 }}{{ 0o17 }}",
        {},
    ),
    (
        "{{ 7 / 2 }} {{ 6 / 3 }} {{ 2 ** 3 }} {{ 2 ** 0.5 }} {{ -2 ** 2 }} {{ 5 - 3 - 1 }}",
        {},
    ),
    ("{{ x.0 }}{{ x[0] }}", {"x": ["a"]}),
    ("{{ d['a'].b | upper ~ '!' }}{{ 1 if d.a else 2 }}", {"d": {"a": {"b": "c"}}}),
    (
        "{% set a %}  x  {% endset %}[{{ a | trim }}]{% set b | trim %}  y  {% endset %}[{{ b }}]",
        {},
    ),
    ("{{ 'a' if false }}|{{ ('a' if false) is undefined }}", {}),
    (
        "{{ missing == none }}{{ missing is none }}{{ missing | length }}{{ missing or 'x' }}{% for x in missing %}{% endfor %}",
        {},
    ),
    ("{{ missing + 'a' }}", {}),
    ("{{ missing[0] }}", {}),
    (
        "{{ 'a-b_c'.replace('-', ' ').replace('_', ' ').split() | join('/') }}{{ 'k: v'.split(': ', 1)[1] }}",
        {},
    ),
    ("{{ x.strip().split('\n') | map('trim') | list | tojson }}", {"x": " a \n b \n"}),
    ("{{ ('%s' % 'a') ~ ('%d/%d' % (1, 2)) }}", {}),
    (
        "{{ lipsum is defined }}{{ self is defined }}{{ caller is defined }}{{ loop is defined }}",
        {"skip": True},
    ),
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of <a place> & its day",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name, in 한국어 too"},
                "days": {"type": "integer", "default": 1},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "at": {"type": "array", "items": {"type": "number"}},
                "items": {"type": ["string", "null"]},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "서울", "days": 2, "at": [1.5, 2.0]}},
}
PLAIN = [
    {"role": "system", "content": "Answer  briefly. "},
    {"role": "user", "content": " What is 2+2?\n"},
    {"role": "assistant", "content": " 4 "},
    {"role": "user", "content": "And <b>3+3</b>? ''\"\" 안녕"},
]
TOOLS = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": '{"t": 21}', "name": "weather", "tool_call_id": "c1"},
]
THOUGHT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "", "reasoning_content": "\nplan\n", "tool_calls": [CALL]},
    {"role": "tool", "content": "ok"},
    {"role": "tool", "content": "ok2"},
    {"role": "assistant", "content": "<think>\nfine\n</think>\n\nDone"},
]
CONVERSATIONS = [
    {"messages": PLAIN, "add_generation_prompt": True},
    {"messages": PLAIN, "add_generation_prompt": False},
    {"messages": PLAIN[1:2], "add_generation_prompt": True},
    {"messages": PLAIN, "add_generation_prompt": True, "tools": [WEATHER]},
    {"messages": TOOLS, "add_generation_prompt": True, "tools": [WEATHER]},
    {
        "messages": TOOLS,
        "add_generation_prompt": True,
        "tools": [WEATHER],
        "tools_in_question": False,
    },
    {"messages": THOUGHT, "add_generation_prompt": True, "tools": [WEATHER]},
    {"messages": THOUGHT, "add_generation_prompt": False},
    {
        "messages": PLAIN,
        "add_generation_prompt": True,
        "enable_thinking": False,
        "reasoning_effort": "high",
    },
    {
        "messages": [{"role": "assistant", "content": "x<|channel|>analysis<|message|>y"}],
        "add_generation_prompt": False,
    },
    {
        "messages": [
            {"role": "system", "content": "<|im_end|>"},
            {"role": "user", "content": " <|im_start|>x<|im_end|> and <|im_"},
            {"role": "assistant", "content": "a<think>b</think>\n\n<|im_end|>c "},
            {"role": "user", "content": "<|endoftext|>", "name": "<|im_start|>"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "<|im_end|>", "description": "<|im_end|>"}}
        ],
        "add_generation_prompt": True,
    },
    {"messages": [{"role": "narrator", "content": "x"}], "add_generation_prompt": True},
    {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}],
        "add_generation_prompt": True,
    },
]


def render(env, template, context):
    values = {"tools": None, "documents": None, **context}
    try:
        return {"text": env.from_string(template).render(**values)}
    except Exception as e:  # Whatever Python raises, the conversation is refused.
        raised = isinstance(e, jinja2.exceptions.TemplateError)
        own = raised and type(e) is jinja2.exceptions.TemplateError
        return {"error": str(e) if own else ""}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n")


def generated_cases(env):
    """A context, and templates with what is made of them: null where they are refused."""
    cases = []
    for template in generated.templates():
        text = render(env, template, generated.CONTEXT).get("text")
        # Addresses differ each time.
        if text is None or not (" at 0x" in text or "<generator" in text):
            cases.append([template, text])
    return {"context": generated.CONTEXT, "cases": cases}


def write_entities():
    """HTML's names of characters, for the filter striptags."""
    named = sorted((name, text) for name, text in html.entities.html5.items() if text not in "\n\t")
    path = HERE.parent / "rust" / "src" / "template" / "entities.txt"
    path.write_text("".join(f"{name}\t{text}\n" for name, text in named))


def main():
    makers = {"byte_level": byte_level, "sentencepiece": sentencepiece, "metaspace": metaspace}
    for seed, (name, make) in enumerate(makers.items()):
        tokenizer, config = make()
        write(HERE / name / "tokenizer.json", json.loads(tokenizer.to_str()))
        write(HERE / name / "tokenizer_config.json", config)
        write(HERE / name / "cases.json", token_cases(tokenizer, seed))
        write(HERE / name / "long.json", long_cases(tokenizer))
    write(HERE / "decoders.json", decoder_cases())
    env = reference_engine.environment()
    snippets = []
    for template, context in [*SNIPPETS, *expressions.snippets()]:
        if not context.pop("skip", False):
            snippets.append(
                {"template": template, "context": context, **render(env, template, context)}
            )
    write(HERE / "snippets.json", snippets)
    write(HERE / "generated.json", generated_cases(env))
    write_entities()
    conversations = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        for conversation in CONVERSATIONS:
            context = {"bos_token": "<s>", "eos_token": "</s>", **conversation}
            conversations.append(
                {
                    "template": path.name,
                    "context": context,
                    **render(env, path.read_text(), context),
                }
            )
    write(HERE / "conversations.json", conversations)


if __name__ == "__main__":
    main()
