"""Something else where a file should be: refused at once, with the exit code of a missing file. A
FIFO would otherwise be waited for."""

import os
import shutil
import socket
import subprocess

import pytest
from conftest import BINARY, DEMO

SMALL = ["--kv-cache-memory-bytes", "10000000"]

# Every file that is opened by name, with what makes it needed.
TEMPLATE = ["--chat-template", "{here}/given.jinja"]
NAMED = [
    ("tokenizer.json", []),
    ("tokenizer_config.json", []),
    ("special_tokens_map.json", []),
    ("generation_config.json", []),
    ("config.json", []),
    ("chat_template.jinja", []),
    ("additional_chat_templates/tool_use.jinja", []),
    ("chat_template.json", []),
    ("model.safetensors", []),
    ("model.safetensors.index.json", []),
    ("model-00002-of-00002.safetensors", []),
    ("given.jinja", TEMPLATE),
    ("given{{.jinja", ["--chat-template", "{here}/given{{.jinja"]),
    ("other/tokenizer.json", ["--tokenizer", "{here}/other"]),
    ("other/generation_config.json", ["--generation-config", "{here}/other"]),
    ("config.yaml", ["--config", "{here}/config.yaml"]),
]


def link_or_copy(source, target):
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def make_fifo(path):
    os.mkfifo(path)


def make_folder(path):
    path.mkdir()


def make_device(path):
    path.symlink_to("/dev/zero")


def make_socket(path):
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


STRANGERS = {
    "fifo": (make_fifo, {66}),
    "folder": (make_folder, {66}),
    # In the model's folder the link is refused already.
    "device": (make_device, {65, 66}),
    "socket": (make_socket, {66}),
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("name,arguments", NAMED, ids=[row[0] for row in NAMED])
def test_what_is_no_file_is_refused(tmp_path, monkeypatch, name, arguments, kind):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "m"
    shutil.copytree(DEMO, model, copy_function=link_or_copy)
    if name == "chat_template.json":
        (model / "chat_template.jinja").unlink(missing_ok=True)
    path = model / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make, codes = STRANGERS[kind]
    make(path)
    command = [str(BINARY), "serve", str(model), "--port", "0", "--prepared-cache", "off", *SMALL]
    result = subprocess.run(
        [*command, *(a.replace("{here}", str(model)) for a in arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode in codes, result.stderr
    assert str(path) in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "{}"],
        ["plan", "{}"],
        ["plan", "mixtral-8x7b", "--hardware", "{}"],
        ["plan", "mixtral-8x7b", "--html", "{}"],
        ["migrate", "{}", "-o", "out"],
        ["serve", "{}", "--load-format", "dummy"],
        ["bench", "latency", "{}", "--load-format", "dummy"],
    ],
    ids=" ".join,
)
def test_a_fifo_as_an_argument_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    result = subprocess.run(
        [str(BINARY), *(part.format("fifo") for part in command)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 66, result.stderr
    assert "fifo" in result.stderr


OF_THE_MODEL = [name for name, arguments in NAMED if not arguments]


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_links_out_of_the_model_are_refused(tmp_path, name):
    """Otherwise a model that links to a file of the host could show it, as its chat template does
    through return_prompt_text."""
    model = tmp_path / "m"
    shutil.copytree(DEMO, model, copy_function=link_or_copy)
    if name == "chat_template.json":
        (model / "chat_template.jinja").unlink()
    path = model / name
    path.parent.mkdir(exist_ok=True)
    target = tmp_path / "elsewhere"
    if path.exists():
        path.rename(target)
    else:
        target.write_text("{}")
    path.symlink_to(target)
    command = [str(BINARY), "serve", str(model), "--port", "0", "--prepared-cache", "off", *SMALL]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 65, result.stderr
    for word in (str(path), str(target), "put the file itself in the folder"):
        assert word in result.stderr


def test_a_cache_of_the_hub_serves(tmp_path, serve):
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots/0123"
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(DEMO, snapshot, copy_function=link_or_copy)
    for number, path in enumerate(sorted(p for p in snapshot.iterdir() if p.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../blobs/{number}")
    served = serve(snapshot, "--served-model-name", "demo", *SMALL)
    assert served.get("/v1/models")[0] == 200
