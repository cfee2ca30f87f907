"""scripts/setup.sh where there is no dpkg: it looks for what the packages bring."""

import shutil
import subprocess

import pytest
from conftest import ROOT

TOOLS = """bash env dirname grep id sha256sum cut cat c++ cmake ninja pkg-config cargo
rustc python3""".split()


@pytest.fixture
def elsewhere(tmp_path):
    """Runs setup.sh with these tools alone in the path."""

    def run(*without):
        tools = tmp_path / "-".join(("tools", *without))
        tools.mkdir()
        for tool in set(TOOLS) - set(without):
            (tools / tool).symlink_to(shutil.which(tool))
        command = [tools / "bash", ROOT / "scripts/setup.sh", "build"]
        environment = {"PATH": str(tools), "HOME": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_a_system_that_has_all_is_left_alone(elsewhere):
    result = elsewhere()
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_only_what_is_missing_is_named(elsewhere):
    result = elsewhere("ninja")
    assert result.returncode == 69
    assert result.stdout.splitlines() == ["setup: needs ninja-build: build runner"]
    assert "ninja-build" in result.stderr and "g++" not in result.stderr
    result = elsewhere("pkg-config")
    needed = [line.split()[2] for line in result.stdout.splitlines()]
    assert needed == ["pkg-config:", "libyaml-cpp-dev:", "libedit-dev:", "libhwloc-dev:"]
