"""`serve --dry-run`: arguments as they stand in manifests, and what a real start says of them."""

import json
import os
import re
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from conftest import BINARY, DEMO, ROOT

MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"
CONFIGS = ROOT / "tests/golden/configs"
LATER = "For later; a real start refuses them with these lines:"
NO_EFFECT = "Without effect here:"


def run(*arguments, **environment):
    """A run of the program with only these variables set."""
    return subprocess.run(
        [str(BINARY), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def dry_run(*arguments, **environment):
    return run("serve", *arguments, "--dry-run", **environment)


def part(output, heading):
    """The settings under a heading, one a line, unwrapped."""
    lines = []
    inside = False
    for line in output.splitlines():
        if not line.startswith("  "):
            inside = line == heading
        elif inside and re.match(r"  (-|[A-Z][A-Z_]+=)", line):
            lines.append(line.strip())
        elif inside:
            lines[-1] += " " + line.strip()
    return lines


# Argument lists and environments as the containers get them. `later` is how each setting that a
# real start must refuse begins.
MANIFESTS = {
    "vllm, two GPUs": (
        ["--model", MIXTRAL, "--tensor-parallel-size", "2", "--dtype", "bfloat16"]
        + ["--max-model-len", "32768", "--gpu-memory-utilization", "0.92", "--port", "8000"]
        + ["--trust-remote-code", "--enable-chunked-prefill", "--disable-log-requests"]
        + ["--max-num-batched-tokens", "8192", "--swap-space", "4", "--served-model-name", "m"],
        {"HUGGING_FACE_HUB_TOKEN": "hf_secret", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"},
        [],
    ),
    "vllm, 8x22B on four GPUs under ray": (
        ["--model=mistralai/Mixtral-8x22B-Instruct-v0.1", "--tensor-parallel-size=4"]
        + ["--distributed-executor-backend=ray", "--worker-use-ray", "--max-num-seqs=64"]
        + ["--enable-prefix-caching", "--use-v2-block-manager", "--enforce-eager"]
        + ["--max-context-len-to-capture=8192", "--num-scheduler-steps=8", "--seed=0"],
        {"NCCL_DEBUG": "INFO", "VLLM_HOST_IP": "10.0.0.7"},
        [],
    ),
    "tgi": (
        [],
        {
            "MODEL_ID": MIXTRAL,
            "NUM_SHARD": "2",
            "SHARDED": "true",
            "MAX_INPUT_LENGTH": "4096",
            "MAX_TOTAL_TOKENS": "8192",
            "MAX_BATCH_PREFILL_TOKENS": "4096",
            "MAX_BATCH_TOTAL_TOKENS": "131072",
            "MAX_CONCURRENT_REQUESTS": "128",
            "WAITING_SERVED_RATIO": "1.2",
            "CUDA_GRAPHS": "1,2,4,8",
            "PORT": "80",
            "HOSTNAME": "tgi-7d4f9-x2x",
            "HF_TOKEN": "hf_secret",
            "HUGGINGFACE_HUB_CACHE": "/data",
            "USAGE_STATS": "off",
        },
        [],
    ),
    "tgi's flags": (
        ["--model-id", MIXTRAL, "--num-shard", "2", "--quantize", "bitsandbytes", "-p", "80"]
        + ["--max-input-tokens", "4096", "--max-total-tokens", "8192", "--hostname", "0.0.0.0"]
        + ["--max-batch-prefill-tokens", "4096", "--cuda-memory-fraction", "0.95"],
        {},
        ["--quantize bitsandbytes:"],
    ),
    "tgi with awq": (
        [],
        {
            "MODEL_ID": "TheBloke/mixtral-8x7b-v0.1-AWQ",
            "QUANTIZE": "awq",
            "NUM_SHARD": "1",
            "MAX_INPUT_TOKENS": "3072",
            "MAX_TOTAL_TOKENS": "4096",
            "SPECULATE": "0",
            "TRUST_REMOTE_CODE": "false",
        },
        [],
    ),
    "neuron": (
        ["--model", MIXTRAL, "--device", "neuron", "--tensor-parallel-size", "24"]
        + ["--max-num-seqs", "8", "--max-model-len", "4096", "--block-size", "128"]
        + ["--override-neuron-config", '{"on_device_generation": null}'],
        {
            "NEURON_RT_NUM_CORES": "24",
            "NEURON_CC_FLAGS": "-O1",
            "VLLM_NEURON_FRAMEWORK": "transformers-neuronx",
        },
        ["--device neuron:"],
    ),
    "neuron, tgi": (
        [],
        {
            "MODEL_ID": MIXTRAL,
            "HF_NUM_CORES": "24",
            "HF_AUTO_CAST_TYPE": "bf16",
            "HF_BATCH_SIZE": "4",
            "HF_SEQUENCE_LENGTH": "4096",
        },
        ["HF_NUM_CORES=24:"],
    ),
    "vllm, expert parallel with an fp8 cache": (
        ["Qwen/Qwen3-30B-A3B", "-tp", "2", "-dp", "4", "--enable-expert-parallel"]
        + ["--kv-cache-dtype", "fp8", "--enable-eplb", "--eplb-config", '{"window_size": 500}']
        + ["--all2all-backend", "deepep_low_latency", "--no-enable-prefix-caching"]
        + ["--reasoning-parser", "qwen3", "--tool-call-parser", "hermes", "-O3"]
        + ["--enable-auto-tool-choice", "--compilation-config.cudagraph_mode", "FULL"],
        {"VLLM_USE_V1": "1", "VLLM_LOGGING_LEVEL": "INFO", "CUDA_VISIBLE_DEVICES": "0,1"},
        ["-dp 4:", "--kv-cache-dtype fp8:", "--enable-eplb:"],
    ),
    "vllm, a draft model": (
        ["--model", MIXTRAL, "--speculative-model", "mistralai/Mistral-7B-v0.1"]
        + ["--num-speculative-tokens", "5", "--ngram-prompt-lookup-max", "4"]
        + ["--speculative-draft-tensor-parallel-size", "1"],
        {},
        ["--speculative-model mistralai/Mistral-7B-v0.1:", "--num-speculative-tokens 5:"],
    ),
    "vllm, a draft model as json": (
        [MIXTRAL, "--speculative-config", '{"method":"ngram","num_speculative_tokens":4}'],
        {},
        ["--speculative-config {"],
    ),
    "vllm, adapters": (
        ["--model", MIXTRAL, "--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"]
        + ["--max-cpu-loras", "12", "--max-num-seq", "1024", "--lora-modules", "a=/adapters/a"]
        + ["b=/adapters/b"],
        {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_PLUGINS": "lora_filesystem_resolver"},
        ["--enable-lora:", "--lora-modules a=", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True:"],
    ),
    "vllm, quantised, of several nodes": (
        ["serve-me/Mixtral-8x7B-GPTQ", "-q", "gptq_marlin", "--pipeline-parallel-size", "2"]
        + ["--nnodes", "2", "--node-rank", "0", "--master-addr", "10.0.0.1", "--load-format"]
        + ["runai_streamer", "--guided-decoding-backend", "outlines", "--cpu-offload-gb", "4"]
        + ["--ssl-keyfile", "/tls/key", "--ssl-certfile", "/tls/cert", "--uvicorn-log-level"]
        + ["warning", "--limit-mm-per-prompt", "image=2", "--kv-transfer-config"]
        + ['{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"}'],
        {"LWS_GROUP_SIZE": "2"},
        ["--pipeline-parallel-size 2:", "--nnodes 2:", "--cpu-offload-gb 4:"]
        + ["--load-format runai_streamer:", "--ssl-keyfile /tls/key:", "--kv-transfer-config {"]
        + ["--ssl-certfile /tls/cert:"],
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_accepted_and_refused_with_the_same_lines(name):
    arguments, environment, later = MANIFESTS[name]
    tried = dry_run(*arguments, **environment)
    assert tried.returncode == 0, tried.stderr
    assert max(map(len, tried.stdout.splitlines())) <= 80
    assert "hf_secret" not in tried.stdout + tried.stderr
    lines = part(tried.stdout, LATER)
    assert len(lines) == len(later), lines
    for start in later:
        assert any(line.startswith(start) for line in lines), (start, lines)
    started = run("serve", *arguments, **environment)
    # A real start that refuses nothing looks for the model, which is not here.
    assert started.returncode == (78 if later else 66), started.stderr
    if not later:
        return
    refusal = started.stderr[started.stderr.index("moesaic: ") + len("moesaic: ") :]
    assert sorted(refusal.strip().splitlines()) == sorted(lines)


def test_every_setting_has_its_line():
    arguments, environment, _ = MANIFESTS["tgi"]
    output = dry_run(*arguments, **environment).stdout
    shown = part(output, "Kept:") + part(output, NO_EFFECT) + part(output, LATER)
    names = {re.split("[=: ]", line)[0] for line in shown}
    # HOSTNAME is the pod's name in Kubernetes, so it is not read.
    assert names == set(environment) - {"HOSTNAME"}


def test_each_feature_that_comes_later_alone():
    """Every row of docs/flags.md in state later is taken by --dry-run and refused for real."""
    text = (ROOT / "docs/flags.md").read_text().replace("\\|", "¦")
    values = {"bool": [], "int": ["2"], "float": ["1.5"], "string": ["x"], "list": ["a=b"]}
    values["JSON"] = ['{"a": 1}']
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `--")]
    later = [row for row in rows if row[6].strip() == "later"]
    assert len(later) > 80
    for row in later:
        flag = row[1].split()[0].strip("`")
        choices = [choice for choice in row[4].strip().split("¦") if choice]
        value = values[row[2].strip()]
        if len(choices) > 1:
            value = [next(choice for choice in choices if choice != row[3].strip())]
        extra = ["--nnodes", "4"] if flag == "--node-rank" else []
        tried = dry_run(MIXTRAL, flag, *value, *extra)
        assert tried.returncode == 0, (flag, tried.stderr)
        lines = part(tried.stdout, LATER)
        assert any(line.startswith(flag) for line in lines), (flag, tried.stdout)
        started = run("serve", MIXTRAL, flag, *value, *extra)
        assert started.returncode == 78, (flag, started.stderr)
        assert all(line in started.stderr for line in lines), (flag, started.stderr)


def test_plans_from_a_folder_and_from_a_config_alone():
    output = dry_run(DEMO, "--max-num-seqs", "4").stdout
    assert re.search(r"^  weights +20\.14 MiB$", output, re.M), output
    assert re.search(r"^  the KV cache holds \d+ tokens in \d+ blocks$", output, re.M)
    output = dry_run(CONFIGS / "qwen3-0.6b.json", "--max-model-len", "1k").stdout
    assert re.search(r"^  weights +1\.\d+ GiB$", output, re.M), output
    # A machine too small for the model is no fault of the manifest.
    large = dry_run(CONFIGS / "mixtral-8x22b.json")
    assert large.returncode == 0
    assert "does not fit" in large.stdout


def test_needs_no_weights(tmp_path):
    (tmp_path / "config.json").write_text((DEMO / "config.json").read_text())
    assert dry_run(tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_takes_a_folder_that_only_the_pod_has():
    result = dry_run("/models/none", "--tensor-parallel-size", "2")
    assert result.returncode == 0, result.stderr
    assert "no folder of that name here" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([CONFIGS / "mixtral-8x7b.json", "--max-model-len", "65536"], "32768 positions"),
        ([CONFIGS / "mixtral-8x7b.json", "-tp", "3"], "32 attention heads"),
        ([CONFIGS / "qwen2.5-0.5b.json", "-tp", "7"], "KV heads"),
        ([CONFIGS / "mixtral-8x7b.json", "-pp", "33"], "32 layers"),
        ([CONFIGS / "qwen3-0.6b.json", "-ep"], "no experts"),
        ([MIXTRAL, "--max-input-tokens", "9", "--max-total-tokens", "8"], "no room"),
        ([MIXTRAL, "--nnodes", "2", "--node-rank", "2"], "the last one is 1"),
        ([DEMO, "--rope-scaling", "linear"], "--rope-factor"),
    ],
)
def test_contradictions_end_with_78(arguments, says):
    result = dry_run(*arguments)
    assert result.returncode == 78, result.stdout + result.stderr
    assert says in result.stderr


def test_contradictions_of_a_real_start_are_the_same():
    for arguments in (
        [CONFIGS / "mixtral-8x7b.json", "--max-model-len", "65536"],
        [DEMO, "--max-input-tokens", "9", "--max-total-tokens", "8"],
    ):
        arguments += ["--load-format", "dummy"]
        tried, started = dry_run(*arguments), run("serve", *arguments)
        assert tried.returncode == started.returncode == 78
        assert tried.stderr.splitlines()[-1] == started.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([MIXTRAL, "--tensor-paralel-size", "2"], 64, "--tensor-parallel-size"),
        ([MIXTRAL, "--kv-cache-dtype", "fp8_e4m2"], 64, "fp8_e4m3"),
        ([MIXTRAL, "--port="], 64, "--port"),
        ([MIXTRAL, "--port", "99999999999999999999"], 64, "whole number"),
        ([MIXTRAL, "--max-model-len", "1e400"], 64, "whole number"),
        ([MIXTRAL, "--max-model-len", "9223372036854775807"], 64, "-1..1G"),
        ([MIXTRAL, "--gpu-memory-utilization", "inf"], 64, "number"),
        ([MIXTRAL, "--gpu-memory-utilization", "-0.5"], 64, "0.01..1"),
        ([MIXTRAL, "--max-num-seqs", "-1"], 64, "1..65536"),
        ([MIXTRAL, "--speculative-config", "{'method': 'ngram'}"], 64, "not JSON"),
        ([MIXTRAL, "--speculative-config", "[" * 50000], 64, "not JSON"),
        ([MIXTRAL, "--tensor-parallel-size"], 64, "needs a value"),
        ([MIXTRAL, "other/model"], 64, "one model"),
        (["a/b", "--model", "c/d"], 64, "given twice"),
        ([], 64, "which model"),
        (["models/none/here"], 66, "models/none/here"),
        (["../none"], 66, "none"),
        (["x" * 5000], 66, "no folder"),
    ],
)
def test_wrong_arguments(arguments, code, says):
    result = dry_run(*arguments)
    assert result.returncode == code, result.stdout + result.stderr
    assert says in result.stderr
    assert "internal" not in result.stderr


def test_service_links_are_not_settings():
    links = {
        "VLLM_PORT": "tcp://10.0.0.1:8000",
        "VLLM_PORT_8000_TCP_ADDR": "10.0.0.1",
        "VLLM_SERVICE_HOST": "10.0.0.1",
        "VLLM_SERVICE_PORT": "8000",
        "PORT": "tcp://10.0.0.1:80",
        "PROMETHEUS_PORT": "tcp://10.0.0.2:9090",
        "MASTER_PORT": "udp://10.0.0.3:1",
    }
    result = dry_run(MIXTRAL, **links)
    assert result.returncode == 0, result.stderr
    for name in links:
        assert name not in result.stdout
    assert dry_run(MIXTRAL, "--port", "tcp://10.0.0.1:80").returncode == 64


def test_empty_values():
    names = ["MAX_TOTAL_TOKENS", "QUANTIZE", "NUM_SHARD", "PORT", "DTYPE", "SHARDED"]
    result = dry_run(MIXTRAL, **{name: "" for name in names})
    assert result.returncode == 0, result.stderr
    assert not any(name in result.stdout for name in names)
    # An empty flag unsets what may be unset, and wins over the environment.
    result = dry_run(MIXTRAL, "--quantization=", "--speculative-config", "None", QUANTIZE="awq")
    assert result.returncode == 0, result.stderr
    assert part(result.stdout, LATER) == []


def test_the_last_of_two_counts_and_says_so():
    result = dry_run(MIXTRAL, "-tp", "2", "--tensor-parallel-size", "1", NUM_SHARD="8")
    assert result.returncode == 0
    assert "--tensor-parallel-size 1" in part(result.stdout, "Kept:")
    assert part(result.stdout, LATER) == []
    assert "given twice" in result.stderr


def test_variables_that_nothing_reads_are_named():
    result = dry_run(MIXTRAL, VLLM_USE_V1="1", NCCL_SOCKET_IFNAME="eth0")
    assert part(result.stdout.replace("  NCCL", "  -NCCL"), "Variables that nothing here reads:")
    assert "NCCL_SOCKET_IFNAME VLLM_USE_V1" in result.stdout


def test_terminal_control_codes_are_not_echoed():
    result = dry_run(MIXTRAL, "--served-model-name", "\x1b[31mred\x07")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout and "\x07" not in result.stdout


def test_config_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data_parallel_size: 2\nmax-num-seqs: 7\n")
    result = dry_run(MIXTRAL, "--config", file)
    assert result.returncode == 0, result.stderr
    started = run("serve", MIXTRAL, "--config", file)
    assert started.returncode == 78
    assert "data-parallel-size in" in started.stderr
    file.write_text("served-model-name: [[[a]]]\n")
    assert dry_run(MIXTRAL, "--config", file).returncode == 64


def post(served, body):
    request = urllib.request.Request(
        served.url + "/v1/completions",
        json.dumps({"model": "demo", **body}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_limits_that_tgi_manifests_bring(serve):
    served = serve(
        *(DEMO, "--served-model-name", "demo", "--max-input-tokens", "4"),
        *("--max-concurrent-requests", "1", "--max-batch-total-tokens", "8001"),
    )
    assert post(served, {"prompt": [5, 6, 7, 8], "max_tokens": 2})[0] == 200
    status, body = post(served, {"prompt": [5, 6, 7, 8, 9], "max_tokens": 2})
    assert status == 400
    assert "--max-input-tokens is 4" in body["error"]["message"]
    assert 'num_gpu_blocks="501"' in served.get("/metrics")[1]
    # One request holds the only place; the next is turned away at once.
    first = threading.Thread(
        target=post,
        args=(served, {"prompt": [5], "max_tokens": 1500, "n": 4, "ignore_eos": True}),
    )
    first.start()
    assert served.wait_for(lambda: served.metric("vllm:num_requests_running") == 1, 10)
    assert post(served, {"prompt": [5], "max_tokens": 2})[0] == 503
    first.join()
    assert post(served, {"prompt": [5], "max_tokens": 2})[0] == 200
