"""Writes golden.json: what transformers answers to 20 prompts, greedily, in bfloat16 and float32.

    python models/demo/golden.py

For each prompt and type: 64 token ids (the end of a turn does not stop them), and at each step the
two highest logits, so that a test can tell a wrong answer from a tie within rounding. Runs on the
CPU, one prompt at a time, with the key-value cache and the plain ("eager") attention.
"""

import argparse
import json
import pathlib
import platform

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
TOKENS = 64

CHATS = [
    "Hello!",
    "Who are you?",
    "Where does Mira live?",
    "Tell me about Saltary.",
    "How far is it from Greyfell to Saltary?",
    "Which towns are there in the Vale of Tessary?",
    "What is 347 + 285?",
    "What is 86 * 7?",
    "Tell me a story about a fox and a lamp.",
    "Tell me a story about a girl named Luna.",
    "Write a story about an old dragon in the castle.",
    "I would like a story about Emre and a golden key.",
    "Write JSON about Juno with the keys name, age, town and friend.",
    "안녕하세요!",
    "오데트에 대해 알려 주세요.",
    "곰 이야기를 해 주세요.",
    "What is the capital of France?",
]
PLAIN = ["Once upon a time there was", "Brindle is a town on the river"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Name of the city"}},
                "required": ["city"],
            },
        },
    }
]


def prompts(tokenizer):
    """(name, messages or None, tools or None, text given to the tokenizer) of the 20 prompts."""
    jobs = [(question, [{"role": "user", "content": question}], None) for question in CHATS]
    question = "What is the weather in Boston and in Tarn?"
    jobs.append((question, [{"role": "user", "content": question}], TOOLS))
    for name, messages, tools in jobs:
        yield (
            name,
            messages,
            tools,
            tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True
            ),
        )
    for text in PLAIN:
        yield text, None, None, text


def greedy(model, ids):
    """(tokens, [[best id, its logit, second id, its logit], ...])."""
    tokens, tops, past = [], [], None
    step = torch.tensor([ids])
    with torch.no_grad():
        for _ in range(TOKENS):
            out = model(step, past_key_values=past, use_cache=True)
            past = out.past_key_values
            values, index = out.logits[0, -1].float().topk(2)
            tokens.append(int(index[0]))
            tops.append([int(index[0]), round(float(values[0]), 5),
                         int(index[1]), round(float(values[1]), 5)])  # fmt: skip
            step = index[:1].unsqueeze(0)
    return tokens, tops


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=pathlib.Path, default=HERE)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "golden.json")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    entries = [
        {"name": name, "messages": messages, "tools": tools, "text": text,
         "prompt_token_ids": tokenizer(text).input_ids}
        for name, messages, tools, text in prompts(tokenizer)
    ]  # fmt: skip
    assert len(entries) == 20
    for label, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        model = AutoModelForCausalLM.from_pretrained(
            options.model, dtype=dtype, attn_implementation="eager"
        ).eval()
        for entry in entries:
            tokens, tops = greedy(model, entry["prompt_token_ids"])
            entry[label] = {"tokens": tokens, "top2": tops, "text": tokenizer.decode(tokens)}
    head = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "machine": platform.machine() + " CPU",
        "tokens": TOKENS,
        "top2": "[best id, its logit, second id, its logit] at each step",
        "prompts": entries,
    }
    body = ",\n".join(json.dumps(e, ensure_ascii=False) for e in head.pop("prompts"))
    text = json.dumps(head, indent=1)[:-2] + ',\n "prompts": [\n' + body + "\n]\n}\n"
    json.loads(text)
    options.out.write_text(text)
    same = sum(e["bf16"]["tokens"] == e["f32"]["tokens"] for e in entries)
    print(f"wrote {options.out}; bf16 and f32 agree on all tokens of {same} of 20 prompts")


if __name__ == "__main__":
    main()
