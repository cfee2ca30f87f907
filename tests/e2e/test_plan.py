"""`moesaic plan`: its JSON against the schema and the worked example, its errors, its page."""

import json
import re
import shlex
import subprocess
from html.parser import HTMLParser

import jsonschema
import pytest
from conftest import BINARY, DEMO, ROOT

SCHEMA = json.loads((ROOT / "docs/plan.schema.json").read_text())
CONFIGS = ROOT / "tests/golden/configs"
UNITS = {"B": 1, "M": 1e6, "GB": 1e9, "GiB": 2**30, "ms": 1e-3}


def run(*arguments):
    return subprocess.run(
        [str(BINARY), "plan", *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def plan(*arguments, code=0):
    done = run(*arguments, "--json")
    assert done.returncode == code, done.stderr
    made = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(made)
    return made


def shipped():
    return [m["name"] for m in json.loads((ROOT / "data/models.json").read_text())["models"]]


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate({"model": {}})


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_model_is_planned(name):
    made = plan(name)
    assert made["model"]["name"] == name
    assert made["recommended"] is not None
    best = made["candidates"][made["recommended"]]
    assert best["fits"] and best["vendor"] == "nvidia"
    for candidate in made["candidates"]:
        assert candidate["devices"] == candidate["tp"] * candidate["ep"] * candidate["pp"]
        assert candidate["engine"] != "moesaic" and not candidate["engine_runs"]
        terms = dict(candidate["memory"])
        assert terms.pop("total") == sum(terms.values())
        if candidate["fits"]:
            assert candidate["kv_tokens"] >= candidate["max_model_len"] > 0
            assert candidate["decode_tokens_per_s"] > candidate["served_tokens_per_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([DEMO, "--instance", "host,g5.xlarge"], 0),
        ([CONFIGS / "llama-3.1-8b.json", "--kv-cache-dtype", "fp8"], 0),
        ([CONFIGS / "mistral-7b-v0.1.json", "--quantization", "awq", "--concurrency", "100"], 0),
        (["deepseek-ai/DeepSeek-V3", "--instance", "g5.xlarge"], 69),
        (["mixtral-8x7b", "--tp", "3"], 69),
        (["mixtral-8x7b", "--budget", "0.1"], 69),
        (["mixtral-8x7b", "--instance", "trn2.48xlarge"], 69),
        (["openai/gpt-oss-20b", "--engine", "neuron", "--utilization", "0.8"], 0),
        (["Qwen/Qwen1.5-MoE-A2.7B", "--dtype", "float32", "--ep", "4", "--tp", "1"], 0),
        (["Qwen/Qwen3-30B-A3B-AWQ", "--cloud", "all", "--engine", "vllm"], 0),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else " ".join(map(str, value))[-40:],
)
def test_odd_requests_still_match_the_schema(arguments, code):
    made = plan(*arguments, code=code)
    assert (made["recommended"] is None) == (code == 69)


def test_where_nothing_fits_it_is_said_first_and_on_the_error_stream():
    done = run("deepseek-ai/DeepSeek-V3", "--instance", "g5.xlarge")
    assert done.returncode == 69
    assert "nothing that was looked at holds this load" in done.stderr
    assert done.stdout.index("NOTHING") < done.stdout.index("instance  ")


def test_what_is_published_as_quantised_is_planned_so(tmp_path):
    config = json.loads((CONFIGS / "qwen3-30b-a3b.json").read_text())
    sizes = {}
    for bits in (None, 8, 4, 3):
        if bits:
            config["quantization_config"] = {
                "quant_method": "gptq",
                "bits": bits,
                "group_size": 128,
            }
        (tmp_path / "config.json").write_text(json.dumps(config))
        (candidate,) = plan(tmp_path, "--instance", "p5.4xlarge")["candidates"]
        sizes[bits] = candidate["memory"]["experts"]
    assert sizes[8] / sizes[None] == pytest.approx((8 + 20 / 128) / 16, rel=1e-3)
    assert sizes[4] / sizes[None] == pytest.approx((4 + 20 / 128) / 16, rel=1e-3)
    assert sizes[3] < sizes[4] < sizes[8]
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"quantization": {"quant_algo": "NVFP4", "group_size": 16}})
    )
    made = plan(tmp_path, "--instance", "p5.4xlarge")
    assert made["inputs"]["quantization"] == "nvfp4"
    assert made["model"]["published_quantization_found"].startswith("hf_quant_config.json:")
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "aqlm"}})
    )
    done = run(tmp_path, "--instance", "p5.4xlarge")
    assert done.returncode == 65
    assert 'quantization_config" of config.json: quant_method aqlm' in done.stderr
    assert run(tmp_path, "--instance", "p5.4xlarge", "--quantization", "int4").returncode == 0


def test_the_host_is_planned_as_the_server_would_allocate():
    made = plan(DEMO, "--instance", "host", "--concurrency", "4")
    (host,) = made["candidates"]
    assert host["fits"], host["reason"]
    assert host["decode_tokens_per_s"] is None and host["usd_per_hour"] is None
    weights = sum(host["memory"][k] for k in ("attention", "experts", "shared_experts"))
    weights += host["memory"]["embeddings"]
    assert abs(weights / made["weights_bytes"]["bf16"] - 1) < 0.02


def example():
    text = (ROOT / "docs/planning.md").read_text().split("## Worked example")[1]
    command = shlex.split(re.search(r"^moesaic plan (.*)$", text, re.M).group(1))
    rows = re.findall(r"^\| .*? \| .*? \| (\S+)(?: (\w+))? \| `([\w.]+)` \|$", text, re.M)
    return command, rows


def test_the_worked_example_is_what_the_program_says():
    command, rows = example()
    made = plan(*command)
    assert len(rows) >= 14
    for value, unit, key in rows:
        found = made
        for step in key.split("."):
            found = found[int(step)] if step.isdigit() else found[step]
        # "B" is billions beside a count of parameters and bytes beside a size.
        scale = 1e9 if unit == "B" and key.startswith("model.") and "." in value else None
        scale = scale or UNITS.get(unit, 1)
        decimals = len(value.partition(".")[2])
        assert abs(found / scale - float(value)) <= 0.51 * 10**-decimals, (key, found, value)


def test_the_formulas_worked_out_apart():
    command, _ = example()
    made = plan(*command)
    (candidate,) = made["candidates"]
    layers, hidden, width, experts, top, vocab, batch = 32, 4096, 14336, 8, 2, 32000, 32
    attention = layers * (2 * hidden * hidden + 2 * hidden * 1024)
    one = 3 * hidden * width
    rest = layers * (experts * hidden + 2 * hidden) + hidden
    total = attention + layers * experts * one + rest + 2 * vocab * hidden
    assert made["model"]["total_params"] == total
    assert made["model"]["active_params"] == total - layers * (experts - top) * one
    distinct = experts * (1 - (1 - top / experts) ** batch)
    read = 2 * (attention + layers * distinct * one + rest + vocab * hidden)
    read += batch * 192 * made["model"]["kv_bytes_per_token"]
    memory = read / (4.47e12 * 0.95)
    assert candidate["decode"]["memory_seconds"] == pytest.approx(memory, rel=1e-6)
    step = memory + layers * 70e-6 + batch * 18e-6
    assert candidate["decode_tokens_per_s"] == pytest.approx(batch / step, rel=1e-6)
    assert candidate["decode"]["ideal_tokens_per_s"] == pytest.approx(
        batch / (read / 4.47e12), rel=1e-6
    )


@pytest.mark.parametrize(
    ("quantization", "figures", "prefill"),
    [
        ("none", {1: 124, 8: 376, 32: 1300, 128: 4822, 256: 8103}, 20800),
        ("fp8", {1: 161, 8: 603, 32: 2181, 128: 7882, 256: 12563}, 35500),
    ],
)
@pytest.mark.parametrize("load", [["--prompt-tokens", "128", "--output-tokens", "128"], []])
def test_the_h200_fit_holds_what_it_was_fitted_to(quantization, figures, prefill, load):
    for sequences, measured in figures.items():
        made = plan(
            *("mistralai/Mixtral-8x7B-v0.1", "--instance", "p5en.48xlarge", *load),
            *("--concurrency", sequences, "--quantization", quantization),
        )
        (candidate,) = made["candidates"]
        assert candidate["devices"] == 1
        assert candidate["decode_tokens_per_s"] == pytest.approx(measured, rel=0.15)
        assert candidate["prefill_tokens_per_s"] == pytest.approx(prefill, rel=0.15)
        assert candidate["decode"]["ideal_tokens_per_s"] > candidate["decode_tokens_per_s"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["mixtral-8x9b"], 64, "nearest shipped model is mistralai/Mixtral-8x7B-v0.1"),
        (["mixtral-8x7b", "--instance", "p5.48xlrage"], 64, "nearest known one is p5.48xlarge"),
        (["mixtral-8x7b", "--budget", "0"], 64, "the cheapest"),
        (["mixtral-8x7b", "--context", "99999999999999999999"], 64, "nearest valid value is 32768"),
        (["mixtral-8x7b", "--context", "-5"], 64, "nearest valid value is 1"),
        (["mixtral-8x7b", "--context", "many"], 64, "expected a whole number"),
        (["mixtral-8x7b", "--context", "64K"], 64, "nearest valid value is 32768"),
        (["mixtral-8x7b", "--budget", "nan"], 64, "expected a number"),
        (["mixtral-8x7b", "--cloud", "azrue"], 64, "nearest known one is azure"),
        (["mixtral-8x7b", "--engine", "vlllm"], 64, "nearest known one is vllm"),
        ([], 64, "plan takes one MODEL"),
        (["mixtral-8x7b", "--hardware", "/no/such.yaml"], 66, "/no/such.yaml"),
        (["mixtral-8x7b", "--html", "/no/such/folder/p.html"], 66, "cannot open"),
    ],
)
def test_errors_name_the_remedy(arguments, code, said):
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("written", "tokens"), [("16k", 16000), ("16K", 16384), ("auto", 4096)])
def test_lengths_are_taken_as_serve_takes_them(written, tokens):
    made = plan("mixtral-8x7b", "--context", written, "--instance", "p5.48xlarge, p5en.48xlarge")
    assert made["inputs"]["context"] == tokens
    assert len(made["candidates"]) == 2


def test_own_hardware(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "accelerators:\n"
        "  - {name: Big, memory_gib: 200, bandwidth_gbps: 5000, bf16_tflops: 900, link_gbps: 400}\n"
        "instances:\n"
        "  - {name: rack, accelerator: Big, devices: 4, host_memory_gib: 1000, usd_per_hour: 12,\n"
        "     price_date: 2026-11, price_source: our contract}\n"
    )
    made = plan("mixtral-8x7b", "--hardware", file, "--instance", "rack")
    (candidate,) = made["candidates"]
    assert (candidate["devices"], candidate["usd_per_hour"]) == (1, 3.0)
    file.write_text("instances: [{name: x, accelerator: H100, devices: 1, colour: red}]\n")
    assert run("mixtral-8x7b", "--hardware", file).returncode == 65


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.attributes = {}, [], []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attributes
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_alone(tmp_path):
    file = tmp_path / "plan.html"
    done = run("mistralai/Mixtral-8x7B-v0.1", "--html", file)
    assert done.returncode == 0
    page = Page()
    page.feed(file.read_text())
    assert page.open == []
    assert page.tags["svg"] == 2 and page.tags["polyline"] >= 3 and page.tags["table"] == 1
    assert page.tags["rect"] > 60
    assert not {"script", "img", "link", "iframe"} & page.tags.keys()
    assert not [value for name, value in page.attributes if name in {"src", "href", "onload"}]


def test_inspect_and_serve_of_a_family_that_is_only_planned(tmp_path):
    config = next(
        m["config"]
        for m in json.loads((ROOT / "data/models.json").read_text())["models"]
        if m["name"] == "deepseek-ai/DeepSeek-V3"
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    inspected = subprocess.run(
        [str(BINARY), "inspect", str(tmp_path), "--json"], capture_output=True, text=True
    )
    assert json.loads(inspected.stdout)["total_params"] == 671026419200
    assert json.loads(inspected.stdout)["can_serve"] is False
    served = subprocess.run(
        [str(BINARY), "serve", str(tmp_path), "--load-format", "dummy"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert served.returncode == 65
    assert "planned and inspected but not run yet" in served.stderr + served.stdout
    dry = subprocess.run(
        [str(BINARY), "serve", "--dry-run", "deepseek-ai/DeepSeek-V3"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert dry.returncode == 0
    assert "A real start would refuse this model" in dry.stdout
