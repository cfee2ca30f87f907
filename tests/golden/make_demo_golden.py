#!/usr/bin/env python3
"""Greedy tokens of a model in bfloat16 as transformers generates them, for comparison with this
program's on the same prompts.

    python tests/golden/make_demo_golden.py models/demo prompts.json expected.json [--tokens 48]

prompts.json is a list; each entry is a string (tokenized as it is, special tokens added as the
tokenizer does), a list of chat messages (through the chat template, with the generation prompt),
or {"tokens": [ids]}. The output has for each prompt its token ids, the greedy tokens, and per step
the two best tokens and their logits: where another program first differs, gap_in_ulps says whether
the two were closer than bfloat16 can tell apart.
"""

import argparse
import json
import math
import pathlib

import torch
import transformers


def bf16_ulp(value):
    """Distance of neighbouring bfloat16 numbers (8 significant bits) at the size of `value`."""
    return 2.0 ** (math.floor(math.log2(max(abs(value), 2.0**-126))) - 7)


def token_ids(tokenizer, prompt):
    if isinstance(prompt, dict):
        return list(prompt["tokens"])
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    encoded = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def generate(model, tokens, count, stop_ids):
    """Greedy continuation and, per step, the two best (id, logit)."""
    device = model.device
    cache = transformers.DynamicCache(config=model.config)
    feed = list(tokens)
    produced, steps = [], []
    with torch.no_grad():
        for _ in range(count):
            out = model(torch.tensor([feed], device=device), past_key_values=cache, use_cache=True)
            best = torch.topk(out.logits[0, -1].float(), 2)
            (first, second), (top, runner_up) = best.indices.tolist(), best.values.tolist()
            steps.append(
                {
                    "ids": [first, second],
                    "logits": [top, runner_up],
                    "gap_in_ulps": (top - runner_up) / bf16_ulp(top),
                }
            )
            produced.append(first)
            if first in stop_ids:
                break
            feed = [first]
    return produced, steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("prompts", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=48, help="greedy tokens per prompt")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    arguments = parser.parse_args()

    prompts = json.loads(arguments.prompts.read_text())
    model = (
        transformers.AutoModelForCausalLM.from_pretrained(
            arguments.model, dtype=getattr(torch, arguments.dtype), attn_implementation="eager"
        )
        .to(arguments.device)
        .eval()
    )
    tokenizer = None
    if any(not isinstance(prompt, dict) for prompt in prompts):
        tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    stop_ids = model.generation_config.eos_token_id
    stop_ids = set(stop_ids) if isinstance(stop_ids, list) else {stop_ids}

    results = []
    for prompt in prompts:
        tokens = token_ids(tokenizer, prompt)
        produced, steps = generate(model, tokens, arguments.tokens, stop_ids)
        results.append({"prompt": prompt, "tokens": tokens, "greedy": produced, "steps": steps})
    report = {
        "made_by": "tests/golden/make_demo_golden.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "prompts": results,
    }
    arguments.output.write_text(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
