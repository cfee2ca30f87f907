"""tokenizer_config.json and its sisters: what is not as it must be is bad model data, never half
read."""

import json
import shutil
import subprocess

import pytest
from conftest import BINARY, DEMO

SMALL = ["--kv-cache-memory-bytes", "10000000"]
CONFIG = "tokenizer_config.json"
MORE = "special_tokens_map.json"
TEMPLATE = "chat_template.json"
TOKEN = '{"content": "<x>", "special": true}'

# File, text, what the message must say.
ROWS = [
    (CONFIG, '{"eos_token": "a", "eos_token": "b"}', ["eos_token", "twice"]),
    (CONFIG, '{"eos_token": "a", "e\\u006fs_token": "b"}', ["eos_token", "twice"]),
    (CONFIG, '{"x": {"y": [{"z": 1, "z": 1}]}}', ["z", "twice"]),
    (CONFIG, '{"x": 1} {}', ["JSON"]),
    (CONFIG, '{"eos_token": 7}', ["eos_token"]),
    (CONFIG, '{"bos_token": true}', ["bos_token"]),
    (CONFIG, '{"pad_token": ["<p>"]}', ["pad_token"]),
    (CONFIG, '{"unk_token": {}}', ["unk_token"]),
    (CONFIG, '{"unk_token": {"content": 3}}', ["unk_token"]),
    (CONFIG, '{"additional_special_tokens": "<x>"}', ["additional_special_tokens"]),
    (CONFIG, '{"additional_special_tokens": ["<x>", 3]}', ["additional_special_tokens[1]"]),
    (CONFIG, '{"extra_special_tokens": {"x": null}}', ["extra_special_tokens[x]"]),
    (CONFIG, '{"added_tokens_decoder": [' + TOKEN + "]}", ["added_tokens_decoder"]),
    (CONFIG, '{"added_tokens_decoder": {"1": ' + TOKEN + ', "1": ' + TOKEN + "}}", ["twice"]),
    (CONFIG, '{"added_tokens_decoder": {"one": ' + TOKEN + "}}", ["added_tokens_decoder[one]"]),
    (CONFIG, '{"added_tokens_decoder": {"-1": ' + TOKEN + "}}", ["added_tokens_decoder[-1]"]),
    (CONFIG, '{"added_tokens_decoder": {"1": "<x>"}}', ["added_tokens_decoder[1]"]),
    (CONFIG, '{"added_tokens_decoder": {"1": {"special": true}}}', ["added_tokens_decoder[1]"]),
    (
        CONFIG,
        '{"added_tokens_decoder": {"1": {"content": "<x>", "lstrip": "yes"}}}',
        ["added_tokens_decoder[1][lstrip]"],
    ),
    (CONFIG, '{"add_bos_token": "true"}', ["add_bos_token"]),
    (CONFIG, '{"add_eos_token": 1}', ["add_eos_token"]),
    (CONFIG, '{"tokenizer_class": 3}', ["tokenizer_class"]),
    (CONFIG, '{"x": ' + "[" * 100_000, ["JSON"]),
    (CONFIG, '{"eos_token": 1' + "0" * 5000 + "}", []),
    (MORE, '{"eos_token": "a", "eos_token": "b"}', ["eos_token", "twice"]),
    (MORE, '{"sep_token": 7}', ["sep_token"]),
    (TEMPLATE, '{"chat_template": "a", "chat_template": "b"}', ["chat_template", "twice"]),
    (TEMPLATE, '{"chat_template": 7}', ["chat_template"]),
]


@pytest.mark.parametrize("name,text,words", ROWS, ids=[f"{n} {t[:60]}" for n, t, _ in ROWS])
def test_start_is_refused(tmp_path, name, text, words):
    model = tmp_path / "m"
    shutil.copytree(DEMO, model)
    if name == TEMPLATE:
        (model / "chat_template.jinja").unlink()
    (model / name).write_text(text)
    command = [str(BINARY), "serve", str(model), "--port", "0", "--prepared-cache", "off", *SMALL]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 65, result.stderr
    for word in [str(model / name), *words]:
        assert word in result.stderr
    assert len(result.stderr) < 3000


def test_what_published_files_have_is_read(tmp_path, serve):
    model = tmp_path / "m"
    shutil.copytree(DEMO, model)
    config = json.loads((model / CONFIG).read_text())
    config |= {
        "pad_token": None,
        "unk_token": {"__type": "AddedToken", "content": "<unk>", "lstrip": False},
        "additional_special_tokens": [],
        "extra_special_tokens": {},
        "add_bos_token": None,
        "sp_model_kwargs": {},
        "model_max_length": 1000000000000000019884624838656,
    }
    (model / CONFIG).write_text(json.dumps(config))
    (model / MORE).write_text(json.dumps({"mask_token": None, "cls_token": "<c>"}))
    serve(model, *SMALL)
