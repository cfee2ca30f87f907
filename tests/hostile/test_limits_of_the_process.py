"""Descriptors, threads and time: what the system has too few of, or takes away for a while."""

import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import BINARY, DEMO, SANITIZED

SMALL = ["--kv-cache-memory-bytes", "10000000"]
PIDS = Path("/sys/fs/cgroup/pids")
plain_only = pytest.mark.skipif(SANITIZED, reason="sanitizers need descriptors and threads too")


def address(served):
    host, port = served.url.removeprefix("http://").split(":")
    return host, int(port)


def complete(served, **fields):
    connection = http.client.HTTPConnection(*address(served), timeout=30)
    try:
        body = json.dumps({"model": "demo", "prompt": "a", "max_tokens": 1, **fields})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def check_shortage(served, idle):
    """With all connections taken, probes are answered and all else is refused at once."""
    start = time.monotonic()
    while time.monotonic() - start < 3:
        assert served.get("/health")[0] == 200
        assert served.get("/metrics")[0] == 200
        assert complete(served)[0] == 503
    # Whoever takes a connection that is kept for probes and says nothing does not have it for long.
    silent = [socket.create_connection(address(served)) for _ in range(4)]
    assert served.get("/health")[0] == 200
    for client in silent + idle:
        client.close()
    assert served.wait_for(lambda: complete(served)[0] == 200)
    assert complete(served)[0] == 200
    lines = [line for line in served.lines if "connections are used up" in line]
    assert len(lines) == 1, lines
    rejected = re.search(
        r'http_rejections_total{.*reason="connections".*} (\d+)', served.get("/metrics")[1]
    )
    assert int(rejected.group(1)) > 0


@plain_only
def test_descriptors_used_up(serve):
    served = serve(DEMO, "--served-model-name", "demo", *SMALL)
    open_now = len(os.listdir(f"/proc/{served.process.pid}/fd"))
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (open_now + 20, open_now + 20))
    idle = [socket.create_connection(address(served)) for _ in range(60)]
    check_shortage(served, idle)
    assert served.stop() == 0


def test_connections_used_up(serve):
    served = serve(DEMO, "--served-model-name", "demo", "--max-connections", "10", *SMALL)
    idle = [socket.create_connection(address(served)) for _ in range(10)]
    check_shortage(served, idle)
    assert served.stop() == 0


def start(limit, *more):
    """Exit code and output; -15 of a server that had to be ended."""
    command = [str(BINARY), "serve", str(DEMO), "--port", "0", "--prepared-cache", "off", *SMALL]
    process = subprocess.Popen(
        [*command, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit,
    )
    try:
        output, _ = process.communicate(timeout=2)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
        return None, output
    return process.returncode, output


@plain_only
@pytest.mark.parametrize("count", [4, 5, 6, 7, 8])
def test_a_start_without_descriptors(count):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    code, output = start(limit)
    assert code == 71, output
    assert "Too many open files" in output


@plain_only
@pytest.mark.skipif(not os.access(PIDS, os.W_OK), reason="no control group to limit threads with")
def test_a_start_without_threads(tmp_path):
    group = PIDS / f"moesaic-test-{os.getpid()}"
    group.mkdir()
    try:
        for count in range(1, 40):
            (group / "pids.max").write_text(str(count))

            def limit():
                (group / "cgroup.procs").write_text(str(os.getpid()))

            code, output = start(limit, "--text-threads", "4", "--io-threads", "4")
            if code is None:
                break
            assert code == 71, (count, code, output)
        assert 4 < count < 39
    finally:
        group.rmdir()


def test_stopped_and_continued(serve):
    """A process that stood still has made no progress, and is none the worse for it."""
    served = serve(DEMO, "--served-model-name", "demo", "--stall-timeout", "1", *SMALL)
    answers = []

    def client():
        fields = {"max_tokens": 400, "ignore_eos": True, "n": 4, "temperature": 1}
        answers.append(complete(served, **fields)[0])

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    assert served.wait_for(lambda: served.metric("moesaic:steps_total") > 3)
    for _ in range(2):
        served.process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        served.process.send_signal(signal.SIGCONT)
        for _ in range(20):
            assert served.get("/health")[0] == 200
    for one in clients:
        one.join()
    assert answers == [200] * 4


@pytest.mark.parametrize(
    "field,values",
    [
        ("repetition_penalty", [1e-300, 1e-40, 1e-5, 1e-4, 1e4, 1e5, 1e300, 0, -1]),
        ("temperature", [1e-300, 1e-45, 1e-40, 1e-6, 1e-5, 2, 1e300, -1e-300]),
        ("top_p", [1e-300, 1e-45, 1e-40, 1e-6, 1, 1.0000001, 0, -1e-300]),
        ("min_p", [1e-300, 1e-45, 1, 1.0000001, -1e-300]),
        ("presence_penalty", [1e-300, -2, 2, 2.0000001]),
        ("frequency_penalty", [1e-300, -2, 2, -1e300]),
        ("logit_bias", [{"5": 100}, {"5": 1e-300}, {"5": -100}, {"5": 1e300}]),
        ("seed", [-(2**63) + 1, 2**63 - 1, 0, -1]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_at_the_edge(demo, field, values):
    for value in values:
        for more in ({"temperature": 0}, {"temperature": 1}, {"top_k": 3}, {"top_p": 0.5}):
            status, _ = complete(demo, **{**more, field: value, "max_tokens": 4})
            assert status in (200, 400), (field, value, more)


@pytest.mark.parametrize("seed", [-(2**63) - 1, -(2**63) - 1024, -(2**64), 2**63, 2**64, 2**70])
def test_seeds_beyond_64_bits(demo, seed):
    status, body = complete(demo, seed=seed)
    assert status == 400
    assert body["error"]["param"] == "body.seed"


GENERATION = [
    '{"temperature": "warm"}',
    '{"temperature": -1}',
    '{"temperature": 1e999}',
    '{"top_p": 0}',
    '{"top_k": 1.5}',
    '{"repetition_penalty": 1e-300}',
    '{"top_p": 0.5, "top_p": 0.6}',
    '{"eos_token_id": "x"}',
    "[]",
    "{",
    "",
]


@pytest.mark.parametrize("text", GENERATION)
def test_a_generation_config_that_is_wrong_is_bad_model_data(tmp_path, text):
    model = tmp_path / "m"
    shutil.copytree(DEMO, model)
    (model / "generation_config.json").write_text(text)
    command = [str(BINARY), "serve", str(model), "--port", "0", "--prepared-cache", "off", *SMALL]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 65, result.stderr
    assert "generation_config.json" in result.stderr


def test_an_override_that_is_wrong_is_usage(serve):
    command = [str(BINARY), "serve", str(DEMO), "--port", "0", *SMALL]
    command += ["--override-generation-config", '{"temperature": -1}']
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 64, result.stderr


def test_an_override_corrects_the_file(tmp_path, serve):
    model = tmp_path / "m"
    shutil.copytree(DEMO, model)
    (model / "generation_config.json").write_text('{"temperature": -1, "eos_token_id": 1}')
    serve(model, *SMALL, "--override-generation-config", '{"temperature": 0.5}')
