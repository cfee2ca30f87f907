"""What a start checks first, says, logs and prints; and the commands around it."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess

import pytest
from conftest import BINARY, DEMO
from test_life import run


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--host", "192.0.2.1"], 69, "192.0.2.1"),
        (["--host", "no.such.host.invalid"], 69, "no.such.host.invalid"),
        (["--chat-template", "no/such.jinja"], 66, "no/such.jinja"),
        (["--chat-template", "{% for %}"], 65, "--chat-template"),
        (["--tokenizer", "no/such/folder"], 66, "no/such/folder"),
        (["--override-generation-config", '{"top_p": 7}'], 64, "top_p"),
        (["--default-chat-template-kwargs", "[]"], 64, "--default-chat-template-kwargs"),
    ],
)
def test_what_can_be_refused_is_refused_before_the_weights(flags, code, says, tmp_path):
    # Weights that are no weights: reading them would be another error.
    folder = tmp_path / "model"
    shutil.copytree(DEMO, folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    answer = run("serve", folder, *flags)
    assert answer.returncode == code, answer.stderr
    assert says in answer.stderr and "safetensors" not in answer.stderr


def test_a_taken_port_is_found_before_the_weights(taken_port, tmp_path):
    shutil.copytree(DEMO, tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"nothing")
    answer = run("serve", tmp_path / "model", "--port", taken_port)
    assert answer.returncode == 69 and taken_port in answer.stderr
    answer = run("chat", tmp_path / "model", "--chat-template", "{% for %}", input="")
    assert answer.returncode == 65 and "--chat-template" in answer.stderr


def printed_curl(served):
    """The command that a server printed, on one line."""
    assert served.wait_for(lambda: "Ctrl-C" in served.log())
    found = re.search(r"  (curl .*?)\n\n", served.log(), re.DOTALL)
    return found.group(1).replace("\\\n", " ")


def base_model(tmp_path):
    folder = tmp_path / "it's a base"
    shutil.copytree(DEMO, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["chat", "base", "ids", "key", "keys", "variable", "ipv6"])
def test_the_printed_curl_works(kind, serve, tmp_path, monkeypatch):
    arguments = {
        "base": [base_model(tmp_path)],
        "ids": [DEMO, "--skip-tokenizer-init"],
        "key": [DEMO, "--api-key", "a-secret"],
        "ipv6": [DEMO, "--host", "::1"],
    }.get(kind, [DEMO])
    secrets = {"keys": "one-secret,another", "variable": "a-secret"}
    if kind in secrets:
        monkeypatch.setenv("VLLM_API_KEY", secrets[kind])
    if kind == "ipv6":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 here")
    served = serve(*arguments)
    command = printed_curl(served)
    assert "secret" not in served.log()
    assert ("Authorization" in command) == (kind in ("key", "keys", "variable"))
    environment = {**os.environ, "API_KEY": "a-secret"}
    answer = subprocess.run(
        ["bash", "-c", command.replace("curl ", "curl -sS ", 1)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    choice = json.loads(answer.stdout)["choices"][0]
    assert ("message" in choice) == (kind not in ("base", "ids")), answer.stdout


def in_terminal(command, **environment):
    """Output of a command whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(BINARY), *map(str, command)],
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    os.close(theirs)
    out = b""
    try:
        while piece := os.read(ours, 65536):
            out += piece
    except OSError:
        pass  # the other side is closed
    os.close(ours)
    process.wait(60)
    return out.decode()


def test_no_color(taken_port):
    command = ["serve", DEMO, "--trust-remote-code", "--port", taken_port]
    coloured = in_terminal(command, NO_COLOR="", TERM="xterm")
    assert "\x1b[32m" in coloured and "no effect here" in coloured
    plain = in_terminal(command, NO_COLOR="1", TERM="xterm")
    assert "\x1b[" not in plain and "no effect here" in plain
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} info", plain, re.MULTILINE)


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_log_lines_as_json(how, cache, monkeypatch):
    monkeypatch.setenv("MOESAIC_PREPARED_CACHE", str(cache))
    if how == "variable":
        monkeypatch.setenv("JSON_OUTPUT", "true")
    process = subprocess.Popen(
        [str(BINARY), "serve", str(DEMO), "--port", "0", *(["--json-output"] * (how == "flag"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1]["message"].startswith("serving "):
            process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "" and process.wait(60) == 0
    assert {tuple(line) for line in lines} == {("time", "level", "message")}
    assert lines[-1]["message"].endswith("bye")
    if how == "flag":
        answer = run("serve", DEMO, "--json-output", "--max-model-len", "1m", "--port", "0")
        last = json.loads(answer.stderr.splitlines()[-1])
        assert answer.returncode == 78 and last["level"] == "critical"


def test_a_benchmark_stops_at_the_context():
    answer = run("bench", "throughput", DEMO, "--input-len", "1m", "--output-len", "8")
    assert answer.returncode == 78 and "--input-len" in answer.stderr, answer.stderr
    answer = run("bench", "throughput", DEMO, "--input-len", "64", "--max-model-len", "32")
    assert answer.returncode == 78, answer.stderr
    answer = run(
        "bench", "throughput", DEMO, "--requests", "2", "--input-len", "8", "--output-len", "4"
    )
    assert answer.returncode == 0, answer.stderr


def test_more_threads_than_cpus_are_refused():
    for command in (["serve", DEMO, "--port", "0"], ["bench", "latency", DEMO], ["chat", DEMO]):
        answer = run(*command, "--threads", "999", input="")
        assert answer.returncode == 78 and "--threads 999" in answer.stderr, answer.stderr


def test_help_of_a_command():
    assert run("help", "serve").stdout == run("serve", "--help").stdout
    text = run("help", "serve").stdout
    for line in (
        "--port N",
        "--served-model-name A,B,...",
        "--stall-timeout X",
        "--hf-overrides JSON",
        "--backend auto|cpu|reference|cuda",
        "--chat-template TEXT",
    ):
        assert f"\n  {line}\n" in text, line
    assert "0 to 65535." in text
    assert run("help").stdout == run("--help").stdout == run().stdout
    assert "cache" in run("help").stdout
    assert run("help", "help").stdout == run("help", "--help").stdout == run("help").stdout


@pytest.mark.parametrize(
    ("typed", "meant"), [("sevre", "serve"), ("Chat", "chat"), ("benhc", "bench"), ("plna", "plan")]
)
def test_did_you_mean(typed, meant):
    for arguments in ([typed], ["help", typed]):
        answer = run(*arguments)
        assert answer.returncode == 64 and f"did you mean {meant}?" in answer.stderr
    assert "did you mean" not in run("models/demo").stderr


def completed(line):
    """What bash would offer at the end of a line, which the script sees as bash splits it."""
    script = subprocess.run([BINARY, "completion", "bash"], capture_output=True, text=True).stdout
    words = re.findall(r"=|[^\s=]+", line) + ([""] if line.endswith(" ") else [])
    return subprocess.run(
        ["bash", "-c", script + '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _moesaic\n'
         'printf "%s\\n" "${COMPREPLY[@]}"', "bash", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{BINARY.parent}:{os.environ['PATH']}"},
    ).stdout.split()  # fmt: skip


def test_shell_completion():
    assert completed("moesaic ser") == ["serve"]
    assert set(completed("moesaic ")) > {"serve", "chat", "cache", "help"}
    assert completed("moesaic help dep") == ["deploy"]
    assert completed("moesaic serve --served-m") == ["--served-model-name"]
    assert completed("moesaic serve --backend r") == ["reference"]
    assert completed("moesaic serve --backend=r") == ["reference"]
    assert completed("moesaic serve --no-enable-pre") == ["--no-enable-prefix-caching"]
    assert completed("moesaic serve models/d") == []  # bash itself knows files
    assert completed("moesaic serve --chat-template x") == []
    assert completed("moesaic cache c") == ["clear"]
    assert completed("moesaic nonsense --x") == []
    for shell in ("bash", "zsh", "fish"):
        script = run("completion", shell)
        assert script.returncode == 0 and "moesaic completion words" in script.stdout
        if shutil.which(shell):
            assert subprocess.run([shell, "-n"], input=script.stdout, text=True).returncode == 0
    assert run("completion", "tcsh").returncode == 64


def test_the_prepared_cache_can_be_seen_and_cleared(tmp_path):
    cache = ["--prepared-cache", tmp_path / "cache"]
    for name in ("first one", "second"):
        shutil.copytree(DEMO, tmp_path / name)
        answer = run("chat", tmp_path / name, *cache, input="")
        assert answer.returncode == 0, answer.stderr
    (tmp_path / "cache/notes.txt").write_text("mine")
    text = run("cache", "list", *cache).stdout
    assert "first_one-" in text and "second-" in text and "notes" not in text
    assert text.splitlines()[-1].startswith("2 files, ")
    answer = run("cache", "clear", "third", *cache)
    assert answer.returncode == 66 and "third" in answer.stderr
    assert "removed 1 files" in run("cache", "clear", "second", *cache).stdout
    assert "first_one-" in run("cache", "list", *cache).stdout
    assert "removed 1 files" in run("cache", "clear", *cache).stdout
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["notes.txt"]
    assert run("cache", "list", "--prepared-cache", "off").returncode == 64
    assert run("cache", "empty").returncode == 64
