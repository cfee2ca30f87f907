"""A fine-tune with an added token and the embedding of its base model: no reason to end."""

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from conftest import BINARY, DEMO

PAD = 4096  # the first id that the demo's embedding does not have


@pytest.fixture
def padded(tmp_path):
    """The demo model whose tokenizer has one token more, and stops at an id that nothing has."""
    folder = tmp_path / "padded"
    shutil.copytree(DEMO, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = tokenizer["added_tokens"]
    added.append({**added[0], "id": PAD, "content": "<pad>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["eos_token_id"].append(PAD)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def post(served, path, body):
    request = urllib.request.Request(
        served.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_an_added_token_is_refused_and_nobody_else_is_hurt(serve, padded):
    served = serve(padded, "--served-model-name", "demo")
    assert "<pad> (4096)" in served.log()
    assert "eos_token_id 4096 is outside" in served.log()
    common = {"model": "demo", "max_tokens": 100, "ignore_eos": True, "min_tokens": 100}
    streamed = []
    stream = threading.Thread(
        target=lambda: streamed.append(
            post(served, "/v1/completions", {**common, "prompt": "x", "stream": True})
        )
    )
    stream.start()
    status, text = post(served, "/v1/completions", {**common, "prompt": "x <pad>"})
    assert status == 400
    error = json.loads(text)["error"]
    assert error["param"] == "prompt" and "4096" in error["message"]
    stream.join()
    assert streamed[0][0] == 200 and streamed[0][1].endswith("data: [DONE]\n\n")
    assert served.process.poll() is None
    # Text alone still knows the token, there and back.
    ids = json.loads(post(served, "/tokenize", {"prompt": "<pad>"})[1])["tokens"]
    assert PAD in ids
    assert "<pad>" in json.loads(post(served, "/detokenize", {"tokens": ids})[1])["prompt"]


def test_the_terminal_says_so_too(padded):
    template = "{{ messages[-1].content }}<pad>"
    answer = subprocess.run(
        [BINARY, "chat", padded, "--chat-template", template],
        input="Hello\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    assert "no embedding" in answer.stdout
