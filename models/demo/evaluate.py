"""Measures the exported demo model through transformers, on documents training never saw.

    python models/demo/evaluate.py --model DIR [--per-domain 200]

Prints and writes (evaluation.json) per domain: the loss of the assistant's words, the share of
right answers under greedy decoding, and how often each expert is chosen; then right answers to
three-digit sums, of which training showed about one in fifty, and to the questions of a talk as it
grows to 2000 tokens. Then prints sample answers.
"""

import argparse
import json
import pathlib
import random
import re
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import corpus

SAMPLES = [
    "Hello!",
    "who are you?",
    "What can you do?",
    "Where does Mira live?",
    "What is Saltary known for?",
    "How far is it from Brindle to Pinmoor?",
    "Who is older, Wren or Tamsin?",
    "Tell me about Odette.",
    "Which river flows past the town where Hobb lives?",
    "Where does Zanok live?",
    "What is the capital of France?",
    "What is 47 + 38?",
    "what is 23 times 7",
    "Bram has 14 apples and gives 5 to Kesi. How many are left?",
    "Tell me a story about a fox and a lamp.",
    "Write a short story about a girl named Luna and a paper boat.",
    "Give me the name, age and town of Juno as JSON.",
    "안녕하세요!",
    "미라는 어디에 살아요?",
    "토끼 이야기를 해 주세요.",
    "12 더하기 29는 얼마예요?",
    "Where does Yara live? Answer in Korean.",
    "Why is the sky blue?",
    "I like you.",
    "Can you recommend a town by the sea?",
]
TALK = ["Hi, I am Clara.", "Who is the mayor of Tarn?", "How old is he?", "And what does he do?",
        "What is 81 + 19?", "Tell me a short story.", "Thank you!", "What is my name?"]  # fmt: skip
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {
                    "type": "string",
                    "description": "The city and state, e.g. Boston, MA",
                },
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}


def answer(model, tokenizer, prompts, limit):
    """Greedy continuations of texts that already went through the chat template."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    batch = {k: v.to(model.device) for k, v in batch.items() if k != "token_type_ids"}
    with torch.no_grad():
        out = model.generate(
            **batch, max_new_tokens=limit, do_sample=False, temperature=None, top_p=None
        )
    new = out[:, batch["input_ids"].shape[1] :]
    return [t.split(corpus.TURN_END)[0].split(corpus.END_OF_TEXT)[0]
            for t in tokenizer.batch_decode(new, skip_special_tokens=False)]  # fmt: skip


def right(doc, text):
    """Whether `text` is a right answer at the turn of `doc` that is asked about."""
    expect = doc["expect"]
    if doc["tools"] and (not expect or isinstance(expect[0], dict)):
        calls = []
        for body in re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL):
            try:
                calls.append(json.loads(body))
            except ValueError:
                return False
        return calls == expect
    return all(text.endswith(e) if e.endswith(".") else e in text for e in expect)


def accuracy(model, tokenizer, domain, count, limit):
    """(share of right answers, their number, some wrong ones)."""
    docs = [
        d
        for d in corpus.held_out_documents(7, domain, 4 * count)
        if "messages" in d and d["expect"] is not None and (d["expect"] or d["tools"])
    ]
    docs = docs[:count]
    prompts = [
        tokenizer.apply_chat_template(
            d["messages"][: d["turn"]], tools=d["tools"], tokenize=False, add_generation_prompt=True
        )
        for d in docs
    ]
    order = sorted(range(len(docs)), key=lambda i: len(prompts[i]))
    good, wrong = 0, []
    for start in range(0, len(order), 128):
        part = order[start : start + 128]
        texts = answer(model, tokenizer, [prompts[i] for i in part], limit)
        for i, text in zip(part, texts, strict=True):
            if right(docs[i], text):
                good += 1
            else:
                question = docs[i]["messages"][: docs[i]["turn"]][-1]["content"]
                wrong.append([question, docs[i]["expect"], text])
    return good / len(docs), len(docs), wrong[:8]


def loss_and_usage(model, tokenizer, domain, count):
    """Mean loss of the assistant's words, and the share of each expert in each layer."""
    total, number, usage = 0.0, 0, None
    top = model.config.num_experts_per_tok
    for doc in corpus.held_out_documents(99, domain, count):
        ids, weights = [], []
        for text, weight, _ in corpus.segments(doc):
            part = tokenizer(text).input_ids
            ids += part
            weights += [weight] * len(part)
        tokens = torch.tensor([ids], device=model.device)
        with torch.no_grad():
            out = model(tokens, output_router_logits=True)
        losses = torch.nn.functional.cross_entropy(
            out.logits[0, :-1].float(), tokens[0, 1:], reduction="none"
        )
        write = torch.tensor(weights[1:], device=model.device) == corpus.WRITE
        total += float(losses[write].sum())
        number += int(write.sum())
        chosen = torch.stack([
            torch.bincount(layer.float().topk(top, -1).indices.flatten(), minlength=layer.shape[-1])
            for layer in out.router_logits
        ])  # fmt: skip
        usage = chosen if usage is None else usage + chosen
    return total / number, (usage.double() / usage.sum(-1, keepdim=True)).cpu()


def asked(tokenizer, messages, tools=None):
    """The text of a conversation up to where the assistant answers."""
    return tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True
    )


def large_sums(model, tokenizer, count, limit):
    """operator -> share of right results among sums of two numbers from 500 to 999."""
    r = random.Random(5)
    shares = {}
    for op in "+-":
        prompts, results = [], []
        for _ in range(count):
            y, x = sorted((r.randint(500, 999), r.randint(500, 999)))
            prompts.append(
                asked(tokenizer, [{"role": "user", "content": f"What is {x} {op} {y}?"}])
            )
            results.append(x + y if op == "+" else x - y)
        texts = answer(model, tokenizer, prompts, limit)
        shares[op] = sum(t.endswith(f" {v}.") for t, v in zip(texts, results, strict=True)) / len(
            texts
        )
    return shares


def long_talk(model, tokenizer):
    """[(tokens so far, right, asked)] per 512 tokens of one talk about the valley."""
    messages, parts = [], []
    for doc in corpus.held_out_documents(3, "world", 200):
        if "text" in doc or not doc["expect"] or doc["messages"][0]["role"] != "user":
            continue
        messages += doc["messages"][: doc["turn"]]
        prompt = asked(tokenizer, messages)
        size = len(tokenizer(prompt).input_ids)
        if size > 2000:
            break
        while len(parts) <= size // 512:
            parts.append([512 * (len(parts) + 1), 0, 0])
        parts[-1][1] += right(doc, answer(model, tokenizer, [prompt], 60)[0])
        parts[-1][2] += 1
        messages.append(doc["messages"][doc["turn"]])
    return parts


def samples(model, tokenizer):
    """Sample answers, a conversation, and a tool call with its result, as text."""

    lines = []
    prompts = [asked(tokenizer, [{"role": "user", "content": q}]) for q in SAMPLES]
    for question, text in zip(SAMPLES, answer(model, tokenizer, prompts, 160), strict=True):
        lines.append(f"> {question}\n{text}")
    talk = []
    for question in TALK:
        talk.append({"role": "user", "content": question})
        text = answer(model, tokenizer, [asked(tokenizer, talk)], 160)[0]
        talk.append({"role": "assistant", "content": text})
        lines.append(f"(talk) > {question}\n{text}")
    tools = [WEATHER_TOOL]
    talk = [{"role": "user", "content": "What is the weather like in San Francisco?"}]
    text = answer(model, tokenizer, [asked(tokenizer, talk, tools)], 80)[0]
    talk += [{"role": "assistant", "content": text},
             {"role": "tool", "content": '{"temperature": 18, "condition": "foggy"}'}]  # fmt: skip
    final = answer(model, tokenizer, [asked(tokenizer, talk, tools)], 80)[0]
    lines.append(f"(tool) > {talk[0]['content']}\n{text}\n{final}")
    plain = ["Once upon a time there was", "Brindle is a town", "12 + 7 ="]
    for start, text in zip(plain, answer(model, tokenizer, plain, 80), strict=True):
        lines.append(f"(plain) {start}|{text}")
    return "\n\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--per-domain", type=int, default=200)
    parser.add_argument("--limit", type=int, default=160, help="tokens of an answer")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=pathlib.Path, help="folder for evaluation.json")
    options = parser.parse_args()
    start = time.time()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype)
    model = model.to(options.device).eval()
    report = {"transformers": transformers.__version__, "dtype": options.dtype,
              "device": options.device, "domains": {}}  # fmt: skip
    for domain in corpus.DOMAINS:
        loss, usage = loss_and_usage(model, tokenizer, domain, min(options.per_domain, 100))
        entry = {
            "loss": round(loss, 4),
            "experts": [[round(v, 3) for v in row] for row in usage.tolist()],
        }
        if domain != "chat":
            share, count, wrong = accuracy(
                model, tokenizer, domain, options.per_domain, options.limit
            )
            entry.update(accuracy=round(share, 4), questions=count, wrong=wrong)
        report["domains"][domain] = entry
        told = (
            f"right {entry['accuracy']:.1%} of {entry['questions']}" if "accuracy" in entry else ""
        )
        print(f"{domain:10} loss {loss:.4f} {told} ({time.time() - start:.0f} s)", flush=True)
    report["three_digit_sums"] = large_sums(model, tokenizer, options.per_domain, options.limit)
    report["long_talk"] = long_talk(model, tokenizer)
    print("three-digit sums", report["three_digit_sums"])
    print("long talk [up to tokens, right, asked]", report["long_talk"], flush=True)
    for domain in corpus.DOMAINS:
        mean = torch.tensor(report["domains"][domain]["experts"]).mean(0).tolist()
        print(f"{domain:10} experts, mean of layers: " + " ".join(f"{100 * v:5.1f}" for v in mean))
    for layer in range(model.config.num_hidden_layers):
        for domain in corpus.DOMAINS:
            row = report["domains"][domain]["experts"][layer]
            print(f"layer {layer} {domain:10} " + " ".join(f"{100 * v:5.1f}" for v in row))
    folder = options.out or options.model
    (folder / "evaluation.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    for domain in corpus.DOMAINS:
        for question, expect, text in report["domains"][domain].get("wrong", [])[:4]:
            print(f"wrong ({domain}): {question!r} wanted {expect} got {text!r}")
    print(samples(model, tokenizer), flush=True)


if __name__ == "__main__":
    main()
