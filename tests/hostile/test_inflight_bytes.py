"""Large bodies and answers, many at a time: the process stays within --max-inflight-bytes."""

import json
import threading
import urllib.error
import urllib.request

import pytest
from conftest import SANITIZED

BUDGET = 64 << 20
# What the allocator may keep or hold twice beside what is counted.
SLACK = 64 << 20
SIZE = 14_000_000

IDS = b"[1000" + b",1000" * (SIZE // 5) + b"]"
COMMON = b'{"model":"demo","max_tokens":1,"truncate_prompt_tokens":1,'
CASES = {
    "numbers": ("/v1/completions", COMMON + b'"x":[1' + b",1" * (SIZE // 2) + b"]}"),
    "ids": ("/v1/completions", COMMON + b'"prompt":' + IDS + b"}"),
    "text": ("/v1/completions", COMMON + b'"prompt":"' + b"1 2 3 " * 1_000_000 + b'"}'),
    "chat": (
        "/v1/chat/completions",
        COMMON + b'"messages":[{"role":"user","content":"' + b"1 2 3 " * 1_000_000 + b'"}]}',
    ),
    "tokenize": ("/tokenize", b'{"prompt":"' + b"1 2 3 " * 1_000_000 + b'"}'),
    "detokenize": ("/detokenize", b'{"tokens":' + IDS + b"}"),
    "answers": (
        "/v1/chat/completions",
        b'{"model":"demo","messages":[{"role":"user","content":"hi"}],"n":128,"max_tokens":150,'
        b'"logprobs":true,"top_logprobs":20,"ignore_eos":true}',
    ),
}


def post(served, path, body):
    request = urllib.request.Request(served.url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=400) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, ConnectionError):
        return 0, b""  # the refusal came while the body was still being sent


def memory(served, field):
    for line in open(f"/proc/{served.process.pid}/status"):
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise AssertionError(field)


@pytest.fixture(scope="module")
def bounded(cache):
    from conftest import DEMO, Served

    # A small KV cache, since its pages count as the process's from their first use on.
    settings = ["--max-inflight-bytes", BUDGET, "--kv-cache-memory-bytes", "16M"]
    served = Served([DEMO, "--served-model-name", "demo", *settings], cache)
    yield served
    served.stop()


@pytest.mark.parametrize("name", CASES)
def test_six_at_once(bounded, name):
    if SANITIZED and name == "answers":
        pytest.skip("a sanitized build takes minutes to make that many tokens")
    path, body = CASES[name]
    small = json.dumps({"model": "demo", "prompt": "Hello", "max_tokens": 1}).encode()
    assert post(bounded, "/v1/completions", small)[0] == 200
    before = memory(bounded, "VmRSS:")
    with open(f"/proc/{bounded.process.pid}/clear_refs", "w") as peak:
        peak.write("5")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(post(bounded, path, body))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert post(bounded, "/v1/completions", small)[0] == 200
    assert bounded.process.poll() is None
    assert {status for status, _ in answers} <= {0, 200, 400, 413, 503}
    assert any(status in (400, 413, 503) for status, _ in answers)
    assert memory(bounded, "VmHWM:") - before < BUDGET + SLACK
    held = r'moesaic:memory_actual_bytes{engine="0",model_name="demo",term="requests"} 0'
    assert bounded.wait_for(lambda: held in bounded.get("/metrics")[1], 5)
