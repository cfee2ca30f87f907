#!/usr/bin/env python3
"""Mutations of a model's files and of requests: whatever they become, the program ends in a
documented code, or answers with one, within 5 seconds and 2 GB.

    tests/hostile/mutations.py [--files 10000] [--requests 10000] [--seed 1] [--only CASE]

A case is made of the seed and its number alone, so what fails can be made again: its number is
printed. `--only` runs that one case of files, keeps its folder and says where it is.
"""

# ruff: noqa: E501 - a request stands on one line

import argparse
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("MOESAIC_BINARY", ROOT / "build/release/moesaic"))
CHECKPOINTS = ROOT / "tests/golden/checkpoints"
TESTDATA = ROOT / "src/text/testdata"
SECONDS = 5.0
BYTES = 2 << 30
# Done, usage, bad model data, file missing, not to be had, and settings that contradict the model.
EXIT_CODES = {0, 64, 65, 66, 69, 78}
STATUSES = {200, 400, 401, 404, 405, 408, 413, 414, 415, 417, 422, 431, 501, 503, 505}

NUMBERS = [0, 1, -1, 2, 3, 7, 8, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63 - 1, 2**63]
NUMBERS += [2**64, 10**30, 0.5, -0.5, 1e-300, 1e300, 1e-9]
TEXTS = [
    "",
    "a",
    "\x00",
    "é한🙂",
    "a" * 5000,
    "../../x",
    "/etc/passwd",
    "<|im_end|>",
    "{{ x }}",
    "NaN",
]
BYTE_TEXTS = [
    b"\x00",
    b"\xff\xfe",
    b"\xc3",
    b"[" * 2000,
    b"{" * 300,
    b'"',
    b",",
    b"}",
    b"1e999",
    b"NaN",
]
BYTE_TEXTS += [
    b"\r\n",
    b"{{",
    b"{%",
    b"%}",
    b"{% for x in range(99999) %}",
    b"| join",
    b"[::-1]",
    b"**9",
]
# Of safetensors and GGUF files only the beginning decides how the rest is read.
HEAD_BYTES = 4096


def any_value(rng, depth=0):
    kind = rng.randrange(7 if depth < 3 else 4)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind <= 2:
        return rng.choice(NUMBERS)
    if kind == 3:
        return rng.choice(TEXTS)
    if kind == 4:
        return [any_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return {rng.choice(TEXTS): any_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    nested = []
    for _ in range(rng.choice([10, 63, 65, 300])):
        nested = [nested]
    return nested


def places(value, found=None):
    """Every container with every key or index that it has."""
    found = [] if found is None else found
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found.append((value, key))
        if isinstance(item, dict | list) and len(found) < 3000:
            places(item, found)
    return found


def mutated_json(rng, value):
    """Changes one to three places of a JSON object or list."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randrange(1, 4)):
        every = places(value)
        if not every:
            break
        holder, key = rng.choice(every)
        what = rng.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, list):
            holder.insert(key, any_value(rng))
        elif what == 1:
            holder[rng.choice(TEXTS) + str(key)] = holder.pop(key)
        elif what == 2 and isinstance(holder[key], int | float):
            holder[key] = rng.choice(
                [holder[key] * 2, -holder[key], holder[key] + 1, holder[key] / 2]
            )
        elif what == 3:
            other, place = rng.choice(every)
            # What was taken out of the value meanwhile is a value all the same.
            found = other.get(place) if isinstance(other, dict) else other[:1]
            holder[key] = json.loads(json.dumps(found))
        else:
            holder[key] = any_value(rng)
    return value


def mutated_bytes(rng, raw, head=None):
    """Changes one to three places of some bytes, most of them among the first `head`."""
    raw = bytearray(raw)
    for _ in range(rng.randrange(1, 4)):
        end = len(raw) if head is None or rng.random() < 0.1 else min(head, len(raw))
        at = rng.randrange(end + 1)
        what = rng.randrange(7)
        if what == 0:
            del raw[at:]
        elif what == 1:
            del raw[at : at + rng.choice([1, 2, 8, 100])]
        elif what == 2:
            raw[at:at] = rng.choice(BYTE_TEXTS)
        elif what == 3:
            raw[at : at + 8] = rng.choice([0, 1, 2**31, 2**32 + 8, 2**63, 2**64 - 1]).to_bytes(
                8, "little"
            )
        elif what == 4:
            other = rng.randrange(end + 1)
            raw[at:at] = raw[other : other + rng.randrange(200)]
        elif at < len(raw):
            raw[at] = rng.choice([raw[at] ^ (1 << rng.randrange(8)), rng.randrange(256)])
    return bytes(raw)


def small_tokenizer():
    """A byte-level tokenizer of 256 tokens, as many as the models of the goldens have rows."""
    whole = json.loads((TESTDATA / "byte_level/tokenizer.json").read_text())
    vocab = whole["model"]["vocab"]
    whole["model"]["vocab"] = {token: id for token, id in vocab.items() if id < 256}
    whole["model"]["merges"] = []
    whole["added_tokens"] = []
    return whole


def model(folder, name="qwen3_moe"):
    """A whole model in a folder."""
    shutil.copytree(CHECKPOINTS / name, folder, ignore=shutil.ignore_patterns("expected.*"))
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer()))
    shutil.copy(TESTDATA / "byte_level/tokenizer_config.json", folder)
    shutil.copy(TESTDATA / "templates/chatml.jinja", folder / "chat_template.jinja")
    (folder / "generation_config.json").write_text(
        '{"temperature": 0.7, "top_k": 5, "eos_token_id": [2]}'
    )
    return folder


def damage(rng, folder):
    """Changes one file of the folder, or what kind of file it is."""
    names = sorted(path.name for path in folder.iterdir())
    # Each of the small files as often as all the weights together.
    weights = [name for name in names if name.endswith(".safetensors")]
    name = rng.choice([*(name for name in names if name not in weights), rng.choice(weights)])
    path = folder / name
    raw = path.read_bytes()
    if name == "chat_template.jinja":
        other = rng.choice(sorted((TESTDATA / "templates").glob("*.jinja")))
        path.write_bytes(mutated_bytes(rng, other.read_bytes()))
    elif name.endswith(".safetensors") and rng.random() < 0.7:
        size = int.from_bytes(raw[:8], "little")
        header = json.dumps(mutated_json(rng, json.loads(raw[8 : 8 + size]))).encode()
        length = (
            len(header) if rng.random() < 0.9 else rng.choice([0, 2**32, 2**63, len(header) + 1])
        )
        path.write_bytes(length.to_bytes(8, "little") + header + raw[8 + size :])
    elif name.endswith(".json") and rng.random() < 0.8:
        path.write_text(json.dumps(mutated_json(rng, json.loads(raw))))
    else:
        head = HEAD_BYTES if name.endswith(".safetensors") else None
        path.write_bytes(mutated_bytes(rng, raw, head))
    return name


def run_start(folder, cache):
    """Loads the model and asks it one thing; the exit code, seconds, bytes and what was said."""
    command = [str(BINARY), "chat", str(folder), "--max-model-len", "200", "--max-tokens", "2"]
    began = time.monotonic()
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said:
        asked.write(b"hi\n")
        asked.seek(0)
        process = subprocess.Popen(
            command,
            stdin=asked,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "MOESAIC_PREPARED_CACHE": str(cache)},
        )
        end = began + 4 * SECONDS
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.003)
        if ended[0] == 0:
            process.kill()
            ended = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        seconds = time.monotonic() - began
        said.seek(0)
        return (
            process.returncode,
            seconds,
            ended[2].ru_maxrss << 10,
            said.read(4000).decode(errors="replace"),
        )


class Report:
    """What failed, by the case."""

    def __init__(self, kind, seed):
        self.kind, self.seed, self.failed, self.codes = kind, seed, [], {}

    def take(self, case, code, documented, seconds, size, said):
        self.codes[code] = self.codes.get(code, 0) + 1
        wrong = []
        if code not in documented:
            wrong.append(f"ended in {code}")
        if seconds > SECONDS:
            wrong.append(f"took {seconds:.1f} s")
        if size > BYTES:
            wrong.append(f"took {size >> 20} MiB")
        if wrong:
            self.failed.append(case)
            print(
                f"{self.kind} case {case} of seed {self.seed}: {', '.join(wrong)}\n{said}",
                flush=True,
            )

    def close(self):
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(self.codes.items(), key=str))
        print(
            f"{self.kind}: {sum(self.codes.values())} cases of seed {self.seed}: {codes}",
            flush=True,
        )
        return self.failed


def run_files(count, seed, only=None):
    """The cases that fail."""
    report = Report("files", seed)
    scratch = Path(tempfile.mkdtemp(prefix="moesaic_mutations_"))
    try:
        model(scratch / "whole")
        for case in range(count) if only is None else [only]:
            rng = random.Random(f"files {seed} {case}")
            folder = scratch / f"case{case}"
            shutil.copytree(scratch / "whole", folder)
            name = damage(rng, folder)
            code, seconds, size, said = run_start(folder, scratch / "cache")
            report.take(case, code, EXIT_CODES, seconds, size, f"{name}: {said[:600]}")
            if only is None:
                shutil.rmtree(folder)
                shutil.rmtree(scratch / "cache", ignore_errors=True)
            else:
                print(
                    f"case {only} is in {folder}: {code}, {seconds:.2f} s, {size >> 20} MiB\n{said}"
                )
    finally:
        if only is None:
            shutil.rmtree(scratch)
    return report.close()


BODIES = [
    ("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 2, "temperature": 0.5, "seed": 1}),
    ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 1, "logprobs": 2, "echo": True, "n": 2}),
    ("/v1/completions", {"prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2, "stop": ["x", "y"]}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 2, "logit_bias": {"5": 1.5}, "allowed_token_ids": [1, 2, 3], "bad_words": ["a"], "min_tokens": 1, "top_k": 3, "min_p": 0.1, "presence_penalty": 0.5}),
    ("/v1/chat/completions", {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}], "max_tokens": 2, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}, {"role": "tool", "tool_call_id": "c", "content": "r"}], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice": "auto", "max_tokens": 2, "stream": True, "chat_template_kwargs": {"x": 1}}),
    ("/tokenize", {"prompt": "hello", "add_special_tokens": True, "return_token_strs": True}),
    ("/tokenize", {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": False}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]  # fmt: skip


def request(rng):
    """The bytes of a request with something wrong in its body or, less often, around it."""
    path, body = rng.choice(BODIES)
    body = json.dumps(mutated_json(rng, body)).encode()
    if rng.random() < 0.3:
        body = mutated_bytes(rng, body)
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: a",
        "Content-Type: application/json",
        "Connection: close",
    ]
    lines.append(f"Content-Length: {len(body)}")
    raw = "\r\n".join([*lines, "", ""]).encode()
    if rng.random() < 0.2:
        raw = mutated_bytes(rng, raw)
    return raw + body


def ask(port, raw, idle=SECONDS):
    """The status of the answer, or what became of it, and the seconds it took."""
    began = time.monotonic()
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.settimeout(idle)
        try:
            connection.sendall(raw)
            while data := connection.recv(65536):
                answer += data
        except (BrokenPipeError, ConnectionResetError):
            pass
        except TimeoutError:
            return "no answer", time.monotonic() - began
    seconds = time.monotonic() - began
    if not answer:
        return "closed", seconds
    first = answer.split(b"\r\n", 1)[0].split(b" ")
    return int(first[1]) if len(first) > 1 and first[1].isdigit() else "not HTTP", seconds


def peak_bytes(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def run_requests(count, seed):
    """The cases that fail. The same good request is answered the same in between."""
    report = Report("requests", seed)
    scratch = Path(tempfile.mkdtemp(prefix="moesaic_mutations_"))
    folder = model(scratch / "whole")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(BINARY), "serve", str(folder), "--port", str(port), "--served-model-name", "m"]
    # Requests that lack their end are many, and each waits so long.
    command += ["--header-timeout", "0.2", "--body-timeout", "0.2", "--body-idle-timeout", "0.2"]
    command += ["--keep-alive-timeout", "0.2"]
    log = (scratch / "log").open("wb")
    environment = {**os.environ, "MOESAIC_PREPARED_CACHE": str(scratch / "cache")}
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    good = json.dumps({"prompt": "control", "max_tokens": 4, "temperature": 0}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(good)}\r\n\r\n"

    def control():
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(head.encode() + good)
            answer = connection.recv(65536)
        return json.loads(answer.split(b"\r\n\r\n", 1)[1])["choices"]

    try:
        end = time.monotonic() + 30
        while True:
            try:
                first = control()
                break
            except OSError:
                if time.monotonic() > end or server.poll() is not None:
                    raise
                time.sleep(0.1)
        for case in range(count):
            status, seconds = ask(port, request(random.Random(f"requests {seed} {case}")))
            report.take(case, status, STATUSES, seconds, peak_bytes(server.pid), "")
            if case % 50 == 0 and control() != first:
                report.take(case, "another control answer", STATUSES, 0, 0, "")
            if server.poll() is not None:
                report.take(case, f"the server ended in {server.returncode}", STATUSES, 0, 0, "")
                break
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(scratch)
    return report.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if given.only is not None:
        return bool(run_files(0, given.seed, given.only))
    failed = run_files(given.files, given.seed)
    return bool(run_requests(given.requests, given.seed) + failed)


if __name__ == "__main__":
    sys.exit(main())
