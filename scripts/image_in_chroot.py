#!/usr/bin/env python3
"""Runs the steps of the Dockerfile in chroots and checks what comes out; see test_image.sh.

Usage: image_in_chroot.py FOLDER [TARGET]. Only the instructions that the Dockerfile uses are known;
any other ends with an error, so the two cannot drift apart unnoticed. Mounts are made in the
caller's namespace, and nothing is removed while they stand: test_image.sh does that afterwards.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUITE = {"debian:12": "bookworm", "debian:12-slim": "bookworm"}
PORT = 18000


def say(text):
    print(f"test_image: {text}", flush=True)


def instructions():
    """Words and text of each instruction, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        yield name, rest.strip()


class Recipe:
    """A stage of the Dockerfile: where it begins, its instructions, and the stages it needs."""

    def __init__(self, image, alias):
        self.image = image
        self.alias = alias
        self.steps = []

    def needs(self):
        """Names of images and stages, those of copies included."""
        copies = [rest.split()[0] for name, rest in self.steps if name == "COPY"]
        return [self.image] + [
            word.removeprefix("--from=") for word in copies if word.startswith("--from=")
        ]


def recipes(target=None):
    """The stages that `target` (the last one unless given) takes, in order."""
    stages = {}
    for name, rest in instructions():
        if name == "FROM":
            image, alias = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            stages[alias] = Recipe(image, alias)
        else:
            list(stages.values())[-1].steps.append((name, rest))
    target = target or list(stages)[-1]
    if target not in stages:
        raise SystemExit(f"test_image: the Dockerfile has no stage '{target}'")
    wanted = {target}
    for alias in reversed(stages):
        if alias in wanted:
            wanted.update(stages[alias].needs())
    return [stage for alias, stage in stages.items() if alias in wanted]


def debian(work, suite):
    """A fresh Debian, made once and kept."""
    base = work / f"base-{suite}"
    if not (base / "done").exists():
        shutil.rmtree(base, ignore_errors=True)
        say(f"debootstrap {suite}")
        subprocess.run(
            ["debootstrap", "--variant=minbase", suite, base], check=True, stdout=subprocess.DEVNULL
        )
        # As the container image has them: updates and security too.
        lines = [
            f"deb http://deb.debian.org/debian {suite} main",
            f"deb http://deb.debian.org/debian {suite}-updates main",
            f"deb http://deb.debian.org/debian-security {suite}-security main",
        ]
        (base / "etc/apt/sources.list").write_text("\n".join(lines) + "\n")
        (base / "done").touch()
    return base


class Stage:
    """A root folder that instructions change; it goes on from another's, or from an image."""

    def __init__(self, root, start, before=None):
        self.root = root
        subprocess.run(["cp", "-a", start, root], check=True)
        (root / "done").unlink(missing_ok=True)
        self.folder = before.folder if before else "/"
        path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.environment = dict(before.environment if before else path)
        self.user = before.user if before else "0:0"
        self.entrypoint = before.entrypoint if before else []
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        self.mount()

    def mount(self):
        # /dev has the few nodes that debootstrap made; the machine's own stays out of reach.
        for name, kind in (("proc", "proc"), ("sys", "sysfs")):
            subprocess.run(["mount", "-t", kind, kind, self.root / name], check=True)

    def unmount(self):
        for name in ("sys", "proc"):
            subprocess.run(["umount", "--recursive", "--lazy", self.root / name], check=True)

    def command(self, *words):
        return ["chroot", f"--userspec={self.user}", self.root, *words]

    def run(self, text):
        # Like a build argument: a proxy of the machine is no part of the image.
        proxies = {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
        script = f"cd {self.folder} && {text}"
        environment = {**self.environment, **proxies, "HOME": "/root"}
        # Whom this machine trusts, a TLS proxy say, for the downloads of this step only.
        trusted = Path("/etc/ssl/certs/ca-certificates.crt")
        if trusted.exists():
            shutil.copy(trusted, self.root / "run/trusted.pem")
            names = ("CARGO_HTTP_CAINFO", "SSL_CERT_FILE", "PIP_CERT")
            environment |= dict.fromkeys(names, "/run/trusted.pem")
        subprocess.run(self.command("/bin/sh", "-c", script), env=environment, check=True)
        (self.root / "run/trusted.pem").unlink(missing_ok=True)

    def place(self, target):
        return self.root / os.path.join(self.folder, target).lstrip("/")

    def copy(self, sources, target):
        place = self.place(target)
        many = len(sources) > 1 or target.endswith("/")
        for source in sources:
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True)
            else:
                goal = place / source.name if many else place
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, goal)

    def step(self, name, rest, stages):
        if name == "WORKDIR":
            self.folder = rest
            self.place(".").mkdir(parents=True, exist_ok=True)
        elif name == "RUN":
            self.run(rest)
        elif name == "COPY":
            words = rest.split()
            root = ROOT
            if words[0].startswith("--from="):
                root = stages[words.pop(0).removeprefix("--from=")].root
            self.copy([root / word.lstrip("/") for word in words[:-1]], words[-1])
        elif name == "ENV":
            key, _, value = rest.partition("=")
            self.environment[key] = value
        elif name == "USER":
            self.user = rest
        elif name == "ENTRYPOINT":
            self.entrypoint = json.loads(rest)
        elif name not in ("EXPOSE", "CMD"):
            raise SystemExit(f"test_image: the Dockerfile has {name}, which this does not know")


def build(work, target):
    """Runs every instruction that the target takes and returns its stage."""
    stages = {}
    for number, recipe in enumerate(recipes(target)):
        say(f"FROM {recipe.image} AS {recipe.alias}")
        before = stages.get(recipe.image)
        if before:
            before.unmount()  # what is mounted there is not to be copied
        start = before.root if before else debian(work, SUITE[recipe.image])
        stage = stages[recipe.alias] = Stage(work / f"stage-{number}", start, before)
        if before:
            before.mount()
        for name, rest in recipe.steps:
            say(f"{name} {rest[:100]}")
            stage.step(name, rest, stages)
    for entry in stages.values():
        entry.unmount()
    return stage


def check_contents(image):
    """Nothing of the build is in the image, and it does not run as root."""
    for name in ("usr/bin/g++", "usr/bin/cmake", "usr/bin/python3", "src", "root/.cargo"):
        assert not (image.root / name).exists(), f"{name} does not belong into the image"
    assert image.user.split(":")[0] not in ("0", "root"), "the image runs as root"
    added = subprocess.run(
        ["du", "--summarize", "--bytes", image.root / "usr/local"],
        capture_output=True,
        text=True,
        check=True,
    )
    say(f"/usr/local has {int(added.stdout.split()[0]) / 1e6:.1f} MB")


def outcome(image, *arguments):
    return subprocess.run(
        image.command(*image.entrypoint, *arguments),
        env=image.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def serve_args(image):
    """The container's arguments in what `deploy` writes for the demo model."""
    result = outcome(image, "deploy", "/models/demo", "--port", str(PORT), "-o", "/tmp/out")
    assert result.returncode == 0, result.stderr
    args = []
    text = (image.root / "tmp/out/deployment.yaml").read_text()
    lines = text.split("\n        args:\n")[1].splitlines()
    for line in lines:
        if not line.startswith("        - "):
            break
        args.append(line.removeprefix("        - ").strip('"'))
    assert args[:2] == ["serve", "/models/demo"], args
    return args


def check_serves(image):
    """The demo model from a read-only root with the manifest's arguments, then SIGTERM."""
    shutil.copytree(ROOT / "models/demo", image.root / "models/demo")
    args = serve_args(image)
    for option in ("bind", "remount,bind,ro"):
        subprocess.run(["mount", "-o", option, image.root, image.root], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", image.root / "tmp"], check=True)
    for name, kind in (("proc", "proc"), ("sys", "sysfs")):
        subprocess.run(["mount", "-t", kind, kind, image.root / name], check=True)
    environment = {**image.environment, "MOESAIC_PREPARED_CACHE": "/tmp/prepared"}
    server = subprocess.Popen(image.command(*image.entrypoint, *args), env=environment)
    try:
        address = f"http://127.0.0.1:{PORT}"
        for _ in range(600):
            assert server.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(address + "/health", timeout=2).read()
                break
            except OSError:
                time.sleep(0.2)
        body = {"model": "/models/demo", "prompt": "Once", "max_tokens": 8}
        request = urllib.request.Request(
            address + "/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] > 0
        with urllib.request.urlopen(address + "/", timeout=10) as answer:
            assert b"<html" in answer.read().lower(), "the web page is not in the binary"
        with urllib.request.urlopen(address + "/metrics", timeout=10) as answer:
            assert b"vllm:num_requests_waiting" in answer.read()
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert re.search(r"^Uid:\s+10001\s+10001", status, re.M), "the server does not run as 10001"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, "SIGTERM did not end it with 0"
    finally:
        if server.poll() is None:
            server.kill()


def main():
    work = Path(sys.argv[1]).resolve()
    target = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    image = build(work, target)
    check_contents(image)
    version = outcome(image, "--version")
    assert version.returncode == 0 and version.stdout.startswith("moesaic "), version.stderr
    assert ("CUDA" in version.stdout) == (target == "cuda"), version.stdout
    check_serves(image)
    say("the image serves the demo model as user 10001 from a read-only root")


if __name__ == "__main__":
    main()
