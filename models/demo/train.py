"""Trains the demo model for a fixed time and writes it in Hugging Face layout.

    python models/demo/train.py --out DIR [--seconds 240]

The corpus is generated on all cores, tokenized and packed into rows of 1024 tokens; a token sees
only its own document. Beside the usual loss two small terms act on the router: Mixtral's balance
loss over the whole batch, and the mutual information between expert and domain, so that all experts
are used and each prefers some domains.
"""

import argparse
import json
import math
import multiprocessing
import os
import pathlib
import shutil
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import corpus
from moe import CONFIG, Mixtral, export_tensors, load_tensors

HERE = pathlib.Path(__file__).parent
BALANCE, SPECIALISE = 0.01, 0.01
SHARD_BYTES = 12 << 20


def pack(documents, tokenizer, length):
    """(tokens, loss weights, domains, document numbers) as arrays [rows, length]."""
    rows = []
    fill = length
    for doc in documents:
        segments = corpus.segments(doc, compact=len(rows) % 10 == 0)
        encoded = tokenizer.encode_batch_fast([text for text, _, _ in segments])
        size = sum(len(e.ids) for e in encoded)
        if size > length:
            continue
        if fill + size > length:
            rows.append([np.zeros(length, t) for t in (np.int16, np.float16, np.int8, np.int16)])
            fill = number = 0
        tokens, weights, domains, numbers = rows[-1]
        number += 1
        for e, (_, weight, domain) in zip(encoded, segments, strict=True):
            end = fill + len(e.ids)
            tokens[fill:end] = e.ids
            weights[fill:end] = weight
            domains[fill:end] = corpus.DOMAINS.index(domain)
            numbers[fill:end] = number
            fill = end
    return [np.stack(column) for column in zip(*rows, strict=True)]


def _work(job):
    seed, count, length = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    return pack(corpus.documents(seed, count), tokenizer, length)


def start_rows(pool, count, length, seed, workers):
    """Begins to make training rows from `count` documents; returns a function that waits for them,
    so that the model can be compiled meanwhile."""
    jobs = 4 * workers
    work = [(seed * 1000 + i, count // jobs, length) for i in range(jobs)]
    parts = pool.map_async(_work, work, 1)
    return lambda: [np.concatenate(column) for column in zip(*parts.get(), strict=True)]


def make_held_out_rows(tokenizer, per_domain, length):
    """Rows of documents that training never sees, of every domain."""
    docs = [d for domain in corpus.DOMAINS
            for d in corpus.held_out_documents(99, domain, per_domain)]  # fmt: skip
    return pack(docs, tokenizer, length)


def batch_of(rows, index, device):
    tokens, weights, domains, numbers = (torch.from_numpy(x[index]).to(device) for x in rows)
    return tokens.long(), weights.float(), domains.long(), numbers


def router_losses(probs, chosen, domains, real):
    """(balance, mutual information) averaged over layers. probs, chosen: [L, b, t, E]."""
    experts = probs.shape[-1]
    probs, chosen = probs.flatten(1, 2), chosen.flatten(1, 2)
    one_hot = F.one_hot(domains.flatten(), len(corpus.DOMAINS)).float()
    one_hot = one_hot * real.flatten().unsqueeze(-1)
    total = one_hot.sum()
    mean = torch.einsum("lne,n->le", probs, one_hot.sum(-1)) / total
    used = torch.einsum("lne,n->le", chosen, one_hot.sum(-1)) / total
    balance = experts * (mean * used).sum(-1).mean()
    share = torch.einsum("lne,nd->lde", probs, one_hot) / one_hot.sum(0).clamp(min=1)[:, None]
    middle = share.mean(1)
    entropy = -(middle * (middle + 1e-9).log()).sum(-1)
    within = -(share * (share + 1e-9).log()).sum(-1).mean(-1)
    return balance, (entropy - within).mean()


def token_losses(model, tokens, numbers):
    """Cross entropy of each next token [b, t-1], and the router's outputs."""
    t = tokens.shape[1]
    causal = torch.ones(t, t, dtype=torch.bool, device=tokens.device).tril()
    mask = ((numbers[:, :, None] == numbers[:, None, :]) & causal).unsqueeze(1)
    logits, probs, chosen = model(tokens, mask)
    logits = logits[:, :-1].float().flatten(0, 1)
    loss = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
    return loss.view(tokens.shape[0], t - 1), probs, chosen


def step_loss(model, tokens, weights, domains, numbers):
    """(loss to minimise, loss of the text alone, balance, mutual information)."""
    loss, probs, chosen = token_losses(model, tokens, numbers)
    # The first token of a document cannot be foreseen from the document before it.
    counts = weights[:, 1:] * (numbers[:, 1:] == numbers[:, :-1])
    text = (loss * counts).sum() / counts.sum()
    balance, information = router_losses(probs, chosen, domains, numbers > 0)
    return text + BALANCE * balance - SPECIALISE * information, text, balance, information


def held_out_report(model, rows, device, autocast):
    """Per domain: loss of what the assistant writes, and the share of each expert per layer."""
    names = corpus.DOMAINS
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    usage = None
    with torch.no_grad(), autocast():
        for start in range(0, len(rows[0]), 16):
            tokens, weights, domains, numbers = batch_of(rows, slice(start, start + 16), device)
            loss, _, chosen = token_losses(model, tokens, numbers)
            write = (weights[:, 1:] == 1) & (numbers[:, 1:] == numbers[:, :-1])
            one_hot = F.one_hot(domains, len(names)).float() * (numbers > 0).unsqueeze(-1)
            here = torch.einsum("lbte,btd->lde", chosen.float(), one_hot).double().cpu().numpy()
            usage = here if usage is None else usage + here
            for d in range(len(names)):
                pick = write & (domains[:, 1:] == d)
                sums[d] += float((loss * pick).sum())
                counts[d] += float(pick.sum())
    usage /= usage.sum(-1, keepdims=True)
    losses = {name: round(sums[d] / max(counts[d], 1), 4) for d, name in enumerate(names)}
    losses["all"] = round(float(sums.sum() / counts.sum()), 4)
    return {
        "loss": losses,
        "usage": {name: np.round(usage[:, d], 3).tolist() for d, name in enumerate(names)},
    }


def save(model, out):
    """Writes config, generation config, tokenizer and the weights in shards."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": True,
                  "temperature": 0.7, "top_p": 0.95}  # fmt: skip
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if out.resolve() != HERE.resolve():
            shutil.copy(HERE / name, out / name)
    tensors = export_tensors(model)
    total = sum(t.nbytes for t in tensors.values())
    shards = [{}]
    for name, tensor in tensors.items():
        if sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        index["weight_map"].update(dict.fromkeys(shard, file))
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"wrote {total / 1e6:.1f} MB in {len(shards)} shards to {out}", flush=True)


def read_shards(folder):
    """All tensors of a checkpoint that `save` wrote."""
    out = {}
    for file in sorted(folder.glob("*.safetensors")):
        out.update(load_file(file))
    return out


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--start", type=pathlib.Path, help="go on from the weights in this folder")
    parser.add_argument("--seconds", type=float, default=240, help="time for the training steps")
    parser.add_argument("--documents", type=int, default=1_200_000)
    parser.add_argument("--rows", type=int, default=32, help="rows of 1024 tokens in a batch")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--no-compile", action="store_true")
    return parser.parse_args()


def main():
    options = parse()
    begin = time.time()
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    # The processes are forked before anything touches the accelerator.
    pool = multiprocessing.get_context("fork").Pool(options.workers)
    finish_rows = start_rows(pool, options.documents, options.length, options.seed, options.workers)
    first_rows = pack(corpus.documents(options.seed, 40 * options.rows), tokenizer, options.length)

    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    device = options.device
    model = Mixtral()
    if options.start:
        load_tensors(model, read_shards(options.start))
    model = model.to(device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters on {device}", flush=True)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=options.rate, betas=(0.9, 0.95), eps=1e-8, fused=device == "cuda",
    )  # fmt: skip

    def autocast():
        return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")

    def run_step(function, rows, index):
        with autocast():
            parts = function(model, *batch_of(rows, index, device))
        parts[0].backward()
        return [p.detach() for p in parts]

    function = step_loss
    first = np.arange(options.rows)
    if not options.no_compile:
        try:
            function = torch.compile(step_loss)
            run_step(function, first_rows, first)
        except Exception as error:  # noqa: BLE001 - any compiler trouble means: go on without it
            print(f"not compiled: {str(error)[:500]}", flush=True)
            function = step_loss
    optimizer.zero_grad(set_to_none=True)
    print(f"first step after {time.time() - begin:.0f} s", flush=True)
    rows = finish_rows()
    pool.close()
    fill = float((rows[3] > 0).mean())
    print(f"{len(rows[0])} rows, {rows[0].size * fill / 1e6:.1f} M tokens, filled {fill:.3f}, "
          f"after {time.time() - begin:.0f} s", flush=True)  # fmt: skip

    order = np.random.default_rng(options.seed)
    queue = np.empty(0, np.int64)
    steps, start, shown = 0, time.time(), 0.0
    while (done := (time.time() - start) / options.seconds) < 1:
        if len(queue) < options.rows:
            queue = order.permutation(len(rows[0]))
        index, queue = np.sort(queue[: options.rows]), queue[options.rows :]
        rate = options.rate * min(1.0, (steps + 1) / 200) * (0.02 + 0.98 * 0.5 * (
            1 + math.cos(math.pi * done)))  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = rate
        parts = run_step(function, rows, index)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        if steps % 20 == 0 and device == "cuda":
            torch.cuda.synchronize()
        if time.time() - shown > 10:
            shown = time.time()
            _, text, balance, information = (float(p) for p in parts)
            speed = steps * options.rows * options.length / (time.time() - start)
            print(f"{done:5.1%} step {steps} loss {text:.4f} balance {balance:.3f} information "
                  f"{information:.3f} {speed / 1e3:.0f} k tokens/s", flush=True)  # fmt: skip
    seen = steps * options.rows * options.length * fill
    print(f"{steps} steps, {seen / 1e6:.0f} M tokens in {time.time() - start:.0f} s", flush=True)

    model.eval()
    save(model, options.out)
    held = make_held_out_rows(tokenizer, 120, options.length)
    report = held_out_report(model, held, device, autocast)
    report.update(
        start=str(options.start or ""),
        parameters=parameters,
        steps=steps,
        tokens=int(seen),
        seconds=round(time.time() - start),
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
    )
    (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print("held-out loss", report["loss"], flush=True)


if __name__ == "__main__":
    main()
