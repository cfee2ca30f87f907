"""Quantised folders: served as their float twins are, and told as what they are."""

import json
import urllib.request

import pytest
from conftest import DEMO
from quantised import FORMATS, read_safetensors, write_safetensors, write_twins
from test_life import run
from test_memory_terms import terms


@pytest.fixture(scope="module", params=sorted(FORMATS))
def twins(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    called = write_twins(DEMO, request.param, folder / "quantised", folder / "twin")
    return folder / "quantised", folder / "twin", called


def is_unpacked(called):
    """Floats, and integers whose inputs were reordered (as quantised.py has GPTQ)."""
    return "fp8" in called or "GPTQ" in called


def ask(served, prompt):
    body = {"model": "m", "prompt": prompt, "max_tokens": 24, "temperature": 0, "logprobs": 3}
    request = urllib.request.Request(
        served.url + "/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]


FLAGS = ["--served-model-name", "m", "--dtype", "float32", "--max-model-len", "512"]


def test_unpacked_it_answers_as_its_float_twin(twins, serve):
    quantised, twin, called = twins
    left, right = serve(quantised, *FLAGS, "--unpack-weights"), serve(twin, *FLAGS)
    assert f"MiB 32-bit; stored as {called}" in left.log()
    assert "stored as" not in right.log()
    planned = terms(left, "moesaic:memory_planned_bytes")["weights"]
    assert planned == terms(right, "moesaic:memory_planned_bytes")["weights"]
    assert abs(terms(left, "moesaic:memory_actual_bytes")["weights"] / planned - 1) < 0.02
    for prompt in ("Once upon a time", "def add(a, b):", "The capital of"):
        a, b = ask(left, prompt), ask(right, prompt)
        assert a["text"] == b["text"]
        assert a["logprobs"]["token_logprobs"] == pytest.approx(
            b["logprobs"]["token_logprobs"], abs=1e-3
        )


def test_as_it_is_it_comes_near_its_float_twin(twins, serve):
    """Integers stay integers, and activations are rounded to bytes."""
    quantised, twin, called = twins
    left, right = serve(quantised, *FLAGS), serve(twin, *FLAGS)
    assert f"stored as {called}" in left.log()
    planned, whole = (terms(s, "moesaic:memory_planned_bytes")["weights"] for s in (left, right))
    assert abs(terms(left, "moesaic:memory_actual_bytes")["weights"] / planned - 1) < 0.02
    assert planned == whole if is_unpacked(called) else planned < whole * 0.6
    for prompt in ("Once upon a time", "def add(a, b):", "The capital of"):
        a, b = ask(left, prompt), ask(right, prompt)
        # The first token's: later ones may follow another choice.
        assert a["logprobs"]["token_logprobs"][0] == pytest.approx(
            b["logprobs"]["token_logprobs"][0], abs=0.15
        )


@pytest.mark.parametrize("name", ["int8", "eetq", "int4"])
def test_quantised_at_load_it_comes_near_and_takes_less(name, serve):
    small, whole = serve(DEMO, *FLAGS, "--quantization", name), serve(DEMO, *FLAGS)
    kept = terms(small, "moesaic:memory_actual_bytes")["weights"]
    share = kept / terms(whole, "moesaic:memory_actual_bytes")["weights"]
    assert share < (0.45 if name == "int4" else 0.55)
    for prompt in ("Once upon a time", "The capital of"):
        a, b = ask(small, prompt), ask(whole, prompt)
        assert a["logprobs"]["token_logprobs"][0] == pytest.approx(
            b["logprobs"]["token_logprobs"][0], abs=0.8 if name == "int4" else 0.15
        )


def test_the_name_of_what_it_is_may_be_given(twins, serve):
    quantised, twin, called = twins
    method = json.loads((quantised / "config.json").read_text())["quantization_config"][
        "quant_method"
    ]
    served = serve(quantised, *FLAGS, "--quantization", method)
    assert f"stored as {called}" in served.log()
    if method in ("awq", "gptq"):
        assert serve(quantised, *FLAGS, "--quantization", method + "_marlin").log()
    other = "gptq" if method == "awq" else "awq"
    refused = run("serve", quantised, "--quantization", other, "--port", "0")
    assert refused.returncode == 78
    assert f"--quantization {other}: the model is stored as {called}" in refused.stderr
    refused = run("serve", twin, "--quantization", other, "--port", "0")
    assert refused.returncode == 78 and "the model is not quantised" in refused.stderr


def test_it_is_inspected_and_planned_as_what_it_is(twins):
    quantised, twin, called = twins
    told = run("inspect", quantised)
    assert f"stored as    {called}\n" in told.stdout
    found = json.loads(run("inspect", quantised, "--json").stdout)
    assert found["can_serve"] and found["stored_as"] == called
    plans = []
    for folder in (quantised, twin):
        done = run("plan", folder, "--instance", "host", "--concurrency", "2", "--json")
        (host,) = json.loads(done.stdout)["candidates"]
        assert host["fits"], host["reason"]
        plans.append(host)
    assert plans[0]["memory"]["embeddings"] == plans[1]["memory"]["embeddings"]
    for part in ("attention", "experts"):
        held, whole = (plan["memory"][part] for plan in plans)
        assert held == whole if is_unpacked(called) else held < whole * 0.75
    assert any(note.startswith(f"stored as {called}; held in ") for note in plans[0]["notes"])


def test_what_is_missing_or_malformed_is_named(twins, tmp_path):
    quantised, _, _ = twins
    tensors = read_safetensors(quantised / "model.safetensors")
    scales = next(name for name in tensors if name.endswith(("scales", "_scale", "_scale_inv")))
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in quantised.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    dtype, shape, raw = tensors[scales]
    for spoiled in (None, (dtype, shape, b"\xff" * len(raw)), ("U8", [len(raw)], raw)):
        changed = dict(tensors)
        if spoiled is None:
            del changed[scales]
        else:
            changed[scales] = spoiled
        write_safetensors(folder / "model.safetensors", changed)
        done = run("serve", folder, "--port", "0")
        assert done.returncode == 65, done.stderr
        assert scales in done.stderr


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    config = json.loads((DEMO / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("serve", tmp_path, "--port", "0")
    assert done.returncode == 65
    assert "is 3; of GPTQ, 2, 4 and 8 bits are read" in done.stderr
    told = run("inspect", tmp_path)
    assert told.returncode == 0 and "not yet" in told.stdout
