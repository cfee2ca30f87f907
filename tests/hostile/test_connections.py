"""Thousands of connections that say nothing cost little, and whoever asks is answered at once."""

import resource
import socket
import time
from pathlib import Path

import pytest
from conftest import DEMO, SANITIZED
from openai import OpenAI

IDLE = 9000
BYTES_EACH = 8 << 10


def resident(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


@pytest.mark.skipif(SANITIZED, reason="a sanitized program takes other memory")
def test_idle_connections(serve):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit[0] < IDLE + 500:
        pytest.skip(f"this system lets a process have {limit[0]} descriptors")
    served = serve(DEMO, "--served-model-name", "demo", "--header-timeout", "120")
    client = OpenAI(base_url=served.url + "/v1", api_key="none", timeout=60)

    def answer():
        return client.completions.create(
            model="demo", prompt="The river", max_tokens=20, temperature=0
        )

    alone = answer().choices[0].text
    before = resident(served.process)
    host, port = served.url.removeprefix("http://").split(":")
    idle = []
    try:
        for _ in range(IDLE):
            idle.append(socket.create_connection((host, int(port)), timeout=10))
        # Every one of them has been taken, and not just queued by the system.
        assert served.wait_for(lambda: descriptors(served.process) >= IDLE)
        assert (resident(served.process) - before) / IDLE < BYTES_EACH
        for _ in range(20):
            began = time.monotonic()
            assert served.get("/health")[0] == 200
            assert time.monotonic() - began < 2  # on a busy machine, too
        assert answer().choices[0].text == alone
    finally:
        for connection in idle:
            connection.close()
    assert served.wait_for(lambda: descriptors(served.process) < 500)


def descriptors(process):
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
