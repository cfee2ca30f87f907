"""What `migrate` makes of Deployments as people publish them: nothing of them is lost unsaid."""

import re
import textwrap

import pytest
from test_deploy import bounded, check, container, objects_in, references, run

POD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: x, labels: {app: x, team: ml}, annotations: {owner: me}}
spec:
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}}
    spec:
      containers:
      - name: s
        image: vllm/vllm-openai:v1
"""


class Moved:
    """The result of a migration: the report in one line, and the objects."""

    def __init__(self, folder, *documents):
        file = folder / "in.yaml"
        file.write_text("---\n".join(textwrap.dedent(text) for text in documents))
        result = run("migrate", file, "-o", folder / "out")
        assert result.returncode == 0, result.stderr
        self.report = re.sub(r"\s+", " ", result.stdout)
        self.objects = objects_in(folder / "out")
        check(self.objects)
        references(self.objects)
        self.server = container(self.objects)
        self.args = " ".join(self.server["args"])
        self.env = {entry["name"]: entry for entry in self.server["env"]}
        if "deployment.yaml" in self.objects:
            self.pod = self.objects["deployment.yaml"]["spec"]["template"]["spec"]
            self.check_mounts()

    def check_mounts(self):
        volumes = [volume["name"] for volume in self.pod["volumes"]]
        assert len(set(volumes)) == len(volumes)
        for entry in self.pod["containers"] + self.pod.get("initContainers", []):
            mounts = entry.get("volumeMounts", [])
            assert {mount["name"] for mount in mounts} <= set(volumes)
            assert len({mount["mountPath"] for mount in mounts}) == len(mounts)


def pod(lines, pod_lines="", args=""):
    """POD with more lines in its container and in the pod's spec."""
    text = POD + textwrap.indent(args + textwrap.dedent(lines), " " * 8)
    return text + textwrap.indent(textwrap.dedent(pod_lines), " " * 6)


MODEL = "args: [Qwen/Qwen3-30B-A3B]\n"


def test_fields_are_kept_or_named(tmp_path):
    moved = Moved(
        tmp_path,
        pod(
            """\
            imagePullPolicy: Always
            lifecycle: {preStop: {exec: {command: [sleep, '3']}}}
            resources: {requests: {cpu: 2}, limits: {cpu: 2500m}}
            """,
            """\
            dnsPolicy: Default
            hostNetwork: true
            restartPolicy: Always
            topologySpreadConstraints:
            - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}
            """,
            MODEL,
        ).replace("spec:\n  sel", "spec:\n  replicas: 0\n  revisionHistoryLimit: 3\n  sel"),
    )
    metadata = moved.objects["deployment.yaml"]["metadata"]
    assert metadata["labels"]["team"] == "ml" and metadata["annotations"] == {"owner": "me"}
    assert moved.server["imagePullPolicy"] == "Always"
    assert moved.pod["dnsPolicy"] == "Default"
    assert moved.pod["topologySpreadConstraints"][0]["topologyKey"] == "zone"
    left = moved.report.split("Of the manifest, left out:")[1]
    for field in ("revisionHistoryLimit", "hostNetwork", "lifecycle"):
        assert field in left
    assert "restartPolicy" not in left
    assert "replicas 0 -> 1" in moved.report
    assert "cpu 2500m -> 3" in moved.report and "asked 2, limit 2500m" in moved.report
    assert "memory: a limit, as the manifest had none" in moved.report


def test_volumes_keep_their_names_and_places(tmp_path):
    moved = Moved(
        tmp_path,
        pod(
            """\
            volumeMounts:
            - {mountPath: /var/log/vllm, name: logs}
            - {mountPath: /root/.cache/huggingface, name: hub}
            - {mountPath: /models, name: tmp}
            - {mountPath: /dev/shm, name: node-shm}
            """,
            """\
            initContainers:
            - {name: fetch, image: aws, volumeMounts: [{mountPath: /to, name: hub}]}
            - {name: look, image: aws, volumeMounts: [{mountPath: /in, name: shared}]}
            volumes:
            - {name: logs, persistentVolumeClaim: {claimName: logs}}
            - {name: hub, persistentVolumeClaim: {claimName: hub-claim}}
            - {name: tmp, persistentVolumeClaim: {claimName: models}}
            - {name: node-shm, hostPath: {path: /dev/shm}}
            - {name: shared, emptyDir: {}}
            - {name: idle, emptyDir: {}}
            """,
            MODEL,
        ),
    )
    volumes = {volume["name"]: volume for volume in moved.pod["volumes"]}
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] == "hub-claim"
    assert volumes["logs"]["persistentVolumeClaim"]["claimName"] == "logs"
    assert volumes["own-tmp"]["persistentVolumeClaim"]["claimName"] == "models"
    assert "shared" in volumes and "idle" not in volumes
    mounts = {mount["mountPath"]: mount["name"] for mount in moved.server["volumeMounts"]}
    assert mounts["/cache"] == "cache" and mounts["/models"] == "own-tmp"
    assert moved.pod["initContainers"][0]["volumeMounts"][0]["name"] == "cache"
    assert "volume idle, which nothing mounts now" in moved.report


def test_weights_on_the_node_stay_there(tmp_path):
    moved = Moved(
        tmp_path,
        pod(
            "volumeMounts: [{mountPath: /weights/, name: nvme}]\n",
            "volumes: [{name: nvme, hostPath: {path: /mnt}}]\n",
            "args: [--model, /weights/mixtral]\n",
        ),
    )
    assert {"name": "nvme", "hostPath": {"path": "/mnt"}} in moved.pod["volumes"]


def test_a_claim_template_keeps_its_path(tmp_path):
    text = pod("args: [/data/m/mixtral]\nvolumeMounts: [{name: m, mountPath: /data/m}]\n")
    template = "  volumeClaimTemplates: [{metadata: {name: m}, spec: {}}]\n"
    text = text.replace("  selector", template + "  serviceName: x\n  selector")
    moved = Moved(tmp_path, text.replace("kind: Deployment", "kind: StatefulSet"))
    assert {"name": "cache", "mountPath": "/data/m"} in moved.server["volumeMounts"]
    assert "spec.serviceName" in moved.report


SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: api, labels: {app.kubernetes.io/name: old}, annotations: {lb: nlb}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: x}
  ports:
  - {name: https, port: 443, targetPort: 8443}
  - {name: api, port: 8000, targetPort: 8000}
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: in, resourceVersion: '7'}
spec:
  parentRefs: [{name: edge, sectionName: https}]
  hostnames: [a.example.com, b.example.com]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v1}}]
    backendRefs: [{name: api, port: 8000}]
"""
BUDGET = """\
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: old}
spec: {minAvailable: 1, selector: {matchLabels: {app: x}}}
"""


def test_service_and_route_lead_where_they_led(tmp_path):
    ports = "ports: [{containerPort: 8000, name: api}, {containerPort: 9000}]\n"
    proxy = "- {name: proxy, image: nginx, ports: [{containerPort: 8443}]}\n"
    moved = Moved(tmp_path, pod(ports, proxy, MODEL), SERVICE, ROUTE, BUDGET)
    service = moved.objects["service.yaml"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == [8443, "http"]
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert service["metadata"]["annotations"] == {"lb": "nlb"}
    assert moved.objects["servicemonitor.yaml"]["spec"]["endpoints"][0]["port"] == "api"
    route = moved.objects["httproute.yaml"]
    assert route["metadata"] == {"name": "in"}
    assert route["spec"]["hostnames"] == ["a.example.com", "b.example.com"]
    # A prefix that nobody cut off before is not cut off now.
    assert "filters" not in route["spec"]["rules"][0]
    assert "containerPort 9000" in moved.report
    assert "pods with two budgets are never evicted" in moved.report


def test_without_a_route_the_new_one_takes_one_path(tmp_path):
    rule = Moved(tmp_path, pod(MODEL)).objects["httproute.yaml"]["spec"]["rules"][0]
    assert rule["matches"][0]["path"]["value"] == "/x"


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


def test_a_group_answers_through_its_leader(tmp_path):
    moved = Moved(
        tmp_path,
        """\
        apiVersion: leaderworkerset.x-k8s.io/v1
        kind: LeaderWorkerSet
        metadata: {name: g}
        spec:
          leaderWorkerTemplate:
            size: 2
            leaderTemplate:
              metadata: {labels: {role: leader}}
              spec: {containers: [{name: s, image: vllm/vllm-openai, args: [org/m]}]}
            workerTemplate:
              spec: {containers: [{name: w, image: vllm/vllm-openai}]}
        """,
        """\
        apiVersion: v1
        kind: Service
        metadata: {name: front}
        spec:
          selector: {leaderworkerset.sigs.k8s.io/name: g, role: leader}
          ports: [{port: 8080}]
        """,
    )
    assert moved.objects["service.yaml"]["metadata"]["name"] == "front"
    group = moved.objects["leaderworkerset.yaml"]["spec"]["leaderWorkerTemplate"]
    assert group["leaderTemplate"]["metadata"]["labels"]["role"] == "leader"
    assert "role" not in group["workerTemplate"]["metadata"]["labels"]


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
