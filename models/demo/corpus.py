"""The corpus of the demo model: seeded, generated, and rendered as the chat template does.

A document is made by one of the modules in domains/. `documents()` yields training documents,
`held_out_documents()` those that training never sees. Run as a program it prints a sample.
"""

import argparse
import json
import random

from domains import arithmetic, korean, smalltalk, stories, tools, world
from domains.common import SYSTEMS, held_out

DOMAINS = ["world", "arithmetic", "story", "tools", "korean", "chat"]
MAKERS = {
    "world": world.make,
    "arithmetic": arithmetic.make,
    "story": stories.make,
    "tools": tools.make,
    "korean": korean.make,
    "chat": smalltalk.make,
}
# Documents drawn per domain; the tool documents are long, the others short.
SHARES = {"world": 29, "arithmetic": 27, "story": 10, "tools": 12, "korean": 24, "chat": 9}

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# The loss of what a user or a tool writes counts little: the model needs to read it, not write it.
READ, WRITE = 0.1, 1.0


def _tools_text(schemas, compact):
    separators = (",", ":") if compact else (", ", ": ")
    lines = [json.dumps(s, ensure_ascii=False, separators=separators) for s in schemas]
    return (
        "You can call these functions:\n<tools>\n"
        + "".join(line + "\n" for line in lines)
        + '</tools>\nTo call one, write:\n<tool_call>\n{"name": NAME, "arguments": ARGUMENTS}\n'
        "</tool_call>"
    )


def segments(doc, compact=False):
    """The document as (text, weight of its loss, domain); special tokens are segments of their
    own, so that tokenizing the segments one by one equals tokenizing their concatenation."""
    domain = doc["domain"]
    if "text" in doc:
        return [(doc["text"], WRITE, domain), (END_OF_TEXT, WRITE, domain)]
    out = []
    messages = list(doc["messages"])
    labels = doc.get("labels") or [domain] * len(messages)
    if doc.get("tools"):
        head = messages.pop(0)["content"] + "\n\n" if messages[0]["role"] == "system" else ""
        labels = labels[len(labels) - len(messages) :]
        text = "system\n" + head + _tools_text(doc["tools"], compact)
        out += [(TURN_START, READ, domain), (text, READ, domain), (TURN_END, READ, domain)]
        out.append(("\n", READ, domain))
    for message, label in zip(messages, labels, strict=True):
        out.append((TURN_START, READ, label))
        if message["role"] == "assistant":
            out += [("assistant\n", READ, label), (message["content"], WRITE, label)]
            out.append((TURN_END, WRITE, label))
        else:
            out += [(f"{message['role']}\n{message['content']}", READ, label)]
            out.append((TURN_END, READ, label))
        out.append(("\n", READ, label))
    out.append((END_OF_TEXT, READ, domain))
    return out


def render(doc, compact=False):
    """The document's whole text."""
    return "".join(text for text, _, _ in segments(doc, compact))


def draw(r, domain=None):
    """One document, of `domain` or of one drawn by SHARES."""
    domain = domain or r.choices(list(SHARES), list(SHARES.values()))[0]
    return MAKERS[domain](r)


def _kept(doc):
    return doc["key"] is not None and held_out(doc["key"])


def _for_training(r):
    while True:
        doc = draw(r)
        if not _kept(doc):
            return doc


def _joined(r):
    """A longer conversation that wanders from one domain to another."""
    messages, labels = [], []
    first = None
    hello, question = smalltalk.introduction(r) if r.random() < 0.3 else ([], [])
    for _ in range(r.randint(2, 6)):
        doc = _for_training(r)
        while "text" in doc or doc["tools"]:
            doc = _for_training(r)
        part = doc["messages"]
        # One name in a talk is enough.
        if hello and any("our name" in m["content"] for m in part):
            continue
        if first is None:
            first = doc
        elif part[0]["role"] == "system":
            # What a system message asks for holds for the whole talk: leave such parts alone.
            if part[0]["content"] not in SYSTEMS:
                continue
            part = part[1:]
        messages += part
        labels += [doc["domain"]] * len(part)
    if first is None:
        return _for_training(r)
    if first["messages"][0]["role"] == "system" and first["messages"][0][
        "content"] not in SYSTEMS:  # fmt: skip
        return first
    at = 1 if messages[0]["role"] == "system" else 0
    messages[at:at] = hello
    labels[at:at] = ["chat"] * len(hello)
    messages += question
    labels += ["chat"] * len(question)
    return {"domain": first["domain"], "messages": messages, "tools": None, "labels": labels}


def documents(seed, count):
    """`count` training documents; the same seed gives the same documents."""
    r = random.Random(seed)
    for _ in range(count):
        yield _joined(r) if r.random() < 0.15 else _for_training(r)


def held_out_documents(seed, domain, count):
    """`count` different documents of `domain` that training never sees."""
    r = random.Random(seed)
    seen = set()
    while len(seen) < count:
        doc = draw(r, domain)
        # Small talk is a fixed list and has nothing to hold out.
        if domain != "chat" and not _kept(doc):
            continue
        text = render(doc)
        if text not in seen:
            seen.add(text)
            yield doc


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--domain", choices=DOMAINS)
    options = parser.parse_args()
    r = random.Random(options.seed)
    for _ in range(options.count):
        print(render(draw(r, options.domain)).rstrip("\n"), end="\n\n")


if __name__ == "__main__":
    main()
