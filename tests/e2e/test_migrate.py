"""`migrate`: nothing of a Deployment as people publish them is lost unsaid, other servers' fixtures
go there and back, hostile files end with 65."""

import os
import re
import resource

import pytest
import yaml
from conftest import BINARY, ROOT
from manifests import check, container, objects_in, references, run
from migrating import MODEL, Moved, pod

FIXTURES = ROOT / "tests/deploy/fixtures"

CONFIG = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {MODEL_ID: Qwen/Qwen3-30B-A3B, NUM_SHARD: '4', len: '4096'}
"""


def test_config_maps_of_the_file_are_read(tmp_path):
    env = """\
    args: [--max-model-len, $(LEN), --served-model-name, $(NAME)]
    envFrom: [{configMapRef: {name: c}}, {secretRef: {name: s}}]
    env:
    - {name: LEN, valueFrom: {configMapKeyRef: {name: c, key: len}}}
    - {name: ORG, value: acme}
    - {name: NAME, value: $(ORG)/qwen}
    """
    moved = Moved(tmp_path, pod(env), CONFIG)
    assert moved.args.startswith("serve Qwen/Qwen3-30B-A3B ")
    assert "--tensor-parallel-size 4" in moved.args and "--max-model-len 4096" in moved.args
    assert "--served-model-name=acme/qwen" in moved.args
    assert moved.server["envFrom"] == [{"secretRef": {"name": "s"}}]
    file = tmp_path / "alone.yaml"
    file.write_text(pod(env))
    result = run("migrate", file, "-o", tmp_path / "none")
    assert result.returncode == 65 and "ConfigMap" in result.stderr


SCRIPTS = {
    "words of a variable": "EXTRA='--seed 7 --max-num-seqs 5'; vllm serve org/m $EXTRA",
    "set by the script": "export N=${M:-5}; exec vllm serve org/m --max-num-seqs ${N}",
    "launchers": "numactl -N 0 uv run vllm serve org/m --max-num-seqs 5",
    "an empty variable": "E=; vllm serve org/m $E --max-num-seqs 5",
    "an unknown variable": "vllm serve org/m --max-num-seqs 5 $WHO_KNOWS",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_mean_what_a_shell_makes_of_them(name, tmp_path):
    moved = Moved(tmp_path, pod(f'command: [sh, -c, "{SCRIPTS[name]}"]\n'))
    assert moved.args.startswith("serve org/m ")
    assert "--max-num-seqs 5" in moved.args
    result = run(*moved.server["args"], "--dry-run")
    assert result.returncode == 0, result.stderr
    assert ("WHO_KNOWS" in moved.report) == (name == "an unknown variable")


def test_commands_beside_the_server_are_named(tmp_path):
    moved = Moved(tmp_path, pod("command: [sh, -c, 'pip install a==1 && vllm serve org/m']\n"))
    assert "pip install a==1" in moved.report


def test_secrets_in_arguments_and_variables(tmp_path):
    moved = Moved(
        tmp_path,
        pod(
            """\
            args: [org/m, --hf-token, hf_hidden]
            env:
            - {name: AWS_SECRET_ACCESS_KEY, value: hidden-too}
            - {name: HF_HOME, value: /elsewhere}
            """
        ),
    )
    assert "hidden" not in str(moved.objects).replace("(hidden)", "")
    assert moved.env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "hf-token"
    key = moved.env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert key == {"name": "x-environment", "key": "AWS_SECRET_ACCESS_KEY"}
    assert "HF_HOME=/elsewhere -> on the cache volume" in moved.report


def test_names_that_kubernetes_allows(tmp_path):
    token = "env: [{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: 1.hub, key: k}}}]\n"
    moved = Moved(tmp_path, pod(MODEL + token).replace("name: x,", "name: x, namespace: 3scale,"))
    assert moved.env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["name"] == "1.hub"
    assert moved.objects["deployment.yaml"]["metadata"]["namespace"] == "3scale"


def test_two_namespaces_may_use_one_name(tmp_path):
    file = tmp_path / "in.yaml"
    file.write_text(pod(MODEL) + "---\n" + pod(MODEL).replace("name: x,", "name: x, namespace: b,"))
    assert run("migrate", file, "-o", tmp_path / "out").returncode == 0
    assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == ["x", "x-2"]


def chain(first, step, reference):
    """`first`, then 29 times `step`, each naming the one before it ten times."""
    return first + "".join(step.format(i, reference.format(i - 1) * 10) for i in range(1, 30))


ENVIRONMENT = chain("{name: A0, value: ten}", ", {{name: A{}, value: '{}'}}", "$(A{})")
SCRIPT = chain("A0=ten", "; A{}={}", "$A{}")
EXPANSIONS = {
    "variables": f"env: [{ENVIRONMENT}]\n",
    "a script": f"command: [sh, -c, '{SCRIPT}; vllm serve $A29']\n",
    "arguments": "env: [{name: A, value: '" + "a" * 900_000 + "'}]\n"
    "args: [" + ", ".join(["$(A)$(A)"] * 900) + "]\n",
    "a deep substitution": "command: [sh, -c, '" + "$(" * 400_000 + "']\n",
    "launchers": "command: [" + "uv, " * 90_000 + "x]\n",
}


@pytest.mark.parametrize("name", EXPANSIONS)
def test_what_variables_expand_to_is_bounded(name, tmp_path):
    file = tmp_path / "hostile.yaml"
    file.write_text(pod(EXPANSIONS[name]))
    result = bounded("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65, result.stderr
    assert f"{file}: line " in result.stderr


def servers_of(file):
    """The containers of a fixture that serve, as their own YAML has them."""
    for body in yaml.safe_load_all(file.read_text()):
        for item in body.get("items", [body]):
            if item["kind"] == "Deployment":
                for entry in item["spec"]["template"]["spec"]["containers"]:
                    if "log" not in entry["name"]:
                        yield entry


SHELL = [
    "mistralai/Mixtral-8x22B-Instruct-v0.1",
    *("--tensor-parallel-size", "4", "--distributed-executor-backend", "ray"),
    *("--max-model-len", "32768", "--max-num-seqs", "64", "--kv-cache-dtype", "fp8"),
    *("--enable-prefix-caching", "--speculative-config"),
    '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}',
    *("--served-model-name", "mixtral-8x22b", "mixtral", "--port", "8080"),
]
# Per fixture: pairs that must stand in the new arguments.
MIGRATED = {
    "vllm-two-gpus": ["--tensor-parallel-size 2", "--max-model-len 16384", "--dtype bfloat16"]
    + ["--gpu-memory-utilization 0.90", "--max-num-batched-tokens 8192"],
    "vllm-8x22b-four-gpus": ["--tensor-parallel-size 4", "--kv-cache-dtype fp8", "--port 8080"]
    + ["--served-model-name=mixtral-8x22b,mixtral", "--max-num-seqs 64", "--speculative-config {"],
    "tgi": ["--tensor-parallel-size 4", "--max-model-len 8192", "--max-input-tokens 6144"]
    + ["--max-concurrent-requests 256", "--max-batch-total-tokens 262144", "--dtype bfloat16"],
    "tgi-awq": ["--quantization awq", "--gpu-memory-utilization 0.95", "--port 8080"]
    + ["--max-num-batched-tokens 4096", "--max-model-len 4096"],
    "neuron": ["--backend neuron", "--tensor-parallel-size 24", "--block-size 128"],
    "vllm-expert-parallel": ["--data-parallel-size 8", "--enable-expert-parallel"]
    + ["--enable-eplb", "--max-num-seqs 512", "--no-enable-prefix-caching", "--log-level INFO"],
}


def literal_environment(entry):
    return {e["name"]: e["value"] for e in entry.get("env", []) if "value" in e}


@pytest.mark.parametrize("name", MIGRATED)
def test_fixture_goes_there_and_back(name, tmp_path):
    file = FIXTURES / f"{name}.yaml"
    (original,) = servers_of(file)
    words = [*original.get("command", []), *original.get("args", [])]
    if words[:1] == ["/bin/sh"]:
        words = SHELL
    elif words[:2] == ["python3", "-m"]:
        words = words[3:]
    elif words[:2] == ["vllm", "serve"]:
        words = words[2:]
    before = run("serve", *words, "--dry-run", environment=literal_environment(original))
    assert before.returncode == 0, before.stderr

    result = run("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    objects = objects_in(tmp_path / "out")
    check(objects)
    references(objects)
    server = container(objects)
    line = " ".join(server["args"])
    for pair in MIGRATED[name]:
        assert pair in line
    after = run(*server["args"], "--dry-run", environment=literal_environment(server))
    assert after.returncode == 0, after.stderr
    # Nothing without effect is carried on, and nothing that works is lost on the way.
    assert "Without effect here:" not in after.stdout
    # What comes later is refused here as there, and the cards are named here for the first time.
    refused = re.compile(r"A real start would refuse (\d+)")
    was, now = (sum(map(int, refused.findall(run.stdout))) for run in (before, after))
    several = re.search(r"--backend cuda .*--tensor-parallel-size (?!1\b)", line)
    assert now == was + (several is not None)
    # Every setting of the original is accounted for.
    report = re.sub(r"\s+", " ", result.stdout)
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0].replace("_", "-") in report, word
    for entry in original.get("env", []):
        assert entry["name"] in report or entry["name"] in ("MODEL", "GPUS"), entry["name"]


def test_what_stands_around_the_server_is_kept(tmp_path):
    assert run("migrate", FIXTURES / "vllm-two-gpus.yaml", "-o", tmp_path).returncode == 0
    objects = objects_in(tmp_path)
    deployment = objects["deployment.yaml"]
    assert deployment["spec"]["selector"]["matchLabels"] == {"app": "mixtral"}
    assert objects["service.yaml"]["metadata"]["name"] == "mixtral-api"
    assert objects["service.yaml"]["spec"]["ports"] == [{"port": 8000, "targetPort": "http"}]
    assert objects["cache.yaml"]["spec"]["storageClassName"] == "efs-sc"
    server = container(objects)
    token = next(entry for entry in server["env"] if entry["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"]["name"] == "hub"
    assert token["valueFrom"]["secretKeyRef"]["key"] == "HF_TOKEN"
    assert server["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert {"name": "cache", "mountPath": "/models"} in server["volumeMounts"]
    assert run("migrate", FIXTURES / "vllm-8x22b-four-gpus.yaml", "-o", tmp_path).returncode == 0
    objects = objects_in(tmp_path)
    assert objects["autoscaler.yaml"]["spec"]["maxReplicas"] == 3
    assert "cache.yaml" not in objects
    spec = objects["deployment.yaml"]["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "models"
    assert {"name": "template", "configMap": {"name": "chat-template"}} in spec["volumes"]


def test_secrets_are_not_copied(tmp_path):
    result = run("migrate", FIXTURES / "tgi-awq.yaml", "-o", tmp_path)
    text = result.stdout + result.stderr + "".join(f.read_text() for f in tmp_path.iterdir())
    assert "hf_this_should_have_been_a_secret" not in text
    assert "Secret hf-token" in result.stdout
    manifest = tmp_path / "in.yml"
    manifest.write_text(pod("args: [org/m, --api-key, sk-hidden]\n"))
    result = run("migrate", manifest, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    text = result.stdout + "".join(f.read_text() for f in (tmp_path / "out").iterdir())
    assert "sk-hidden" not in text
    env = container(objects_in(tmp_path / "out"))["env"]
    key = next(entry for entry in env if entry["name"] == "VLLM_API_KEY")
    assert key["valueFrom"]["secretKeyRef"]["name"] == "x-api-key"


def test_what_is_not_understood_is_listed(tmp_path):
    manifest = tmp_path / "in.yml"
    args = "org/m, --frobnicate, '7', --max-model-len, many, --max-num-seqs, '9', --config, /c.yaml"
    manifest.write_text(pod(f"args: [{args}]\n"))
    result = run("migrate", manifest, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    part = result.stdout.split("Settings not understood, left out:")[1].split("\n\n")[0]
    for word in ("--frobnicate", "--max-model-len", "--config /c.yaml"):
        assert word in part
    args = container(objects_in(tmp_path / "out"))["args"]
    assert args[args.index("--max-num-seqs") + 1] == "9"
    assert "--frobnicate" not in args and "--config" not in args


def test_several_servers_get_a_folder_each(tmp_path):
    manifest = tmp_path / "in.yml"
    one = pod("args: [org/m]\n")
    manifest.write_text(one + "---\n" + one.replace("name: x", "name: y"))
    result = run("migrate", manifest, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == ["x", "y"]
    check(objects_in(tmp_path / "out/y"))


def laughs():
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for i in range(1, 30):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join(lines).encode()


HOSTILE = {
    "billion laughs": laughs(),
    "deep": b"[" * 500000 + b"]" * 500000,
    "deep maps": b"{a: " * 400000,
    "deep lists": b"- " * 900000,
    "keys": b"? " * 900000,
    "binary": bytes(range(256)) * 4000,
    "an elf": b"\x7fELF" + b"\0" * 1000,
    "utf-16": "kind: Deployment\n".encode("utf-16"),
    "no kind": b"a: 1\n",
    "a list": b"- a\n",
    "empty": b"",
    "only a service": b"kind: Service\nmetadata: {name: s}\n",
    "no model": pod("args: [--port, '8000']\n").encode(),
    "many words": pod("args: [" + "a, " * 100000 + "]\n").encode(),
    "wrong types": b"kind: Deployment\nspec: {template: [1]}\n",
    "truncated": (FIXTURES / "vllm-two-gpus.yaml").read_bytes()[:1500] + b"\n  - [",
    "twice": b"kind: Deployment\nkind: Pod\n",
    "an unknown alias": b"a: *b\n",
    "itself": b"a: &a [*a]\n",
}


def bounded(*arguments):
    """A run that may take a gigabyte of address space, and 20 seconds."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    bare = "asan" not in os.environ.get("MOESAIC_BINARY", "") and "sanitize" not in str(BINARY)
    return run(*arguments, preexec_fn=limit if bare else None)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_ends_with_65(name, tmp_path):
    file = tmp_path / "hostile.yaml"
    file.write_bytes(HOSTILE[name])
    result = bounded("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65, result.stdout + result.stderr
    assert f"{file}: " in result.stderr and "line " in result.stderr
    assert len(result.stderr) < 2000
    assert not (tmp_path / "out").exists()


def test_a_file_of_100_megabytes_is_not_read(tmp_path):
    file = tmp_path / "large.yaml"
    with file.open("wb") as stream:
        stream.truncate(100_000_000)
    result = bounded("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65
    assert "2097152" in result.stderr
    assert bounded("migrate", tmp_path / "none.yaml", "-o", tmp_path / "out").returncode == 66
    assert bounded("migrate", tmp_path, "-o", tmp_path / "out").returncode == 66


def test_every_beginning_of_a_manifest_ends_cleanly(tmp_path):
    text = (FIXTURES / "vllm-expert-parallel.yaml").read_bytes()
    file = tmp_path / "cut.yaml"
    codes = set()
    for length in range(0, len(text), 97):
        file.write_bytes(text[:length])
        result = bounded("migrate", file, "-o", tmp_path / "out")
        assert result.returncode in (0, 65), (length, result.stderr)
        codes.add(result.returncode)
    assert codes == {0, 65}
