"""Shared by all Python tests: a running `moesaic serve` on a free port."""

import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.register_assert_rewrite("manifests")

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("MOESAIC_BINARY", ROOT / "build/release/moesaic"))
DEMO = ROOT / "models/demo"
# A program under AddressSanitizer maps more than any limit of its address space would leave, and
# its checks need descriptors and threads of their own.
SANITIZED = BINARY.exists() and b"__asan_init" in BINARY.read_bytes()


class Served:
    """A server process and its address; its log is kept for failures."""

    def __init__(self, arguments, cache):
        environment = {**os.environ, "MOESAIC_PREPARED_CACHE": str(cache)}
        command = [str(BINARY), "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines = []
        self.url = None
        self._started = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._started.wait(120) or self.url is None:
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + self.log())

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            if self.url is None and (found := re.search(r"serving .* at (http://\S+)", line)):
                self.url = found.group(1)
                self._started.set()
        self._started.set()

    def log(self):
        return "".join(self.lines)

    def get(self, path):
        """Status and text of a GET."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name):
        """The value of a metric's first series."""
        found = re.search(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", self.get("/metrics")[1], re.M)
        return float(found.group(1))

    def wait_for(self, condition, seconds=10.0):
        """True as soon as the condition holds; False when the time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False

    def stop(self, how=signal.SIGTERM, seconds=60):
        """Sends a signal and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(seconds)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def serve(cache):
    """Starts servers with any arguments; stops them after the test."""
    running = []

    def start(*arguments):
        running.append(Served(arguments, cache))
        return running[-1]

    yield start
    for served in running:
        served.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def demo(cache):
    """One server of the demo model for all tests that only ask it things."""
    served = Served([DEMO, "--served-model-name", "demo"], cache)
    yield served
    served.stop()
