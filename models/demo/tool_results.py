"""Asks a served demo model to tell what a tool's result says, JSON or plain words.

    python models/demo/tool_results.py [--url http://127.0.0.1:8000] [--count 100]

Prints, for each kind of result, the share that is told: by words and not by another call, with
every number of the result that the expected sentence has, too. The conversations are held out from
training, the answers greedy.
"""

import argparse
import json
import re
import urllib.request

import corpus


def cases(count):
    """kind -> `count` cases as (messages up to a tool's result, tools, expected sentence)."""
    out = {"json": [], "words": []}
    for doc in corpus.held_out_documents(11, "tools", 40 * count):
        roles = [m["role"] for m in doc["messages"]]
        if "tool" not in roles:
            continue
        at = next(i for i, role in enumerate(roles) if role == "assistant" and "tool" in roles[:i])
        results = [m["content"] for m in doc["messages"][:at] if m["role"] == "tool"]
        kind = "json" if all(text.startswith("{") for text in results) else "words"
        if len(out[kind]) < count:
            out[kind].append((doc["messages"][:at], doc["tools"], doc["messages"][at]["content"]))
    return out


def ask(url, messages, tools):
    """The answer's message."""
    body = {"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 100}
    request = urllib.request.Request(
        url + "/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["message"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    for kind, asked in cases(options.count).items():
        told, again, wrong = 0, 0, []
        for messages, tools, expected in asked:
            answer = ask(options.url, messages, tools)
            text = answer["content"] or ""
            said = " ".join(m["content"] for m in messages if m["role"] == "tool")
            facts = set(re.findall(r"\d+", said)) & set(re.findall(r"\d+", expected))
            good = text and not answer.get("tool_calls") and facts <= set(re.findall(r"\d+", text))
            told += bool(good)
            again += bool(answer.get("tool_calls"))
            if not good:
                wrong.append((messages[-1]["content"], text or answer["tool_calls"][0]["function"]))
        print(f"{kind}: told {told} of {len(asked)}, called again {again}")
        for result, text in wrong[:5]:
            print(f"  {result!r} got {text!r}")


if __name__ == "__main__":
    main()
