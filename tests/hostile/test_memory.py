"""Too little memory: each request that cannot have its own is a 503, the server and the others go
on; a start that cannot have it ends with a sentence."""

import http.client
import json
import random
import resource
import shutil
import subprocess
import threading
import time

import pytest
from conftest import BINARY, DEMO, SANITIZED

pytestmark = pytest.mark.skipif(SANITIZED, reason="limits the address space")
MIB = 1 << 20
SMALL = ["--kv-cache-memory-bytes", "10000000"]
ITSELF = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def vm_bytes(process):
    with open(f"/proc/{process.pid}/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def limit(process, more):
    """Lets the process's address space grow by so much more."""
    most = resource.RLIM_INFINITY if more is None else vm_bytes(process) + more
    resource.prlimit(process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def ask(served, path, body, timeout=60):
    """Status and body of a POST; an OSError when the connection ends without an answer."""
    host = served.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def chat(content, count=1):
    messages = [{"role": "user", "content": content}] * count
    return "/v1/chat/completions", {"model": "demo", "messages": messages, "max_tokens": 2}


def completion(prompt):
    return "/v1/completions", {"model": "demo", "prompt": prompt, "max_tokens": 2}


def tokenize(prompt):
    return "/tokenize", {"model": "demo", "prompt": prompt, "return_token_strs": True}


def detokenize(count):
    return "/detokenize", {"model": "demo", "tokens": [5] * count}


def requests(seed):
    """Texts that take the most memory for their size, of sizes up to some megabytes."""
    draw = random.Random(seed)
    while True:
        yield chat("hello")
        yield chat("a1 " * draw.randrange(1, 10**6))
        yield completion("1a" * draw.randrange(1, 2 * 10**6))
        yield tokenize("1a" * draw.randrange(1, 2 * 10**6))
        yield detokenize(draw.randrange(1, 10**5))
        yield tokenize("<|im_end|> x" * draw.randrange(1, 3 * 10**5))
        yield chat("x", draw.randrange(1, 6 * 10**4))
        yield completion([5] * draw.randrange(1, 10**5))
        yield completion("hi")


@pytest.mark.parametrize("more", [20, 100, 800], ids=lambda more: f"{more} MiB")
def test_every_request_is_answered(serve, more):
    served = serve(DEMO, "--served-model-name", "demo", *SMALL)
    assert ask(served, *chat("hello"))[0] == 200
    limit(served.process, more * MIB)
    answers = []

    def client(seed):
        for _, (path, body) in zip(range(12), requests(seed), strict=False):
            try:
                answers.append(ask(served, path, body)[0])
            except OSError as error:
                answers.append(repr(error))

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for one in clients:
        one.start()
    while any(one.is_alive() for one in clients):
        assert served.get("/health")[0] == 200
        time.sleep(0.1)
    assert served.process.poll() is None, served.log()
    assert set(answers) <= {200, 400, 503}, answers
    assert 503 in answers
    limit(served.process, None)
    assert ask(served, *chat("hello"))[0] == 200
    assert ask(served, *tokenize("1a" * 10**5))[0] == 200
    assert served.stop() == 0


def test_a_body_that_there_is_no_memory_for(serve):
    served = serve(DEMO, "--served-model-name", "demo", *SMALL)
    limit(served.process, 2 * MIB)
    start = time.monotonic()
    status, body = ask(served, *completion("x" * (12 * MIB)), timeout=20)
    assert status == 503
    assert json.loads(body)["error"]["type"] == "ServiceUnavailableError"
    assert time.monotonic() - start < 10
    assert served.get("/health")[0] == 200
    limit(served.process, None)
    assert ask(served, *completion("hi"))[0] == 200


def edit(path, change):
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))


def long_token(model):
    def change(file):
        vocab = file["model"]["vocab"]
        last = max(vocab, key=vocab.get)
        vocab["x" * MIB] = vocab.pop(last)
        file["model"]["merges"] = []

    edit(model / "tokenizer.json", change)


def long_added_token(model):
    def change(file):
        file["added_tokens"][-1]["content"] = "x" * MIB

    edit(model / "tokenizer.json", change)


def many_added_tokens(model):
    def change(file):
        first = max(token["id"] for token in file["added_tokens"]) + 1
        for i in range(4000):
            content = f"{i:04}" + "x" * 1000
            file["added_tokens"].append(
                {"id": first + i, "content": content, "special": True, **ITSELF}
            )

    edit(model / "tokenizer.json", change)


def long_special_token(model):
    edit(model / "tokenizer_config.json", lambda file: file.update(eos_token="x" * MIB))


def long_declared_token(model):
    token = {"content": "x" * MIB, "special": True, **ITSELF}
    edit(
        model / "tokenizer_config.json", lambda file: file.update(added_tokens_decoder={"1": token})
    )


def part(name, value):
    return lambda model: edit(model / "tokenizer.json", lambda file: file.update({name: value}))


def replace(content):
    return {"type": "Replace", "pattern": {"String": "e"}, "content": content}


TOO_MUCH = [
    ("a token of 1 MB", long_token, "token"),
    ("an added token of 1 MB", long_added_token, "added token"),
    ("4 MB of added tokens", many_added_tokens, "added tokens"),
    ("a special token of 1 MB", long_special_token, "added token"),
    ("a declared token of 1 MB", long_declared_token, "added token"),
    ("a decoder that makes 1 MB of a byte", part("decoder", replace("x" * MIB)), "decoder"),
    ("a normalizer that makes 1 MB", part("normalizer", replace("x" * MIB)), "normalizer"),
    (
        "a normalizer that makes 1 MB in steps",
        part("normalizer", {"type": "Sequence", "normalizers": [replace("e" * 32)] * 4}),
        "normalizer",
    ),
    (
        "a normalizer that prepends 1 MB",
        part("normalizer", {"type": "Prepend", "prepend": "x" * MIB}),
        "normalizer",
    ),
]


@pytest.mark.parametrize("damage,word", [row[1:] for row in TOO_MUCH], ids=[r[0] for r in TOO_MUCH])
def test_a_tokenizer_that_makes_too_much_of_a_text(tmp_path, damage, word):
    model = tmp_path / "m"
    shutil.copytree(DEMO, model)
    damage(model)
    command = [str(BINARY), "serve", str(model), "--port", "0", "--prepared-cache", "off", *SMALL]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    assert result.returncode == 65, result.stderr
    assert word in result.stderr
    assert str(model / "tokenizer") in result.stderr
    assert len(result.stderr) < 3000


@pytest.mark.parametrize("megabytes", [60, 200, 400, 700])
def test_a_start_without_memory_says_so(megabytes):
    """Whatever it is that does not fit."""
    command = [str(BINARY), "serve", str(DEMO), "--port", "0", "--prepared-cache", "off", *SMALL]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(
            resource.RLIMIT_AS, (megabytes * MIB, megabytes * MIB)
        ),
    )
    assert result.returncode in (69, 71), (result.returncode, result.stderr)
    assert "moesaic: " in result.stderr
    assert "internal" not in result.stderr
