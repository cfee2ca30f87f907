#!/usr/bin/env python3
"""Greedy tokens of a model in bfloat16 as transformers generates them, for comparison with this
program's on the same prompts (src/model/demo_golden_test.cpp).

    python tests/golden/make_demo_golden.py models/demo tests/golden/demo/prompts.json \\
        tests/golden/demo/expected.json

prompts.json is a list; each entry is a string (tokenized as it is, special tokens added as the
tokenizer does), a list of chat messages (through the chat template, with the generation prompt),
or {"tokens": [ids]}. The output has for each prompt its token ids, the greedy tokens, and per step
the best tokens with their logits in bfloat16 and, over the same tokens, in float32. What the two
types disagree by is what rounding does to these logits: where another program first chooses a
runner-up, and the logits of the two are closer than twice that, it is a tie.
"""

import argparse
import json
import pathlib

import torch
import transformers

# Ties of three and four do happen: names in a story are equally likely.
CANDIDATES = 5


def token_ids(tokenizer, prompt):
    if isinstance(prompt, dict):
        return list(prompt["tokens"])
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    encoded = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def generate(model, exact, tokens, count, stop_ids):
    """Greedy tokens of `model`, and per step its best with their logits in both models."""
    caches = [transformers.DynamicCache(config=m.config) for m in (model, exact)]
    feed = torch.tensor([tokens], device=model.device)
    produced, steps = [], []
    with torch.no_grad():
        for _ in range(count):
            rounded, precise = (
                m(feed, past_key_values=cache, use_cache=True).logits[0, -1].float()
                for m, cache in zip((model, exact), caches, strict=True)
            )
            ids = torch.topk(rounded, CANDIDATES).indices
            steps.append(
                {
                    "ids": ids.tolist(),
                    "bfloat16": [round(x, 5) for x in rounded[ids].tolist()],
                    "float32": [round(x, 5) for x in precise[ids].tolist()],
                }
            )
            produced.append(int(ids[0]))
            if produced[-1] in stop_ids:
                break
            feed = torch.tensor([produced[-1:]], device=model.device)
    return produced, steps


def load(folder, dtype, device):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )
    return model.to(device).eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("prompts", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=48, help="greedy tokens per prompt")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()

    prompts = json.loads(arguments.prompts.read_text())
    model = load(arguments.model, torch.bfloat16, arguments.device)
    exact = load(arguments.model, torch.float32, arguments.device)
    tokenizer = None
    if any(not isinstance(prompt, dict) for prompt in prompts):
        tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    stop_ids = model.generation_config.eos_token_id
    stop_ids = set(stop_ids) if isinstance(stop_ids, list) else {stop_ids}

    results = []
    for prompt in prompts:
        tokens = token_ids(tokenizer, prompt)
        produced, steps = generate(model, exact, tokens, arguments.tokens, stop_ids)
        results.append({"prompt": prompt, "tokens": tokens, "greedy": produced, "steps": steps})
        if tokenizer is not None:
            results[-1]["text"] = tokenizer.decode(produced)
    report = {
        "made_by": "tests/golden/make_demo_golden.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "device": arguments.device,
        "prompts": results,
    }
    arguments.output.write_text(json.dumps(report, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
