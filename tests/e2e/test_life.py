"""A server's life: start, clients that go away, SIGTERM, errors at start."""

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import openai
import pytest
from conftest import BINARY, DEMO, ROOT


def stream_socket(served, max_tokens=1500):
    """Opens a stream of a long answer by hand; returns the socket once the first event came."""
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps(
        {
            "model": "demo",
            "prompt": [5, 6, 7],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "stream": True,
        }
    )
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    seen = b""
    while b"data:" not in seen:
        seen += connection.recv(4096)
    return connection


def held_blocks(served):
    text = served.get("/metrics")[1]
    line = next(
        line
        for line in text.splitlines()
        if line.startswith("moesaic:kv_blocks") and 'state="held"' in line
    )
    return float(line.split()[-1])


def test_one_of_eight_streams_closed(serve):
    served = serve(DEMO, "--served-model-name", "demo")
    streams = [stream_socket(served) for _ in range(8)]

    def drain(stream):
        with contextlib.suppress(ConnectionResetError):  # closed below, with data under way
            while stream.recv(65536):
                pass

    for stream in streams[1:]:
        threading.Thread(target=drain, args=(stream,), daemon=True).start()
    assert served.wait_for(lambda: served.metric("vllm:num_requests_running") == 8, 5)
    streams[0].close()
    assert served.wait_for(lambda: served.metric("vllm:num_requests_running") <= 7, 1)
    for stream in streams[1:]:
        stream.shutdown(socket.SHUT_RDWR)
    assert served.wait_for(lambda: served.metric("vllm:num_requests_running") == 0, 1)
    assert served.wait_for(lambda: held_blocks(served) == 0, 1)


def test_sigterm_lets_a_stream_end_and_exits_0(serve):
    served = serve(DEMO, "--served-model-name", "demo", "--shutdown-timeout", "60")
    client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
    stream = client.completions.create(
        model="demo",
        prompt=[5, 6, 7],
        max_tokens=200,
        stream=True,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )
    reasons = []
    for number, event in enumerate(stream):
        if number == 0:
            served.process.send_signal(signal.SIGTERM)
        reasons.append(event.choices[0].finish_reason)
    assert reasons[-1] == "length"
    assert served.process.wait(20) == 0


def test_sigterm_when_idle_exits_0_at_once(serve):
    served = serve(DEMO)
    start = time.monotonic()
    assert served.stop() == 0
    assert time.monotonic() - start < 5


def test_second_signal_ends_at_once(serve):
    served = serve(DEMO, "--served-model-name", "demo", "--shutdown-timeout", "600")
    stream = stream_socket(served, 1900)
    served.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    start = time.monotonic()
    served.process.send_signal(signal.SIGINT)
    code = served.process.wait(10)
    stream.close()
    assert code in (0, 130) and time.monotonic() - start < 5


def run(*arguments, **more):
    return subprocess.run(
        [str(BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=120, **more
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["serve", "no/such/folder"], 66, "no/such/folder"),
        (["serve"], 64, "models/demo"),
        (["serve", DEMO, "--port", "x"], 64, "--port"),
        (["serve", DEMO, "--no-such-flag"], 64, "--no-such-flag"),
        (["serve", DEMO, "--tensor-parallel-size", "3"], 78, "8 attention heads"),
        (["serve", DEMO, "--data-parallel-size", "2"], 78, "--data-parallel-size"),
        (["serve", DEMO, "--max-model-len", "1m"], 78, "positions"),
        (["serve", DEMO, "--kv-cache-memory-bytes", "1"], 69, "KV"),
        (["nonsense"], 64, "nonsense"),
        (["inspect", "no/such"], 66, "no/such"),
    ],
)
def test_errors_at_start_teach(arguments, code, says):
    answer = run(*arguments)
    assert answer.returncode == code, answer.stderr
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr


def test_port_in_use(demo):
    port = demo.url.rsplit(":", 1)[1]
    answer = run("serve", DEMO, "--port", port)
    assert answer.returncode == 69 and port in answer.stderr


def test_chat_in_the_terminal(demo):
    answer = run("chat", DEMO, "--temperature", "0", input="Who are you?\n/exit\n")
    assert answer.returncode == 0, answer.stderr
    client = openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0)
    served = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Who are you?"}], temperature=0
    )
    said = " ".join(served.choices[0].message.content.split())
    assert said and said in " ".join(answer.stdout.split())


def test_inspect_json():
    answer = run("inspect", DEMO, "--json")
    facts = json.loads(answer.stdout)
    assert facts["architecture"] == "MixtralForCausalLM"
    assert facts["experts"] == 8 and facts["experts_per_token"] == 2
    assert facts["active_params"] < facts["total_params"]


def test_bench_latency_json():
    answer = run("bench", "latency", DEMO, "--json", "--repeats", "1")
    assert answer.returncode == 0, answer.stderr
    facts = json.loads(answer.stdout)
    for part in ("prefill", "decode", "decode16"):
        assert facts[part + "_tokens_per_s"] > 0
        assert 0 < facts[part + "_limit_share"]


def test_warm_start_reads_the_prepared_weights(serve, cache):
    serve(DEMO).stop()
    again = serve(DEMO)
    assert "prepared" in again.log()
    with urllib.request.urlopen(again.url + "/health", timeout=5) as answer:
        assert answer.status == 200


def test_documentation_pages_are_fresh():
    for topic in ("flags", "metrics"):
        assert run("docs", topic).stdout == (ROOT / f"docs/{topic}.md").read_text()
