"""What the system withholds: a reader of the log, room in a file, standard streams. The server goes
on without them."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from conftest import BINARY, DEMO

SMALL = ["--kv-cache-memory-bytes", "10000000"]


class Quiet:
    """A server whose output goes where the test says."""

    def __init__(self, output, *arguments, before=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [str(BINARY), "serve", str(DEMO), "--served-model-name", "demo", "--port"]
        self.process = subprocess.Popen(
            [*command, str(self.port), *SMALL, *arguments],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            preexec_fn=before,
        )

    def get(self, path):
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()

    def wait(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.get("/health")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"it does not serve; exit code {self.process.poll()}")

    def metric(self, name):
        return float(re.search(rf"^{name}{{.*}} (\S+)$", self.get("/metrics")[1], re.M).group(1))

    def break_off(self, count):
        """Connections that end in the middle of a body; each is a line of the log."""
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
                client.sendall(head + b"Content-Length: 100\r\n\r\n{")

    def complete(self):
        body = json.dumps({"model": "demo", "prompt": "a", "max_tokens": 1}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            body,
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["choices"]

    def stop(self, seconds=20):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@pytest.fixture
def quiet():
    running = []

    def start(*arguments, **named):
        running.append(Quiet(*arguments, **named))
        return running[-1]

    yield start
    for server in running:
        server.process.kill()
        server.process.wait()


DROPPED = "moesaic:log_lines_dropped_total"


def test_a_log_pipe_that_nobody_reads(quiet):
    read, write = os.pipe()
    served = quiet(write)
    os.close(write)
    served.wait()
    end = time.monotonic() + 60
    while served.metric(DROPPED) == 0 and time.monotonic() < end:
        served.break_off(500)
    assert served.metric(DROPPED) > 0
    assert served.complete()
    # Read again, the log says how much of it is missing.
    text = b""
    while b"lines of the log are missing here" not in text:
        text += os.read(read, 1 << 16)
    assert int(re.search(rb"(\d+) lines of the log are missing", text).group(1)) > 0
    os.close(read)
    served.break_off(10)
    assert served.complete()
    assert served.stop() == 0


def test_sigterm_ends_a_server_whose_log_is_not_read(quiet):
    read, write = os.pipe()
    os.set_blocking(write, False)
    while True:  # full before the first line
        try:
            os.write(write, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(write, True)
    served = quiet(write)
    os.close(write)
    served.wait()
    assert served.complete()
    assert served.stop() == 0
    os.close(read)


def test_a_log_file_at_its_size_limit(quiet, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    log = tmp_path / "log"
    with open(log, "wb") as file:
        served = quiet(file, "--prepared-cache", "off", before=limit)
    served.wait()
    served.break_off(100)
    served.process.poll()
    assert served.complete()
    assert served.metric(DROPPED) > 0
    assert log.stat().st_size <= 4096
    assert served.stop() == 0


def test_a_full_disk_under_the_log(quiet):
    with open("/dev/full", "wb") as full:
        served = quiet(full)
    served.wait()
    assert served.complete()
    assert served.metric(DROPPED) > 0
    assert served.stop() == 0


def test_without_standard_streams(quiet, tmp_path):
    """The first file opened must not become the log."""
    shutil.copytree(DEMO, tmp_path / "cache", ignore=lambda *_: ["model.safetensors"])

    def close():
        for fd in (0, 1, 2):
            os.close(fd)

    served = quiet(None, "--prepared-cache", str(tmp_path / "cache"), before=close)
    served.wait()
    served.break_off(10)
    assert served.complete()
    assert served.stop() == 0
    assert all(b"info" not in f.read_bytes()[:4096] for f in tmp_path.glob("cache/*.moesaic"))


def test_a_limit_of_file_sizes_costs_the_prepared_cache_only(quiet, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, 100 << 10))

    read, write = os.pipe()
    served = quiet(write, "--prepared-cache", str(tmp_path / "cache"), before=limit)
    os.close(write)
    served.wait()
    assert served.complete()
    assert served.stop() == 0
    log = os.read(read, 1 << 16)
    os.close(read)
    assert b"was not written (File too large)" in log
    assert not list((tmp_path / "cache").glob("*"))


def test_output_that_cannot_be_written_is_no_success():
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [str(BINARY), "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20
        )
    assert result.returncode == 71
    assert "standard output" in result.stderr
