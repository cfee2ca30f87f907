"""A process that is killed again and again, at any moment of its start, leaves nothing behind that
a later start would trip over."""

import os
import subprocess
import time

from conftest import BINARY, DEMO, Served


def start(cache, *more):
    environment = {**os.environ, "MOESAIC_PREPARED_CACHE": str(cache)}
    command = [BINARY, "serve", DEMO, "--port", "0", *more]
    return subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_killed_at_any_moment(tmp_path):
    seen = set()
    for step in range(200):
        if seen and step >= 30:
            break
        process = start(tmp_path)
        time.sleep(step * 0.01)
        process.kill()
        process.wait()
        seen.update(path.name for path in tmp_path.rglob("*"))
    # Some were killed before the cache was written, and some while or after it was.
    assert seen
    served = Served([DEMO, "--served-model-name", "demo"], tmp_path)
    try:
        assert "cannot be used" not in served.log()
        assert served.get("/health")[0] == 200
    finally:
        assert served.stop() == 0
    # One whole file is left, whatever the killed ones had begun, and the next start takes it.
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    served = Served([DEMO, "--served-model-name", "demo"], tmp_path)
    try:
        assert "weights come prepared from" in served.log()
    finally:
        assert served.stop() == 0
