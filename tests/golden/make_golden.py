#!/usr/bin/env python3
"""Makes the golden checkpoints: for each case a tiny random model in Hugging Face layout, and what
transformers computes with it in float32 (eager attention, CPU).

    python3 -m venv venv && venv/bin/pip install torch transformers safetensors numpy
    venv/bin/python tests/golden/make_golden.py tests/golden [case ...]

Written per case, into checkpoints/<case>/:
  config.json, model*.safetensors   the checkpoint; the expected values come from a model loaded
                                    back from these very files
  expected.json                     versions, three prompts of token ids, 48 greedy tokens each,
                                    the smallest distance between the two best logits on the way,
                                    and the positions whose logits are kept
  expected.bin                      those logits, float32 little-endian, [positions, vocab], in
                                    the order of expected.json

Beside them rope.json: rotary frequencies and rows for the settings of published models.

A seed is taken only if no greedy choice and no choice of experts on the way is closer than a
margin, so that another order of additions cannot change a token, and only if the tokens are not a
short loop.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

GREEDY_TOKENS = 48
PROMPT_LENGTHS = (5, 23, 83)
MIN_TOKEN_GAP = 2e-2
MIN_ROUTER_GAP = 2e-5
MIN_DISTINCT_TOKENS = 16
MAX_SEEDS = 4000

TINY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 72,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def case(model_type, style=5, dtype="bfloat16", shards=1, fused=False, **changes):
    """One checkpoint. style: the transformers major version whose config.json spelling is used."""
    return {
        "config": {"model_type": model_type, **TINY, **changes},
        "style": style,
        "dtype": dtype,
        "shards": shards,
        "fused": fused,
    }


CASES = {
    "mixtral": case(
        "mixtral",
        style=4,
        intermediate_size=24,
        num_local_experts=8,
        num_experts_per_tok=2,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "mixtral_window": case(
        "mixtral",
        intermediate_size=24,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=40,
        head_dim=32,
        dtype="float16",
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "qwen2_moe": case(
        "qwen2_moe",
        style=4,
        num_hidden_layers=3,
        num_experts=6,
        num_experts_per_tok=4,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=48,
        norm_topk_prob=False,
        mlp_only_layers=[1],
        use_sliding_window=False,
        sliding_window=16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "qwen2_moe_sliding": case(
        "qwen2_moe",
        num_hidden_layers=3,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=40,
        norm_topk_prob=True,
        decoder_sparse_step=2,
        use_sliding_window=True,
        sliding_window=20,
        max_window_layers=3,
        tie_word_embeddings=True,
        qkv_bias=False,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    ),
    "qwen3_moe": case(
        "qwen3_moe",
        num_hidden_layers=3,
        num_experts=6,
        num_experts_per_tok=3,
        head_dim=32,
        moe_intermediate_size=24,
        norm_topk_prob=True,
        decoder_sparse_step=2,
        shards=3,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "qwen3_moe_fused": case(
        "qwen3_moe",
        style=4,
        num_experts=6,
        num_experts_per_tok=2,
        head_dim=16,
        fused=True,
        moe_intermediate_size=24,
        norm_topk_prob=False,
        attention_bias=True,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "olmoe": case(
        "olmoe",
        style=4,
        intermediate_size=24,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=False,
        clip_qkv=1.0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "mistral": case(
        "mistral",
        style=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        sliding_window=24,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "llama": case(
        "llama",
        style=4,
        attention_bias=True,
        tie_word_embeddings=True,
        dtype="float32",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "llama_odd": case(
        "llama",
        hidden_size=72,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=24,
        intermediate_size=100,
        vocab_size=253,
        dtype="float16",
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    ),
    "llama_dynamic": case(
        "llama",
        style=4,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    ),
    "llama_llama3": case(
        "llama",
        head_dim=32,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "llama_yarn": case(
        "llama",
        head_dim=32,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 4.0,
            "beta_slow": 0.5,
            "mscale": 0.8,
            "mscale_all_dim": 0.4,
            "truncate": False,
        },
    ),
    "qwen2": case(
        "qwen2",
        style=4,
        num_hidden_layers=3,
        use_sliding_window=True,
        sliding_window=20,
        max_window_layers=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "qwen3": case(
        "qwen3",
        head_dim=32,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
}


# Rope settings of published models, or close to them, for rope.json.
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0, "dim": 128},
    "mixtral": {"rope_type": "default", "rope_theta": 1e6, "dim": 128},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0, "dim": 64},
    "dynamic": {
        "rope_type": "dynamic",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "dim": 64,
        "max_position": 64,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "dim": 128,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "max_position": 131072,
        "original_max_position_embeddings": 8192,
    },
    "yarn_qwen": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 4.0,
        "dim": 128,
        "original_max_position_embeddings": 32768,
        "max_position": 131072,
    },
    "yarn_untruncated": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "dim": 64,
        "original_max_position_embeddings": 4096,
        "max_position": 163840,
        "beta_fast": 24.0,
        "beta_slow": 1.5,
        "truncate": False,
    },
    "yarn_mscale": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "dim": 64,
        "original_max_position_embeddings": 4096,
        "max_position": 163840,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
    },
    "yarn_factor": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "dim": 32,
        "original_max_position_embeddings": 512,
        "max_position": 4096,
        "attention_factor": 1.25,
    },
}
ROPE_POSITIONS = (1, 63, 64, 200, 4095)


def short(values):
    """Float32 values in the fewest digits that give them back."""
    return [float(f"{value:.9g}") for value in values.tolist()]


def make_ropes(root):
    """rope.json: frequencies, amplitude, and cos and sin rows of single positions."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    ropes = {}
    for name, settings in ROPES.items():
        scaling = dict(settings)
        dim = scaling.pop("dim")
        longest = scaling.pop("max_position", 4096)
        config = transformers.LlamaConfig(
            hidden_size=4 * dim,
            num_attention_heads=4,
            max_position_embeddings=longest,
            rope_parameters=dict(scaling),
        )
        rows = []
        for position in ROPE_POSITIONS:
            # A module of its own per position: dynamic scaling remembers the longest it has seen.
            rope = LlamaRotaryEmbedding(config)
            if position == ROPE_POSITIONS[0]:
                frequencies = rope.inv_freq.clone()
            cos, sin = rope(torch.zeros(1), torch.tensor([[position]]))
            rows.append(
                {
                    "position": position,
                    "cos": short(cos[0, 0, : dim // 2]),
                    "sin": short(sin[0, 0, : dim // 2]),
                }
            )
        ropes[name] = {
            "head_dim": dim,
            "max_position_embeddings": longest,
            "rope_parameters": scaling,
            "frequencies": short(frequencies),
            "amplitude": float(rope.attention_scaling),
            "rows": rows,
        }
    content = {
        "made_by": "tests/golden/make_golden.py",
        "transformers": transformers.__version__,
        "ropes": ropes,
    }
    (root / "rope.json").write_text(json.dumps(content) + "\n")


def make_config(spec):
    settings = dict(spec["config"])
    model_type = settings.pop("model_type")
    return transformers.AutoConfig.for_model(model_type, **json.loads(json.dumps(settings)))


def randomise(model, generator, tied):
    """Values large enough that logits, routing and attention are far from ties and from uniform."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            fan_in = value.shape[-1]
            if "norm" in name:
                value.copy_(1.0 + 0.2 * noise)
            elif name.endswith("bias"):
                value.copy_(0.3 * noise)
            elif "embed_tokens" in name:
                value.copy_(noise * (0.5 if tied else 1.0))
            elif "lm_head" in name:
                value.copy_(noise * 4.0 / fan_in**0.5)
            elif name.endswith("gate.weight"):
                value.copy_(noise * 2.0 / fan_in**0.5)
            elif tied and ("o_proj" in name or "down_proj" in name):
                # Else the head, being the embedding, mostly repeats the token it has just read.
                value.copy_(noise * 6.0 / fan_in**0.5)
            elif "q_proj" in name or "k_proj" in name:
                value.copy_(noise * 1.5 / fan_in**0.5)
            else:
                value.copy_(noise / fan_in**0.5)


def old_style(config, dtype):
    """config.json with the keys that transformers 4 wrote."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config.pop("dtype", None)
    config.pop("layer_types", None)
    config["torch_dtype"] = dtype
    config["transformers_version"] = "4.46.0"
    return config


def write_checkpoint(model, spec, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = model.to(getattr(torch, spec["dtype"]))
    limit = "5GB"
    if spec["shards"] > 1:
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        limit = size // spec["shards"] + 1
    model.save_pretrained(folder, max_shard_size=limit)
    if spec["fused"]:
        # As a tool that saves the in-memory names of transformers 5 leaves it.
        tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    config = json.loads(file.read_text())
    # Left out by save_pretrained where it is what that version assumes; older files always say it.
    for key, value in spec["config"].items():
        config.setdefault(key, value)
    if not spec["config"].get("use_sliding_window") and "use_sliding_window" in config:
        config["sliding_window"] = spec["config"].get("sliding_window")
    if spec["style"] == 4:
        config = old_style(config, spec["dtype"])
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "generation_config.json").unlink(missing_ok=True)


class RouterGaps:
    """Watches the routers: the smallest distance between a chosen and a left-out expert's logit."""

    def __init__(self, model, top_k):
        self.smallest = float("inf")
        self.top_k = top_k
        for name, module in model.named_modules():
            if name.endswith("mlp.gate"):
                module.register_forward_hook(self.watch)

    def watch(self, module, inputs, output):
        hidden = inputs[0].reshape(-1, module.weight.shape[-1])
        logits = torch.nn.functional.linear(hidden, module.weight)
        best = torch.sort(logits, dim=-1, descending=True).values
        if best.shape[-1] > self.top_k:
            gap = (best[:, self.top_k - 1] - best[:, self.top_k]).min().item()
            self.smallest = min(self.smallest, gap)


def logits_of(model, tokens, stepwise):
    """Logits of every position. Stepwise feeds one token at a time, which is what the positions of
    dynamic rope scaling mean in this project (src/model/rope.h)."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        if not stepwise:
            return model(ids, use_cache=False).logits[0].float()
        cache = transformers.DynamicCache(config=model.config)
        rows = []
        for i in range(len(tokens)):
            step = model(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
            rows.append(step.logits[0, -1].float())
        return torch.stack(rows)


def greedy(model, prompt, stepwise):
    """Tokens, the smallest gap of the two best logits, and the logits of all positions."""
    tokens = list(prompt)
    smallest = float("inf")
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        last = None
        if stepwise:
            for token in tokens:
                last = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        else:
            last = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
        for _ in range(GREEDY_TOKENS):
            best = torch.topk(last.logits[0, -1].float(), 2)
            gap = (best.values[0] - best.values[1]).item()
            smallest = min(smallest, gap)
            if gap < MIN_TOKEN_GAP:
                return tokens, smallest, None
            tokens.append(int(best.indices[0]))
            last = model(torch.tensor([tokens[-1:]]), past_key_values=cache, use_cache=True)
    if len(set(tokens[len(prompt) :])) < MIN_DISTINCT_TOKENS:
        return tokens, smallest, None
    return tokens, smallest, logits_of(model, tokens, stepwise)


def run_prompts(model, spec, seed):
    rng = np.random.default_rng(seed)
    stepwise = spec["config"]["rope_parameters"]["rope_type"] == "dynamic"
    prompts = []
    for length in PROMPT_LENGTHS:
        prompt = rng.integers(3, spec["config"]["vocab_size"], length).tolist()
        tokens, gap, logits = greedy(model, prompt, stepwise)
        if logits is None:
            return None
        positions = sorted({0, length // 2, length - 1, length + GREEDY_TOKENS - 2})
        prompts.append(
            {
                "tokens": prompt,
                "greedy": tokens[length:],
                "smallest_gap": round(gap, 4),
                "positions": positions,
                "logits": logits[positions].numpy(),
            }
        )
    return prompts


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def make(name, root):
    spec = CASES[name]
    folder = root / "checkpoints" / name
    config = make_config(spec)
    top_k = spec["config"].get("num_experts_per_tok", 0)
    for seed in range(MAX_SEEDS):
        generator = torch.Generator().manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        randomise(model, generator, config.tie_word_embeddings)
        rounded = model.to(getattr(torch, spec["dtype"])).to(torch.float32).eval()
        if run_prompts(rounded, spec, seed) is None:
            continue
        write_checkpoint(model, spec, folder)
        loaded = load(folder)
        gaps = RouterGaps(loaded, top_k)
        prompts = run_prompts(loaded, spec, seed)
        if prompts is not None and gaps.smallest > MIN_ROUTER_GAP:
            break
    else:
        raise SystemExit(f"{name}: no seed below {MAX_SEEDS} keeps the margins")
    with open(folder / "expected.bin", "wb") as file:
        for prompt in prompts:
            file.write(prompt.pop("logits").astype("<f4").tobytes())
    expected = {
        "made_by": "tests/golden/make_golden.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "seed": seed,
        "smallest_router_gap": None if top_k == 0 else float(f"{gaps.smallest:.3g}"),
        "prompts": prompts,
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(
        f"{name}: seed {seed}, {size} bytes, token gaps "
        f"{[p['smallest_gap'] for p in prompts]}, router gap {gaps.smallest:.2g}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("cases", nargs="*", help="default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if not arguments.cases:
        make_ropes(arguments.folder)
    for name in arguments.cases or CASES:
        make(name, arguments.folder)


if __name__ == "__main__":
    main()
