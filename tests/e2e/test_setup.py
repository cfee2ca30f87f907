"""scripts/setup.sh where there is no dpkg, which then looks for what the packages bring; and when
make builds CUDA in."""

import os
import shutil
import subprocess

import pytest
from conftest import BINARY, ROOT

TOOLS = """bash env dirname grep id sha256sum cut cat c++ cmake ninja pkg-config cargo
rustc python3""".split()


@pytest.fixture
def elsewhere(tmp_path):
    """Runs setup.sh with these tools alone in the path."""

    def run(*without, stage="build"):
        tools = tmp_path / "-".join(("tools", stage, *without))
        tools.mkdir()
        for tool in set(TOOLS) - set(without):
            (tools / tool).symlink_to(shutil.which(tool))
        command = [tools / "bash", ROOT / "scripts/setup.sh", stage]
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


def test_the_cuda_stage_asks_for_pythons_environments(elsewhere):
    result = elsewhere("python3", stage="cuda")
    assert result.returncode == 69
    needed = {line.split()[2] for line in result.stdout.splitlines()}
    assert needed == {"python3:", "python3-venv:"}
    assert elsewhere("python3").returncode == 0


@pytest.fixture
def make(tmp_path):
    """The commands of `make build` for a new folder, with an nvcc of that release on the path."""

    def commands(*flags, release=None):
        tools = tmp_path / "bin"
        tools.mkdir(exist_ok=True)
        nvcc = tools / "nvcc"
        nvcc.unlink(missing_ok=True)
        if release:
            nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}'\n")
            nvcc.chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if k not in ("NVCC", "CUDA")}
        environment["PATH"] = f"{tools}:{environment['PATH']}"
        command = ["make", "-n", "build", f"BUILD={tmp_path}/build", *flags]
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return commands


@pytest.mark.skipif(shutil.which("nvcc") is not None, reason="an nvcc is on the path here")
def test_make_builds_cuda_in_where_its_compiler_is(make):
    assert "MOESAIC_CUDA" not in make()
    assert "MOESAIC_CUDA" not in make(release="12.8, V12.8.61"), "too old to compile it"
    assert "-DMOESAIC_CUDA=1" in make(release="13.0, V13.0.88")
    assert "-DMOESAIC_CUDA=0" in make("CUDA=0", release="13.0, V13.0.88")
    asked = make("CUDA=1")
    assert "-DMOESAIC_CUDA=1" in asked and "setup.sh cuda" in asked
    assert "setup.sh build" in make(release="13.0, V13.0.88"), "nothing has to be installed"


def test_the_version_names_the_backends():
    text = subprocess.run([BINARY, "--version"], capture_output=True, text=True, timeout=30).stdout
    # The message stands in the binary where there is no CUDA backend in its place.
    built_without = b"was built without the CUDA backend" in BINARY.read_bytes()
    assert text == f"moesaic 0.1.0 ({'CPU' if built_without else 'CPU, CUDA'})\n"
