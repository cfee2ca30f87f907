"""What is to come is refused by its name, and nothing of it is looked at: a path of an adapter is
not even opened."""

import subprocess

import pytest
from conftest import BINARY, DEMO


@pytest.mark.parametrize(
    "flags",
    [
        ["--enable-lora"],
        ["--lora-modules", "a=/etc/passwd"],
        ["--lora-modules", "a=../../x", "b=/dev/zero"],
    ],
)
def test_adapters_are_refused(flags):
    command = [BINARY, "serve", DEMO, "--port", "0", *flags]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert result.returncode == 78, result.stderr
    assert flags[0] in result.stderr
    assert "come later" in result.stderr
