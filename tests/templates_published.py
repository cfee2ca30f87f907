#!/usr/bin/env python3
"""Published chat templates, rendered by `moesaic serve` and by Jinja2 as transformers sets it up.

    tests/templates_published.py FOLDER

FOLDER has *.jinja files or tokenizer_config.json files, at any depth: those of models that somebody
has downloaded. Nothing is fetched, and no template is kept here. Each is given to a server with a
tiny model of random weights, whose answers have the prompt's text, and to Jinja2, with the same
conversations. The table names what differs; the exit code is 1 where something does. Jinja2 is the
only package needed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/hostile"))
sys.path.insert(0, str(ROOT / "src/text/testdata"))
import mutations  # noqa: E402 - it has the tiny model
import reference_engine  # noqa: E402

BINARY = Path(os.environ.get("MOESAIC_BINARY", ROOT / "build/release/moesaic"))

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "부산", "days": 3}},
}


def said(*texts, system=None):
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return [{"role": "system", "content": system}, *messages] if system else messages


CALLED = [
    *said("Weather in Busan?"),
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call12345", "name": "weather", "content": "sunny, 20"},
]
# What each conversation shows, and the members of the request.
CONVERSATIONS = {
    "question": {"messages": said("Hello!")},
    "system": {"messages": said("Hello!", system="Be kind.")},
    "turns": {"messages": said("One?", "1", "Two?", "2 ", " Three? \n")},
    "signs": {"messages": said("a <b> & \"c\" 'd' {{ e }} {% f %} \\n é 한 🙂\n\n```\ncode\n```")},
    "no prompt": {"messages": said("Hello!"), "add_generation_prompt": False},
    "answered": {"messages": said("Hello!", "Hi."), "add_generation_prompt": False},
    "tools": {"messages": said("Weather?"), "tools": TOOLS},
    "called": {"messages": CALLED, "tools": TOOLS},
    "answered call": {
        "messages": [*CALLED, {"role": "assistant", "content": "Sunny."}, *said("And tomorrow?")],
        "tools": TOOLS,
    },
    "thinking": {"messages": said("Why?"), "chat_template_kwargs": {"enable_thinking": True}},
    "no thinking": {"messages": said("Why?"), "chat_template_kwargs": {"enable_thinking": False}},
    "thought": {"messages": said("Why?", "<think>\nhm\n</think>\n\nSo.", "And?")},
    "two systems": {"messages": [{"role": "system", "content": "a"}, *said("b", system="c")]},
    "answer first": {"messages": [{"role": "assistant", "content": "a"}, *said("b")]},
    "other role": {"messages": [{"role": "critic", "content": "a"}, *said("b")]},
}


def token_text(value):
    return value["content"] if isinstance(value, dict) else value


class Published:
    """A template and the special tokens that it sees."""

    def __init__(self, path):
        self.path = path
        self.config = {"bos_token": "<s>", "eos_token": "</s>"}
        if path.suffix == ".jinja":
            self.text = path.read_text()
            beside = path.with_name("tokenizer_config.json")
            if beside.exists():
                self.config = json.loads(beside.read_text())
        else:
            self.config = json.loads(path.read_text())
            self.text = self.config.get("chat_template")
            if isinstance(self.text, list):
                named = {entry["name"]: entry["template"] for entry in self.text}
                self.text = named.get("default")

    def write_model(self, folder):
        mutations.model(folder)
        for weights in folder.glob("*.safetensors*"):
            weights.unlink()
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps({**config, "max_position_embeddings": 60000})
        )
        special = {name: self.config[name] for name in self.config if name.endswith("_token")}
        (folder / "tokenizer_config.json").write_text(json.dumps(special))
        (folder / "chat_template.jinja").write_text(self.text)

    def expected(self, conversation):
        """What Jinja2 makes of it: None where the template refuses."""
        values = {
            name: token_text(value)
            for name, value in self.config.items()
            if name.endswith("_token") and value is not None
        }
        values.update({"tools": None, "documents": None, "add_generation_prompt": True})
        values.update(conversation.get("chat_template_kwargs", {}))
        values.update({k: v for k, v in conversation.items() if k != "chat_template_kwargs"})
        try:
            return reference_engine.environment().from_string(self.text).render(**values)
        except Exception as problem:  # Whatever Python raises, the conversation is refused.
            self.problem = f"{type(problem).__name__}: {problem}"
            return None


class Server:
    def __init__(self, folder):
        command = [
            BINARY,
            "serve",
            folder,
            "--load-format",
            "dummy",
            "--port",
            "0",
            "--max-model-len",
            "60000",
        ]
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines = []
        self.url = None
        for line in self.process.stdout:
            self.lines.append(line)
            if "serving " in line and " at http://" in line:
                self.url = line.split(" at ")[1].split()[0]
                break
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def rendered(self, conversation):
        """The prompt's text, or None and why it is refused."""
        members = {"max_tokens": 1, "return_prompt_text": True, **conversation}
        if "tools" in members:
            members["tool_choice"] = "none"
        request = urllib.request.Request(
            self.url + "/v1/chat/completions",
            data=json.dumps(members).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["prompt_text"], ""
        except urllib.error.HTTPError as error:
            return None, json.load(error)["error"]["message"]

    def close(self):
        self.process.kill()
        self.process.wait()


def shown(text):
    return "refused" if text is None else repr(text[:60])


def first_difference(ours, theirs):
    """Both texts from a little before where they part."""
    if ours is None or theirs is None:
        return ours, theirs
    at = next(
        (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None
    )
    at = min(len(ours), len(theirs)) if at is None else at
    return ours[max(at - 15, 0) :], theirs[max(at - 15, 0) :]


def compare(published):
    """Rows of what differs, and the number of conversations that were rendered or refused alike."""
    rows, alike = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        published.write_model(folder)
        server = Server(folder)
        try:
            if server.url is None:
                return [
                    ("start", "the server does not start: " + "".join(server.lines[-2:]), "", "")
                ], 0
            for name, conversation in CONVERSATIONS.items():
                theirs = published.expected(conversation)
                ours, why = server.rendered(conversation)
                if ours == theirs:
                    alike += 1
                    continue
                pair = first_difference(ours, theirs)
                why = why or getattr(published, "problem", "") if None in pair else ""
                rows.append((name, shown(pair[0]), shown(pair[1]), why))
        finally:
            server.close()
    return rows, alike


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    paths = sorted([*folder.rglob("*.jinja"), *folder.rglob("tokenizer_config.json")])
    differing = total = 0
    for path in paths:
        published = Published(path)
        if not published.text:
            continue
        rows, alike = compare(published)
        total += alike + len(rows)
        differing += len(rows)
        print(f"{path.relative_to(folder)}: {alike} alike, {len(rows)} differ", flush=True)
        for name, ours, theirs, why in rows:
            print(
                f"    {name:14} moesaic {ours}\n{'':19}Jinja2  {theirs}"
                + (f"\n{'':19}{why}" if why else "")
            )
    print(f"{len(paths)} files, {total} renderings, {differing} differ")
    return 1 if differing or not total else 0


if __name__ == "__main__":
    sys.exit(main())
