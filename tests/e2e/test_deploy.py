"""`deploy`: manifests against Kubernetes' schemas, alerts against made-up series and a real
Prometheus."""

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from conftest import BINARY, DEMO, ROOT
from manifests import check, container, objects_in, references, run

MIXTRAL = "mistralai/Mixtral-8x7B-Instruct-v0.1"


def deploy(folder, *arguments):
    """Deploys and returns the objects by file name."""
    result = run("deploy", "-o", folder, *arguments)
    assert result.returncode == 0, result.stderr
    return objects_in(folder)


def rules_file(objects, path):
    path.write_text(yaml.safe_dump({"groups": objects["rules.yaml"]["spec"]["groups"]}))
    return path


def dashboard(objects):
    (text,) = objects["dashboard.yaml"]["data"].values()
    return json.loads(text)


DEPLOYMENTS = {
    "moesaic": (MIXTRAL, "--instance", "p4de.24xlarge", "--namespace", "llm"),
    "vllm": (MIXTRAL, "--instance", "p4de.24xlarge", "--engine", "vllm"),
    "tgi": (MIXTRAL, "--instance", "p5.48xlarge", "--engine", "tgi", "--hostname", "llm.example"),
    "neuron": (MIXTRAL, "--instance", "trn2.48xlarge", "--engine", "neuron"),
    "two nodes": ("deepseek-ai/DeepSeek-V3", "--instance", "p5.48xlarge", "--engine", "vllm"),
    "two nodes of ours": ("deepseek-ai/DeepSeek-V3", "--instance", "p5.48xlarge"),
    "processors": ("/models/yes", "--max-replicas", "1", "--port", "9000", "--path-prefix", "/"),
    "all flags": (
        *(MIXTRAL, "--instance", "p5en.48xlarge", "--engine", "vllm", "--name", "null"),
        *("--namespace", "on", "--image", "registry:5000/x@sha256:" + "0" * 64, "--replicas", "3"),
        *("--max-replicas", "9", "--kv-cache-dtype", "fp8", "--max-model-len", "8192"),
        *("--max-num-seqs", "64", "--gateway", "g", "--gateway-namespace", "edge"),
        *("--monitoring-namespace", "mon", "--prometheus-release", "true", "--hub-secret", "s"),
        *("--storage-class", "fsx", "--shm-gib", "8", "--cache-gib", "900", "--cpus", "20"),
        *("--memory-gib", "200", "--load-seconds", "77", "--drain-seconds", "0"),
        *("--served-model-name", "yes", "--queue-target", "2", "--", "--seed", "7"),
    ),
}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_manifests_are_valid_and_fit_together(name, tmp_path):
    objects = deploy(tmp_path / "out", *DEPLOYMENTS[name])
    check(objects)
    references(objects)
    group = "two nodes" in name
    assert ("leaderworkerset.yaml" in objects) == group
    assert ("deployment.yaml" in objects) != group
    # What Prometheus itself says of the rules.
    subprocess.run(["promtool", "check", "rules", rules_file(objects, tmp_path / "r")], check=True)


def test_the_plan_decides(tmp_path):
    objects = deploy(tmp_path / "out", *DEPLOYMENTS["vllm"])
    server = container(objects)
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "2"
    args = server["args"]
    assert args[args.index("--tensor-parallel-size") + 1] == "2"
    spec = objects["deployment.yaml"]["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"node.kubernetes.io/instance-type": "p4de.24xlarge"}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2048Mi"}
    token = next(entry for entry in server["env"] if entry["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"]["name"] == "hf-token"
    assert not any(body["kind"] == "Secret" for body in objects.values())
    # The checkpoint of 93.4 GB fits twice.
    storage = objects["cache.yaml"]["spec"]["resources"]["requests"]["storage"]
    assert int(storage.removesuffix("Gi")) * 2**30 > 2 * 93.4e9
    slow = deploy(tmp_path / "slow", *DEPLOYMENTS["vllm"], "--load-seconds", "3000")
    probes = [container(o)["startupProbe"]["failureThreshold"] for o in (objects, slow)]
    assert probes[1] > probes[0] + 400
    rewrite = objects["httproute.yaml"]["spec"]["rules"][0]
    assert rewrite["matches"][0]["path"]["value"] == "/mixtral-8x7b-instruct-v0-1"
    assert rewrite["filters"][0]["urlRewrite"]["path"]["replacePrefixMatch"] == "/"
    scaled = objects["autoscaler.yaml"]["spec"]["metrics"][0]
    assert scaled["type"] == "Pods"
    assert scaled["pods"]["metric"]["name"] == "vllm:num_requests_waiting"


def test_names_that_yaml_would_misread_stay_text(tmp_path):
    objects = deploy(tmp_path / "out", *DEPLOYMENTS["all flags"])
    assert objects["deployment.yaml"]["metadata"]["name"] == "null"
    assert objects["deployment.yaml"]["metadata"]["namespace"] == "on"
    assert objects["rules.yaml"]["metadata"]["labels"]["release"] == "true"
    args = container(objects)["args"]
    assert args[args.index("--served-model-name") + 1] == "yes"
    assert args[-2:] == ["--seed", "7"]


@pytest.mark.parametrize("name", ["moesaic", "processors", "two nodes of ours"])
def test_our_args_are_accepted_by_a_dry_run(name, tmp_path):
    objects = deploy(tmp_path / "out", *DEPLOYMENTS[name])
    args = container(objects)["args"]
    if name == "processors":
        args[1] = str(DEMO)
    filled = {"$(LWS_GROUP_SIZE)": "2", "$(LWS_WORKER_INDEX)": "0", "$(LWS_LEADER_ADDRESS)": "x"}
    result = run(*[filled.get(arg, arg) for arg in args], "--dry-run")
    assert result.returncode == 0, result.stderr


def test_output_says_what_to_do(tmp_path):
    result = run("deploy", *DEPLOYMENTS["vllm"], "-o", "out", cwd=tmp_path)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "kubectl apply -k out" in result.stdout
    assert "kubectl create secret generic hf-token" in result.stdout
    assert "--without httproute,servicemonitor,rules" in result.stdout


def test_what_cannot_start_today_is_not_applied(tmp_path):
    """What the server cannot do yet is said before a pod says it, all of it in one place."""
    result = run("deploy", *DEPLOYMENTS["moesaic"], "-o", "out", cwd=tmp_path)
    assert max(map(len, result.stdout.splitlines())) <= 80
    block = re.sub(r"\s+", " ", result.stdout.split("It cannot start today:")[1])
    assert "--tensor-parallel-size 2: Ranks on several CUDA devices come later." in block
    assert "does not download yet" in block
    assert "kubectl apply" not in result.stdout
    assert (tmp_path / "out/deployment.yaml").exists()


def test_ours_runs_on_one_card(tmp_path):
    """The image with CUDA, its resource, the backend by name; nothing of it has to wait."""
    model = ("/models/m", "--model-config", "Qwen/Qwen3-30B-A3B", "--instance", "p5.4xlarge")
    result = run("deploy", *model, "--name", "m", "-o", "out", cwd=tmp_path)
    assert result.returncode == 0 and "cannot start" not in result.stdout, result.stdout
    assert "kubectl apply -k out" in result.stdout
    server = container(objects_in(tmp_path / "out"))
    assert server["image"] == "moesaic:0.1.0-cuda"
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert value_of(server["args"], "--backend") == "cuda"
    dry = run(*server["args"], "--dry-run")
    assert dry.returncode == 0 and "would refuse" not in dry.stdout, dry.stdout
    processors = container(deploy(tmp_path / "cpu", *DEPLOYMENTS["processors"]))
    assert processors["image"] == "moesaic:0.1.0" and "--backend" not in processors["args"]


def pod_of(objects):
    return objects["deployment.yaml"]["spec"]["template"]["spec"]


def value_of(args, flag):
    return args[args.index(flag) + 1]


def test_tgi_starts_as_the_user_its_image_is_made_for(tmp_path):
    """Its Python lies in root's home."""
    security = container(deploy(tmp_path / "out", *DEPLOYMENTS["tgi"]))["securityContext"]
    assert security["runAsUser"] == 0 and security["runAsNonRoot"] is False
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    other = container(deploy(tmp_path / "other", *DEPLOYMENTS["vllm"]))["securityContext"]
    assert other["runAsUser"] == 10001 and other["runAsNonRoot"] is True


@pytest.mark.parametrize(
    ("flags", "count"), [((), "32"), (("--efa", "31"), "31"), (("--efa", "0"), None)]
)
def test_several_nodes_have_their_fabric(flags, count, tmp_path):
    objects = deploy(tmp_path / "out", *DEPLOYMENTS["two nodes"], *flags)
    group = objects["leaderworkerset.yaml"]["spec"]["leaderWorkerTemplate"]
    for template in (group["leaderTemplate"], group["workerTemplate"]):
        amounts = template["spec"]["containers"][0]["resources"]
        for part in ("requests", "limits"):
            assert amounts[part].get("vpc.amazonaws.com/efa") == count
    alone = container(deploy(tmp_path / "alone", *DEPLOYMENTS["vllm"]))
    assert "vpc.amazonaws.com/efa" not in alone["resources"]["limits"]


OLMOE = "allenai/OLMoE-1B-7B-0924"


@pytest.mark.parametrize("concurrency", [1, 64, 200, 500])
def test_chips_of_trainium_are_those_dealt_out(concurrency, tmp_path):
    objects = deploy(
        tmp_path / "out",
        *(OLMOE, "--instance", "trn1.32xlarge", "--engine", "neuron"),
        *("--concurrency", str(concurrency)),
    )
    server = container(objects)
    chips = int(server["resources"]["limits"]["aws.amazon.com/neuron"])
    assert chips in (1, 4, 8, 16)
    assert value_of(server["args"], "--tensor-parallel-size") == str(2 * chips)
    # Part of a node is chosen by the scheduler that knows which chips lie side by side.
    assert (pod_of(objects).get("schedulerName") == "my-scheduler") == (1 < chips < 16)


def test_older_chips_have_the_image_made_for_them(tmp_path):
    flags = ("--engine", "neuron", "--instance")
    old = container(deploy(tmp_path / "old", OLMOE, *flags, "trn1.32xlarge"))["image"]
    new = container(deploy(tmp_path / "new", OLMOE, *flags, "trn2.48xlarge"))["image"]
    assert ":0.16." in old and old != new


def test_ranks_that_trainium_does_not_deal_out_are_refused(tmp_path):
    arguments = (OLMOE, "--instance", "trn1.32xlarge", "--engine", "neuron", "--tp", "2")
    result = run("deploy", *arguments, "-o", tmp_path / "out")
    assert result.returncode == 78, result.stderr
    assert "1, 4, 8 or 16" in result.stderr


def test_a_first_start_on_neuron_has_time_to_compile(tmp_path):
    probe = container(deploy(tmp_path / "out", *DEPLOYMENTS["neuron"]))["startupProbe"]
    limit = probe["initialDelaySeconds"] + probe["periodSeconds"] * probe["failureThreshold"]
    assert limit >= 17100


FP8 = ("Qwen/Qwen3-235B-A22B-FP8", "--instance", "p5.48xlarge", "--tp", "8")


def test_experts_that_cannot_be_cut_are_dealt_out(tmp_path):
    """1536 wide over 8 ranks is 192, which is no whole number of blocks of 128."""
    args = container(deploy(tmp_path / "out", *FP8, "--engine", "vllm"))["args"]
    assert value_of(args, "--tensor-parallel-size") == "8"
    assert "--enable-expert-parallel" in args
    four = (*FP8[:-1], "4")
    args = container(deploy(tmp_path / "four", *four, "--engine", "vllm"))["args"]
    assert "--enable-expert-parallel" not in args
    result = run("deploy", *FP8, "--engine", "tgi", "-o", tmp_path / "tgi")
    assert result.returncode == 78 and "cannot cut the experts" in result.stderr


def test_parts_that_the_cluster_has_no_use_for(tmp_path):
    every = deploy(tmp_path / "out", *DEPLOYMENTS["vllm"])
    assert "replicas" not in every["deployment.yaml"]["spec"]
    parts = "httproute,servicemonitor,rules,dashboard,autoscaler"
    objects = deploy(tmp_path / "out", *DEPLOYMENTS["vllm"], "--without", parts)
    check(objects)
    assert set(every) - set(objects) == {f"{part}.yaml" for part in parts.split(",")}
    # Without an autoscaler the Deployment says how many.
    assert objects["deployment.yaml"]["spec"]["replicas"] == 1
    result = run("deploy", *DEPLOYMENTS["vllm"], "--without", "gateway", "-o", tmp_path / "no")
    assert result.returncode == 64 and "httproute" in result.stderr


def test_a_pool_instead_of_the_service(tmp_path):
    objects = deploy(tmp_path / "out", *DEPLOYMENTS["vllm"], "--endpoint-picker", "picker")
    check(objects)
    references(objects)
    pool = objects["inferencepool.yaml"]["spec"]
    assert pool["endpointPickerRef"]["name"] == "picker"
    labels = pod_of(objects)
    assert pool["selector"]["matchLabels"].items() <= (
        objects["deployment.yaml"]["spec"]["template"]["metadata"]["labels"].items()
    )
    assert labels["containers"][0]["ports"][0]["containerPort"] == pool["targetPorts"][0]["number"]


def test_a_gateway_in_another_namespace(tmp_path):
    """Its routes, and the pods that carry its traffic, which may run in yet another one."""
    arguments = (*DEPLOYMENTS["vllm"], "--gateway-namespace", "edge", "--namespace", "llm")
    objects = deploy(tmp_path / "out", *arguments, "--allow-from", "envoy,10.0.0.0/16")
    check(objects)
    (parent,) = objects["httproute.yaml"]["spec"]["parentRefs"]
    assert parent == {"name": "gateway", "namespace": "edge"}
    text = str(objects["networkpolicy.yaml"]["spec"]["ingress"][0]["from"])
    for client in ("'edge'", "'envoy'", "'10.0.0.0/16'"):
        assert client in text
    output = run("deploy", *arguments, "-o", tmp_path / "out").stdout
    assert "allowedRoutes" in output


def test_replicas_are_spread(tmp_path):
    spread = pod_of(deploy(tmp_path / "out", *DEPLOYMENTS["vllm"]))["topologySpreadConstraints"]
    keys = [constraint["topologyKey"] for constraint in spread]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((MIXTRAL, "--instance", "p4d.24xlage"), 64, "p4d.24xlarge"),
        (("mistralai/Mixtrall-8x7B-v0.1", "--instance", "p5.48xlarge"), 64, "Mixtral-8x7B"),
        ((MIXTRAL, "--instance", "g5.xlarge"), 78, "does not fit"),
        ((MIXTRAL, "--instance", "p5.48xlarge", "--engine", "vlm"), 64, "vllm"),
        ((MIXTRAL, "--instance", "p5.48xlarge", "--engine", "neuron"), 78, "Trainium"),
        ((MIXTRAL, "--instance", "p5.48xlarge", "--max-model-len", "9000000"), 64, "32768"),
        ((MIXTRAL, "--instance", "p5.48xlarge", "--replicas", "0"), 64, "--replicas"),
        ((MIXTRAL, "--name", "Mixtral_8x7B"), 64, "mixtral-8x7b"),
        ((MIXTRAL, "--namespace", "a b"), 64, "--namespace"),
        ((MIXTRAL, "--path-prefix", "mixtral"), 64, "--path-prefix"),
        ((MIXTRAL, "--utilization", "2", "--instance", "p5.48xlarge"), 64, "--utilization"),
        ((MIXTRAL, "--replica", "2", "--max-replicas", "1"), 64, "--max-replicas"),
        ((MIXTRAL, "--nonsense"), 64, "--nonsense"),
        ((), 64, "which model"),
    ],
)
def test_wrong_arguments_write_nothing(arguments, code, says, tmp_path):
    result = run("deploy", *arguments, "-o", tmp_path / "out")
    assert result.returncode == code, result.stdout + result.stderr
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_foreign_files_are_not_overwritten(tmp_path):
    (tmp_path / "service.yaml").write_text("kind: Service\n")
    result = run("deploy", "/models/x", "-o", tmp_path)
    assert result.returncode == 64
    assert "service.yaml" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["service.yaml"]
    (tmp_path / "service.yaml").unlink()
    for _ in range(2):
        assert run("deploy", "/models/x", "-o", tmp_path).returncode == 0
    assert run("deploy", "/models/x", "-o", "/proc/nothing").returncode == 71


# --- alerts ---

OF = 'job="demo",namespace="llm"'


def histogram(name, low, high):
    """Twenty minutes of observations between `low` and `high`, then of ones below `low`."""
    late = "0+60x20 1260+60x30"
    return {
        f'{name}_bucket{{{OF},le="{low}"}}': "0x20 60+60x30",
        f'{name}_bucket{{{OF},le="{high}"}}': late,
        f'{name}_bucket{{{OF},le="+Inf"}}': late,
    }


def experts(busy):
    """Rows of eight experts: one gets `busy` times the rest for 40 minutes, then all are even."""
    series = {
        f'moesaic:expert_tokens_total{{{OF},layer="3",expert="{e}"}}': "0+60x40 2460+60x60"
        for e in range(1, 8)
    }
    series[f'moesaic:expert_tokens_total{{{OF},layer="3",expert="0"}}'] = (
        f"0+{60 * busy}x40 {2400 * busy + 60}+60x60"
    )
    return series


VLLM_STALL = {
    f'vllm:num_requests_running{{{OF},instance="a"}}': "3x40",
    f'vllm:iteration_tokens_total_sum{{{OF},instance="a"}}': "0+600x5 3000x15 3600+600x20",
}
TGI_STALL = {
    f'tgi_batch_current_size{{{OF},instance="a"}}': "3x40",
    f'tgi_batch_inference_count{{{OF},instance="a",method="decode"}}': "0+60x5 300x15 360+60x20",
}
DOWN = {f'up{{{OF},instance="a"}}': "1x5 0x15 1x20", f'up{{{OF},instance="b"}}': "1x5 0x15 0x20"}

# Engine, alert, series by minute, a minute at which it fires, one at which it has cleared.
ALERTS = [
    (
        "moesaic",
        "InferenceFirstTokenLatencyHigh",
        histogram("vllm:time_to_first_token_seconds", 1, 10),
        *(15, 40),
    ),
    (
        "moesaic",
        "InferenceTokenLatencyHigh",
        histogram("vllm:inter_token_latency_seconds", 0.1, 1),
        *(15, 40),
    ),
    (
        "moesaic",
        "InferenceKvCacheFull",
        {f"vllm:kv_cache_usage_perc{{{OF}}}": "0.5x4 0.97x20 0.5x20"},
        *(20, 30),
    ),
    (
        "moesaic",
        "InferenceQueueBacklog",
        {
            f'vllm:num_requests_waiting{{{OF},instance="a"}}': "0x2 30x20 0x20",
            f'vllm:num_requests_waiting{{{OF},instance="b"}}': "0x2 10x20 0x20",
        },
        *(15, 30),
    ),
    (
        "moesaic",
        "InferenceExpertImbalance",
        {**experts(10), f"vllm:generation_tokens_total{{{OF}}}": "0+600x100"},
        *(38, 80),
    ),
    (
        "moesaic",
        "InferenceEngineStalled",
        {f"moesaic:seconds_since_progress{{{OF}}}": "0x3 10+60x10 0x20"},
        *(10, 20),
    ),
    ("moesaic", "InferenceDown", DOWN, 15, 30),
    ("moesaic", "InferenceDown", {'up{job="other"}': "1x40"}, 10, None),
    ("vllm", "InferenceEngineStalled", VLLM_STALL, 15, 35),
    (
        "tgi",
        "InferenceQueueTimeHigh",
        histogram("tgi_request_queue_duration", 1, 10),
        *(15, 40),
    ),
    (
        "tgi",
        "InferenceTokenLatencyHigh",
        histogram("tgi_request_mean_time_per_token_duration", 0.1, 1),
        *(15, 40),
    ),
    (
        "tgi",
        "InferenceKvCacheFull",
        {
            f"tgi_batch_current_max_tokens{{{OF}}}": "10x4 98x20 10x20",
            f"tgi_batch_max_total_tokens{{{OF}}}": "100x60",
        },
        *(20, 30),
    ),
    ("tgi", "InferenceQueueBacklog", {f"tgi_queue_size{{{OF}}}": "0x2 30x20 0x20"}, 15, 30),
    ("tgi", "InferenceEngineStalled", TGI_STALL, 15, 35),
    ("tgi", "InferenceDown", DOWN, 15, 30),
]
# Series that must fire nothing: even experts, bounds not crossed, an idle server with uneven ones.
QUIET = {
    **experts(2),
    f"vllm:generation_tokens_total{{{OF}}}": "0+600x100",
    f"vllm:kv_cache_usage_perc{{{OF}}}": "0.95x100",
    f"vllm:num_requests_waiting{{{OF}}}": "16x100",
    f"moesaic:seconds_since_progress{{{OF}}}": "60x100",
}
IDLE = {**experts(10), f"vllm:generation_tokens_total{{{OF}}}": "5x100"}


@pytest.fixture(scope="session")
def rules(tmp_path_factory):
    """The rules of a service 'demo' in 'llm' for each engine: the objects and promtool's file."""
    found = {}
    for engine in ("moesaic", "vllm", "tgi", "neuron"):
        folder = tmp_path_factory.mktemp(engine)
        instance = "trn2.48xlarge" if engine == "neuron" else "p5.48xlarge"
        objects = deploy(
            folder / "out",
            *(MIXTRAL, "--engine", engine, "--instance", instance),
            *("--name", "demo", "--namespace", "llm"),
        )
        found[engine] = (objects, rules_file(objects, folder / "rules.yml"))
    return found


def promtool_test(rules, folder, series, firing):
    """Checks which alerts fire: minute to names."""
    series = {f'up{{{OF},instance="always"}}': "1x120", **series}
    tests = []
    for minute, names in firing.items():
        samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
        tests.append(
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": samples,
            }
        )
    if any("up{" in name and "always" not in name for name in series):
        del series[f'up{{{OF},instance="always"}}']
    case = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in series.items()],
                "promql_expr_test": tests,
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump(case))
    return subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(("engine", "alert", "series", "fires", "clears"), ALERTS)
def test_alert_fires_and_clears(engine, alert, series, fires, clears, rules, tmp_path):
    expected = {0: [], fires: [alert]}
    if clears is not None:
        expected[clears] = []
    result = promtool_test(rules[engine][1], tmp_path, series, expected)
    assert result.returncode == 0, result.stdout + result.stderr
    # The test itself can fail.
    wrong = promtool_test(rules[engine][1], tmp_path, series, {fires: []})
    assert wrong.returncode != 0


@pytest.mark.parametrize("series", [QUIET, IDLE], ids=["bounds", "idle"])
def test_nothing_fires_without_a_cause(series, rules, tmp_path):
    result = promtool_test(rules["moesaic"][1], tmp_path, series, {m: [] for m in (5, 38, 60, 99)})
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tested(rules):
    for engine, (objects, _) in rules.items():
        names = {rule["alert"] for rule in objects["rules.yaml"]["spec"]["groups"][0]["rules"]}
        tested = {alert for _, alert, *_ in ALERTS}
        assert names <= tested, engine
        if engine in ("moesaic", "tgi"):
            assert names == {alert for e, alert, *_ in ALERTS if e == engine}


def expressions(objects):
    for rule in objects["rules.yaml"]["spec"]["groups"][0]["rules"]:
        yield rule["expr"]
    for panel in dashboard(objects)["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_metric_names_are_in_the_table(rules):
    rows = re.findall(r"^\| `(\S+)` \| (\w+)", (ROOT / "docs/metrics.md").read_text(), re.M)
    known = {name for name, _ in rows} | {"up"}
    for name, kind in rows:
        if kind == "histogram":
            known |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    for engine in ("moesaic", "vllm", "neuron"):
        objects = rules[engine][0]
        used = set()
        for expression in [*expressions(objects), "vllm:num_requests_waiting{"]:
            used |= set(re.findall(r"([a-z0-9_:]+)\{", expression))
        assert used and used <= known, used - known
        assert engine == "moesaic" or not any(name.startswith("moesaic:") for name in used)
        autoscaled = objects["autoscaler.yaml"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
        assert autoscaled in known


def test_the_page_explains_every_alert(rules):
    page = (ROOT / "docs/deploy.md").read_text()
    for objects, _ in rules.values():
        for rule in objects["rules.yaml"]["spec"]["groups"][0]["rules"]:
            assert f"`{rule['alert']}`" in page
    for name in rules["moesaic"][0]:
        assert f"`{name}`" in page


def test_dashboard_is_found_by_grafana(rules):
    for objects, _ in rules.values():
        assert objects["dashboard.yaml"]["metadata"]["labels"]["grafana_dashboard"] == "1"
        board = dashboard(objects)
        assert board["title"] and board["schemaVersion"] > 30
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids)) >= 8
        cells = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
        assert len(set(cells)) == len(cells)
        variables = {variable["name"] for variable in board["templating"]["list"]}
        used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(board)))
        assert used - {"__rate_interval"} <= variables


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, path, **query):
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        body = json.load(answer)
    assert body["status"] == "success", body
    return body["data"]


def test_a_real_prometheus_scrapes_a_server_and_evaluates_the_rules(demo, rules, tmp_path):
    objects, file = rules["moesaic"]
    target = {
        "targets": [demo.url.removeprefix("http://")],
        "labels": {"namespace": "llm", "pod": "demo-0"},
    }
    (tmp_path / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(file)],
                "scrape_configs": [{"job_name": "demo", "static_configs": [target]}],
            }
        )
    )
    port = free_port()
    with open(tmp_path / "log", "w") as log:
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={tmp_path}/prometheus.yml"]
            + [f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            request = urllib.request.Request(
                demo.url + "/v1/completions",
                json.dumps({"model": "demo", "prompt": [5, 6, 7], "max_tokens": 20}).encode(),
                {"Content-Type": "application/json"},
            )
            urllib.request.urlopen(request, timeout=30).read()
            try:
                found = ask(port, "query", query="rate(vllm:generation_tokens_total[10s]) > 0")
                groups = ask(port, "rules")["groups"]
                states = [rule["health"] for group in groups for rule in group["rules"]]
                if found["result"] and states and "unknown" not in states:
                    break
            except OSError:
                pass
            time.sleep(0.3)
        (group,) = ask(port, "rules")["groups"]
        assert len(group["rules"]) == len(objects["rules.yaml"]["spec"]["groups"][0]["rules"])
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
            assert rule["state"] == "inactive", rule
        (scraped,) = ask(port, "targets")["activeTargets"]
        assert scraped["health"] == "up", scraped
        # Every panel's query, with Grafana's variables filled in, is PromQL; most find something.
        full = 0
        queries = 0
        for panel in dashboard(objects)["panels"]:
            for query in panel["targets"]:
                text = query["expr"].replace("$__rate_interval", "30s")
                text = text.replace("$namespace", "llm").replace("$job", "demo")
                full += bool(ask(port, "query", query=text)["result"])
                queries += 1
        assert full > queries * 0.7, (full, queries)
    finally:
        prometheus.terminate()
        prometheus.wait(30)


# --- image ---


def image_recipes(target):
    """The stages of the Dockerfile that a target takes, as scripts/test_image.sh runs them."""
    script = ROOT / "scripts/image_in_chroot.py"
    spec = importlib.util.spec_from_file_location("image_in_chroot", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recipes(target)


def values_of(stages, instruction):
    return [rest for stage in stages for name, rest in stage.steps if name == instruction]


def test_both_images_are_the_same_but_for_cuda():
    cpu, cuda = image_recipes("cpu"), image_recipes("cuda")
    assert [stage.alias for stage in cpu] == ["source", "build", "run", "cpu"]
    assert [stage.alias for stage in cuda] == ["source", "build-cuda", "run", "cuda"]
    assert image_recipes(None)[-1].alias == "cpu", "what is built unless another is asked for"
    for stages in (cpu, cuda):
        assert values_of(stages, "USER") == ["10001:10001"]
        assert values_of(stages[2:], "COPY")[0].endswith("/moesaic /usr/local/bin/moesaic")
        for words in map(str.split, values_of(stages[:2], "COPY")):
            assert all((ROOT / word).exists() for word in words[:-1]), words
    assert not any("CUDA" in text for text in values_of(cpu, "RUN") + values_of(cpu, "ENV"))
    assert "-DMOESAIC_CUDA=ON" in values_of(cuda[1:2], "RUN")[-1]
    # What the container toolkit reads.
    assert set(values_of(cuda, "ENV")) - set(values_of(cpu, "ENV")) == {
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    }


def test_the_image_has_every_library():
    """The packages of both images are those of the libraries that the binary loads."""
    if not shutil.which("dpkg"):
        pytest.skip("not a Debian")
    listed = subprocess.run(["ldd", BINARY], capture_output=True, text=True, check=True).stdout
    if "libasan" in listed:
        pytest.skip("an unoptimised build loads libraries that the image's does not")
    packages = set()
    for library in [line.split()[2] for line in listed.splitlines() if "=>" in line]:
        # By the end of its path: /lib is a link to /usr/lib, and packages know either.
        name = "*/" + "/".join(Path(library).parts[-2:])
        owner = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True, check=True)
        packages.add(owner.stdout.split(":")[0])
    run_stage = next(stage for stage in image_recipes("cpu") if stage.alias == "run")
    named = set(re.findall(r"(?<=\s)lib\S+", str(run_stage.steps)))
    # What every Debian has, and what libhwloc15 and libedit2 bring along.
    packages -= {"libc6", "libgcc-s1", "libstdc++6", "libtinfo6", "libudev1", "libbsd0", "libmd0"}
    assert packages == named


def test_the_image_does_not_run_as_root():
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.M)
    assert "COPY . " not in text
