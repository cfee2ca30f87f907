"""`migrate` over a deployment that works: what is applied keeps everything around the server as it
was, and nothing is changed or added unsaid."""

import pytest
import yaml
from manifests import objects_in, run
from migrating import MODEL, Moved, pod

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
PROXY = "- {name: proxy, image: nginx, ports: [{containerPort: 8443}]}\n"


def autoscaler(kind="HorizontalPodAutoscaler", api="autoscaling/v2", target="Deployment"):
    return f"""\
    apiVersion: {api}
    kind: {kind}
    metadata: {{name: scaler}}
    spec:
      scaleTargetRef: {{apiVersion: apps/v1, kind: {target}, name: x}}
      minReplicas: 2
      maxReplicas: 5
      metrics: [{{type: Resource, resource: {{name: cpu, target: {{type: Utilization,
        averageUtilization: 60}}}}}}]
    """


def part(moved, heading):
    """What stands under a heading of the report."""
    return moved.report.split(heading + ":")[1].split(" Of the manifest")[0].split(" Wrote to")[0]


# --- the pod ---


def test_fields_are_kept_or_named(tmp_path):
    moved = Moved(
        tmp_path,
        pod(
            """\
            imagePullPolicy: Always
            lifecycle: {preStop: {exec: {command: [sleep, '3']}}}
            """,
            """\
            dnsPolicy: Default
            hostNetwork: true
            restartPolicy: Always
            shareProcessNamespace: true
            topologySpreadConstraints:
            - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}
            """,
            MODEL,
        ).replace(
            "spec:\n  sel",
            "spec:\n  replicas: 0\n  revisionHistoryLimit: 3\n  strategy: {type: Recreate}\n"
            "  progressDeadlineSeconds: 9\n  sel",
        ),
    )
    metadata = moved.deployment["metadata"]
    assert metadata["labels"]["team"] == "ml" and metadata["annotations"] == {"owner": "me"}
    assert moved.server["imagePullPolicy"] == "Always"
    assert moved.pod["dnsPolicy"] == "Default" and moved.pod["shareProcessNamespace"] is True
    assert moved.pod["topologySpreadConstraints"][0]["topologyKey"] == "zone"
    spec = moved.deployment["spec"]
    assert spec["revisionHistoryLimit"] == 3 and spec["strategy"] == {"type": "Recreate"}
    left = part(moved, "Of the manifest, left out")
    for field in ("progressDeadlineSeconds", "hostNetwork", "lifecycle"):
        assert field in left
    assert "restartPolicy" not in left
    # Nobody starts what is scaled down.
    assert spec["replicas"] == 0


RESOURCES = {
    "none": {},
    "requests alone": {"requests": {"cpu": "2", "memory": "64Gi"}},
    "both": {
        "requests": {"cpu": "2"},
        "limits": {"cpu": "2500m", "memory": "8Gi", "nvidia.com/gpu": "2", "rdma/ib": "1"},
    },
    "claims": {"claims": [{"name": "trn"}], "requests": {"cpu": "90"}},
}


@pytest.mark.parametrize("name", RESOURCES)
def test_requests_and_limits_stay(name, tmp_path):
    """No limit is invented: one that is too low ends a server that works."""
    lines = f"resources: {RESOURCES[name]}\n"
    claims = "resourceClaims: [{name: trn, source: {resourceClaimTemplateName: t}}]\n"
    moved = Moved(tmp_path, pod(lines, claims if name == "claims" else "", MODEL))
    assert moved.server.get("resources", {}) == RESOURCES[name]
    assert ("--backend cuda" in moved.args) == (name == "both")
    assert "resourceClaims" in moved.pod or name != "claims"


@pytest.mark.parametrize("value", ["{cpu: [1]}", "{cpu: a lot}", "{memory: {a: b}}", "3"])
def test_amounts_that_are_none_are_refused(value, tmp_path):
    file = tmp_path / "in.yaml"
    file.write_text(pod(f"resources: {{limits: {value}}}\n", "", MODEL))
    result = run("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65 and "resources" in result.stderr


PROBES = {
    "none": ("", 86400),
    "readiness": ("readinessProbe: {httpGet: {port: 1}, initialDelaySeconds: 60}\n", 86400),
    "liveness": (
        "livenessProbe: {initialDelaySeconds: 600, periodSeconds: 30, failureThreshold: 4}\n",
        720,
    ),
    "startup": (
        "startupProbe: {periodSeconds: 30, failureThreshold: 570}\n"
        "livenessProbe: {initialDelaySeconds: 5}\n",
        17100,
    ),
}


@pytest.mark.parametrize("name", PROBES)
def test_a_start_may_take_as_long_as_before(name, tmp_path):
    lines, limit = PROBES[name]
    moved = Moved(tmp_path, pod(lines, "", MODEL))
    probe = moved.server["startupProbe"]
    given = probe["initialDelaySeconds"] + probe["periodSeconds"] * probe["failureThreshold"]
    assert limit <= given <= limit + probe["periodSeconds"]
    assert f"{limit} s" in moved.report
    assert ("as before" in moved.report) == (limit != 86400)


def test_the_containers_beside_the_server_keep_their_user(tmp_path):
    moved = Moved(
        tmp_path,
        pod(
            "securityContext: {capabilities: {add: [SYS_ADMIN]}, privileged: true}\n",
            "- {name: logs, image: fluent}\n"
            "initContainers: [{name: fetch, image: aws, command: [cp, a, b]}]\n"
            "securityContext: {supplementalGroups: [7]}\n",
            MODEL,
        ),
    )
    assert "runAsUser" not in moved.pod["securityContext"]
    assert "runAsNonRoot" not in moved.pod["securityContext"]
    assert moved.pod["securityContext"]["supplementalGroups"] == [7]
    assert moved.server["securityContext"]["runAsUser"] == 10001
    assert moved.pod["initContainers"] == [
        {"name": "fetch", "image": "aws", "command": ["cp", "a", "b"]}
    ]
    left = part(moved, "Of the manifest, left out")
    assert "securityContext.capabilities" in left and "securityContext.privileged" in left


def test_a_user_that_is_not_root_stays(tmp_path):
    """Its files on a volume are its own."""
    security = "securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000}\n"
    moved = Moved(tmp_path, pod("", security, MODEL))
    own = moved.server["securityContext"]
    assert (own["runAsUser"], own["runAsGroup"]) == (1000, 2000)
    assert moved.pod["securityContext"]["fsGroup"] == 3000


@pytest.mark.parametrize("value", [None, False, True])
def test_the_token_of_the_service_account_stays(value, tmp_path):
    line = "" if value is None else f"automountServiceAccountToken: {str(value).lower()}\n"
    moved = Moved(tmp_path, pod("", line, MODEL))
    assert moved.pod.get("automountServiceAccountToken") is value
    assert ("automountServiceAccountToken" in moved.report) == (value is not None)


def test_tolerations_are_the_old_ones(tmp_path):
    gpu = "resources: {limits: {nvidia.com/gpu: 1}}\n"
    assert "tolerations" not in Moved(tmp_path, pod(gpu, "", MODEL)).pod


# --- volumes ---


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
    assert volumes["node-shm"]["hostPath"] == {"path": "/dev/shm"}
    assert "shared" in volumes and "idle" not in volumes
    mounts = {mount["mountPath"]: mount["name"] for mount in moved.server["volumeMounts"]}
    assert mounts["/cache"] == "cache" and mounts["/models"] == "own-tmp"
    assert mounts["/dev/shm"] == "node-shm"
    assert moved.env["HF_HOME"]["value"] == "/cache"
    assert moved.pod["initContainers"][0]["volumeMounts"][0]["name"] == "cache"
    assert "volume idle, which nothing mounts now" in moved.report


SERVED = {
    "hostPath": ("hostPath: {path: /mnt}", ""),
    "nfs": ("nfs: {server: files, path: /m}", ""),
    "subPath": ("persistentVolumeClaim: {claimName: c}", ", subPath: mixtral"),
    "subPathExpr": ("persistentVolumeClaim: {claimName: c}", ", subPathExpr: $(POD_NAME)"),
    "csi": ("csi: {driver: s3.csi.aws.com}", ", readOnly: true"),
    "emptyDir": ("emptyDir: {}", ""),
}


@pytest.mark.parametrize("path", ["/models", "/models/", "/models/mixtral", "/weights/", "/tmp"])
@pytest.mark.parametrize("name", SERVED)
def test_weights_stay_where_they_are(name, path, tmp_path):
    """The volume the model lies on is mounted as it was, whole or in part, and nothing over it."""
    volume, fields = SERVED[name]
    moved = Moved(
        tmp_path,
        pod(
            f"volumeMounts: [{{mountPath: {path}, name: w{fields}}}]\n"
            "env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n",
            f"volumes: [{{name: w, {volume}}}]\n"
            "initContainers:\n"
            "- {name: get, image: aws, volumeMounts: [{name: w, mountPath: /to}]}\n",
            f"args: [--model, {path.rstrip('/')}/m]\n",
        ),
    )
    assert {"name": "w", **yaml.safe_load("{" + volume + "}")} in moved.pod["volumes"]
    (mount,) = [m for m in moved.server["volumeMounts"] if m["name"] == "w"]
    assert mount["mountPath"] == path.rstrip("/")
    for field in ("subPath", "subPathExpr", "readOnly"):
        assert mount.get(field) == yaml.safe_load("{a: b" + fields + "}").get(field)
    if "subPath" in fields:
        assert fields.split(": ")[1] in moved.report
    # The model is there, so no claim is made up, and no weights are kept elsewhere.
    assert "cache.yaml" not in moved.objects
    assert moved.env["MOESAIC_PREPARED_CACHE"]["value"] == "off"


def test_a_new_claim_is_said_with_its_numbers(tmp_path):
    moved = Moved(tmp_path, pod("", "", "args: [org/unknown]\n"))
    claim = moved.objects["cache.yaml"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "500Gi"
    assert "PersistentVolumeClaim x-cache is new: 500 GiB" in moved.report
    known = Moved(tmp_path, pod("", "", "args: [mistralai/Mixtral-8x7B-Instruct-v0.1]\n"))
    size = known.objects["cache.yaml"]["spec"]["resources"]["requests"]["storage"]
    assert size != "500Gi" and size.replace("Gi", " GiB") in known.report


SIZED = {
    "a template": ("", "  volumeClaimTemplates: [{metadata: {name: d}, spec: CLAIM}]\n"),
    "an ephemeral one": ("{name: d, ephemeral: {volumeClaimTemplate: {spec: CLAIM}}}", ""),
    "an empty one": ("{name: d, emptyDir: {sizeLimit: 70Gi}}", ""),
}
CLAIM = "{storageClassName: fast, resources: {requests: {storage: 70Gi}}}"


@pytest.mark.parametrize("name", SIZED)
def test_a_new_claim_is_as_large_as_the_volume_before(name, tmp_path):
    volume, template = (text.replace("CLAIM", CLAIM) for text in SIZED[name])
    text = pod(
        "args: [org/m]\nvolumeMounts: [{name: d, mountPath: /data}]\n", f"volumes: [{volume}]\n"
    ).replace("  selector", f"{template}  replicas: 2\n  selector")
    if template:
        text = text.replace("kind: Deployment", "kind: StatefulSet")
    spec = Moved(tmp_path, text).objects["cache.yaml"]["spec"]
    assert spec["resources"]["requests"]["storage"] == "70Gi"
    assert spec.get("storageClassName") == ("fast" if "CLAIM" in str(SIZED[name]) else None)


def test_what_lay_below_roots_home_moves(tmp_path):
    moved = Moved(
        tmp_path,
        pod(
            "volumeMounts: [{mountPath: /root/.cache, name: c}, {mountPath: /root/w, name: w}]\n",
            "volumes: [{name: c, persistentVolumeClaim: {claimName: c}},\n"
            "  {name: w, hostPath: {path: /w}}]\n",
            "args: [/root/w/m, --chat-template, /root/.cache/t.jinja]\n",
        ),
    )
    mounts = {mount["name"]: mount["mountPath"] for mount in moved.server["volumeMounts"]}
    assert mounts["w"] == "/mnt/w" and mounts["cache"] == "/models"
    assert moved.args.startswith("serve /mnt/w/m ") and "/models/t.jinja" in moved.args
    assert moved.env["HF_HOME"]["value"] == "/models/huggingface"


def test_two_volumes_at_one_path_are_refused(tmp_path):
    mounts = "volumeMounts: [{mountPath: /a, name: v}, {mountPath: /a/, name: v}]\n"
    file = tmp_path / "in.yaml"
    file.write_text(pod(mounts, "volumes: [{name: v, emptyDir: {}}]\n", MODEL))
    result = run("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65 and "two volumes are at /a" in result.stderr


# --- the objects around it ---


def test_service_and_route_lead_where_they_led(tmp_path):
    ports = "ports: [{containerPort: 8000, name: api}, {containerPort: 9000}]\n"
    moved = Moved(tmp_path, pod(ports, PROXY, MODEL), SERVICE, ROUTE, BUDGET)
    service = moved.objects["service.yaml"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == [8443, "api"]
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert service["spec"]["selector"] == {"app": "x"}
    assert service["metadata"]["annotations"] == {"lb": "nlb"}
    assert moved.objects["servicemonitor.yaml"]["spec"]["endpoints"][0]["port"] == "api"
    route = moved.objects["httproute.yaml"]
    assert route["metadata"] == {"name": "in"}
    assert route["spec"]["hostnames"] == ["a.example.com", "b.example.com"]
    # A prefix that nobody cut off before is not cut off now.
    assert "filters" not in route["spec"]["rules"][0]
    assert "containerPort 9000" in moved.report
    # Two budgets over the same pods would keep them from being evicted at all.
    assert moved.objects["disruptionbudget.yaml"]["metadata"]["name"] == "old"
    assert moved.objects["disruptionbudget.yaml"]["spec"]["minAvailable"] == 1


def test_a_port_of_a_side_container_is_not_mistaken(tmp_path):
    """The name that the Service leads to stays the side container's alone."""
    proxy = "- {name: auth, image: p, ports: [{containerPort: 4180, name: http}]}\n"
    service = SERVICE.replace("targetPort: 8443", "targetPort: http")
    ports = "ports: [{containerPort: 8000}]\n"
    moved = Moved(tmp_path, pod(ports, proxy, MODEL), service)
    names = [port.get("name") for c in moved.pod["containers"] for port in c["ports"]]
    assert names.count("http") == 1 and names[0] != "http"
    targets = [port["targetPort"] for port in moved.objects["service.yaml"]["spec"]["ports"]]
    assert targets == ["http", names[0]]


def test_nobody_is_shut_out(tmp_path):
    """Who reaches the pods of a running service is not known: no policy narrows it."""
    moved = Moved(tmp_path, pod("", PROXY, MODEL), SERVICE)
    assert "networkpolicy.yaml" not in moved.objects


def test_a_port_that_only_root_may_bind_stays(tmp_path):
    """Services of other files, and containers beside it, know it by its number."""
    lines = "args: [org/m, --port, '80']\nports: [{containerPort: 80}]\n"
    moved = Moved(tmp_path, pod(lines))
    assert moved.server["ports"][0]["containerPort"] == 80
    assert "--port 80" in moved.args
    assert moved.pod["securityContext"]["sysctls"] == [
        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}
    ]


def test_what_the_file_has_not_is_not_added(tmp_path):
    """It may stand in another file, under the name that ours would have."""
    moved = Moved(tmp_path, pod(MODEL))
    assert sorted(moved.objects) == ["cache.yaml", "deployment.yaml", "kustomization.yaml"]
    assert "no Service is written" in moved.report
    with_service = Moved(tmp_path, pod(MODEL), SERVICE)
    assert "autoscaler.yaml" not in with_service.objects
    assert "httproute.yaml" not in with_service.objects
    without = Moved(
        tmp_path, pod(MODEL), SERVICE, flags=("--without", "servicemonitor,rules,dashboard")
    )
    assert sorted(set(with_service.objects) - set(without.objects)) == [
        *("dashboard.yaml", "rules.yaml", "servicemonitor.yaml")
    ]
    wrong = run("migrate", tmp_path / "in.yaml", "-o", tmp_path / "o", "--without", "gateway")
    assert wrong.returncode == 64 and "httproute" in wrong.stderr


SPACES = [("", "default"), ("default", ""), ("", ""), ("llm", ""), ("", "llm")]


@pytest.mark.parametrize(("workload", "service"), SPACES)
def test_a_service_without_a_namespace_is_that_of_the_pods(workload, service, tmp_path):
    text = pod(MODEL)
    if workload:
        text = text.replace("name: x,", f"name: x, namespace: {workload},")
    other = SERVICE.replace("metadata: {name: api", "metadata: {name: x")
    if service:
        other = other.replace("{name: x, l", f"{{name: x, namespace: {service}, l")
    moved = Moved(tmp_path, text, other)
    assert moved.objects["service.yaml"]["spec"]["type"] == "LoadBalancer"
    assert "Not touched" not in moved.report
    expected = workload or service or None
    for name in ("service.yaml", "deployment.yaml"):
        assert moved.objects[name]["metadata"].get("namespace") == expected


OTHERS = {
    "Service": "spec: {selector: {app: other}, ports: [{port: 1}]}",
    "NetworkPolicy": "spec: {podSelector: {}}",
    "ServiceMonitor": "spec: {}",
    "PrometheusRule": "spec: {}",
    "Deployment": "spec: {template: {spec: {containers: [{name: web, image: nginx}]}}}",
    "PersistentVolumeClaim": "spec: {}",
    "ConfigMap": "data: {}",
    "Ingress": "spec: {}",
}


def test_nothing_that_is_not_touched_is_overwritten(tmp_path):
    """Whatever name an object of the file has that was not read, ours has another or is not
    written."""
    names = ("x", "x-cache", "x-dashboard")
    others = [
        f"kind: {kind}\nmetadata: {{name: {name}}}\n{rest}\n"
        for kind, rest in OTHERS.items()
        for name in names
        if (kind, name) != ("Deployment", "x")
    ]
    moved = Moved(tmp_path, pod(MODEL), SERVICE, *others)
    left = {(kind, name) for kind in OTHERS for name in names} - {("Deployment", "x")}
    written = {
        (b["kind"], b["metadata"]["name"]) for b in moved.objects.values() if "metadata" in b
    }
    assert written and not written & left
    untouched = part(moved, "Not touched; keep applying your own")
    for kind, name in left:
        assert f"- {kind} {name} " in untouched + " "
    volumes = {volume["name"]: volume for volume in moved.pod["volumes"]}
    claim = moved.objects["cache.yaml"]["metadata"]["name"]
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] == claim


def test_replicas_are_the_autoscalers(tmp_path):
    moved = Moved(tmp_path, pod(MODEL), autoscaler())
    assert "replicas" not in moved.deployment["spec"]
    scaler = moved.objects["autoscaler.yaml"]
    assert scaler["metadata"]["name"] == "scaler"
    assert scaler["spec"]["metrics"][0]["resource"]["name"] == "cpu"
    assert scaler["spec"]["maxReplicas"] == 5


def test_beside_a_scaled_object_there_is_no_autoscaler(tmp_path):
    scaled = autoscaler("ScaledObject", "keda.sh/v1alpha1")
    moved = Moved(tmp_path, pod(MODEL), scaled)
    assert "autoscaler.yaml" not in moved.objects
    assert "replicas" not in moved.deployment["spec"]
    assert "ScaledObject scaler: keep applying it" in moved.report


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "ReplicaSet"])
def test_the_old_object_of_another_kind_has_to_go(kind, tmp_path):
    text = pod("args: [/data/m/mixtral]\nvolumeMounts: [{name: m, mountPath: /data/m}]\n")
    template = "  volumeClaimTemplates: [{metadata: {name: m}, spec: {}}]\n"
    text = text.replace(
        "  selector", template + "  serviceName: x\n  revisionHistoryLimit: 4\n  selector"
    )
    scaled = autoscaler(target=kind)
    moved = Moved(tmp_path, text.replace("kind: Deployment", f"kind: {kind}"), scaled)
    assert f"kubectl delete {kind} x" in moved.report
    assert "spec.serviceName" in moved.report
    assert moved.deployment["spec"]["revisionHistoryLimit"] == 4
    assert moved.objects["autoscaler.yaml"]["spec"]["scaleTargetRef"]["kind"] == "Deployment"
    # The claim that its one pod has goes on, with the weights on it.
    assert {"name": "cache", "mountPath": "/data/m"} in moved.server["volumeMounts"]
    volumes = {volume["name"]: volume for volume in moved.pod["volumes"]}
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] == "m-x-0"
    assert "cache.yaml" not in moved.objects


def test_names_that_a_deployment_may_have_stay(tmp_path):
    """Under another name it would run beside the old one, behind the same Service."""
    name = "llama-3.1-8b-" + "x" * 40
    moved = Moved(tmp_path, pod(MODEL).replace("name: x,", f"name: {name},"))
    assert moved.deployment["metadata"]["name"] == name


def test_a_selector_stays_whole(tmp_path):
    expression = "{key: tier, operator: In, values: [a]}"
    text = pod(MODEL).replace(
        "selector: {matchLabels: {app: x}}",
        f"selector: {{matchLabels: {{app: x}}, matchExpressions: [{expression}]}}",
    )
    selector = Moved(tmp_path, text).deployment["spec"]["selector"]
    assert selector["matchExpressions"] == [yaml.safe_load(expression)]


# --- what is not to be applied ---

WORKS = "args: [/models/m]\nvolumeMounts: [{name: m, mountPath: /models}]\n"
DISK = "volumes: [{name: m, persistentVolumeClaim: {claimName: m}}]\n"
REASONS = {
    "a model in the old image": ("args: [/opt/m]\n", "Nothing of the file is mounted at /opt/m"),
    "a model on a new claim": ("args: [/models/m]\n", "Put its folder on the new claim x-cache"),
    "a Hub name": ("args: [org/m]\n", "does not download"),
    "stages": ("args: [/models/m, -pp, '2']\n", "Pipeline stages come later"),
    "two cards": (
        WORKS.replace("m]", "m, -tp, '2']", 1) + "resources: {limits: {nvidia.com/gpu: 2}}\n",
        "Ranks on several CUDA devices come later",
    ),
    "an accelerator": (WORKS + "resources: {limits: {amd.com/gpu: 1}}\n", "NVIDIA cards come"),
    "nf4 at load": (
        "args: [/models/m, --quantization, bitsandbytes]\n",
        "--quantization bitsandbytes",
    ),
    "a placeholder": ("args: [--model, '<MODEL>']\n", "placeholder"),
    "a shell's": ("args: [--model, '${MODEL}']\n", "envsubst"),
    "a shell's in part": ("args: [--model, s3://$BUCKET/m]\n", "envsubst"),
    "a template's": ("args: [--model, '{{.Values.model}}']\n", "helm template"),
    "a Secret's": (
        "args: [--model, $(M)]\nenv: [{name: M, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n",
        "known to the cluster alone",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_start_is_not_applied(name, tmp_path):
    lines, reason = REASONS[name]
    disk = DISK if "volumeMounts" in lines else ""
    moved = Moved(tmp_path, pod(lines, disk), flags=("--image", "registry/moesaic:1"))
    block = moved.report.split("It cannot start today:")[1]
    assert reason in block
    assert "kubectl apply" not in moved.report


def test_what_can_start_is_applied(tmp_path):
    moved = Moved(tmp_path, pod(WORKS, DISK), flags=("--image", "registry/moesaic:1"))
    assert "kubectl apply -k" in moved.report and "cannot start" not in moved.report
    # The default image is in nobody's registry.
    moved = Moved(tmp_path, pod(WORKS, DISK))
    assert "--image" in moved.report.split("It cannot start today:")[1]


@pytest.mark.parametrize("card", ["nvidia.com/gpu", "nvidia.com/mig-3g.40gb", "amd.com/gpu"])
def test_a_card_decides_the_image_and_the_backend(card, tmp_path):
    lines = WORKS + f"resources: {{limits: {{{card}: 1}}}}\n"
    moved = Moved(tmp_path, pod(lines, DISK))
    ours = card.startswith("nvidia.com/")
    assert moved.server["image"] == ("moesaic:0.1.0-cuda" if ours else "moesaic:0.1.0")
    assert ("--backend cuda" in moved.args) == ours
    assert moved.server["resources"]["limits"] == {card: 1}
    moved = Moved(tmp_path, pod(lines, DISK), flags=("--image", "registry/moesaic:1"))
    assert moved.server["image"] == "registry/moesaic:1"
    assert ("kubectl apply -k" in moved.report) == ours


def test_secrets_to_make_stand_before_the_apply(tmp_path):
    lines = WORKS + "env: [{name: DB_PASSWORD, value: a}, {name: AWS_SECRET, value: b}]\n"
    moved = Moved(tmp_path, pod(lines, DISK), flags=("--image", "registry/moesaic:1"))
    made, applied = moved.report.split("Apply:")[1].split("kubectl apply -k")
    assert "kubectl create secret generic x-environment" in made
    assert "--from-literal=DB_PASSWORD=" in made and "--from-literal=AWS_SECRET=" in made
    assert "hidden" not in applied


# --- which container, which objects ---


def test_an_image_with_vllm_in_its_name_is_no_server_yet(tmp_path):
    router = (
        pod("args: [--static-backends, http://x]\n")
        .replace("name: x,", "name: router,")
        .replace("vllm/vllm-openai:v1", "ghcr.io/org/vllm-router:v2")
    )
    own = router.replace("args: [--static-backends, http://x]", "command: [/run.sh]").replace(
        "name: router", "name: own"
    )
    exporter = "- {name: metrics, image: org/vllm-exporter, args: [--port, '9']}\n"
    moved = Moved(tmp_path, router, own, pod("", exporter, MODEL))
    assert moved.deployment["metadata"]["name"] == "x"
    untouched = part(moved, "Not touched; keep applying your own")
    assert "Deployment router: image ghcr.io/org/vllm-router:v2 with arguments that" in untouched
    assert "Deployment own: image ghcr.io/org/vllm-router:v2 starts '/run.sh'" in untouched


def test_what_an_accelerator_is_for_is_named(tmp_path):
    """A server whose start is not in the manifest: its image's own, or a script's."""
    file = tmp_path / "in.yaml"
    lines = "command: [optimum-cli]\nresources: {limits: {aws.amazon.com/neuron: 1}}\n"
    file.write_text(pod(lines).replace("vllm/vllm-openai:v1", "own:1"))
    result = run("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65
    assert "image own:1 starts 'optimum-cli', and what that starts is not known" in result.stderr


def test_the_command_says_more_than_the_image(tmp_path):
    """A side container may stand first, with an image of vLLM's."""
    text = pod("args: [org/bench]\n", "- {name: real, image: r, command: [vllm, serve, org/m]}\n")
    assert Moved(tmp_path, text).args.startswith("serve org/m ")


STARTS = [
    "[python, -m, vllm_neuron.entrypoints.openai.api_server, --model, org/m]",
    "[python3, -m, vllm.entrypoints.api_server, --model=org/m]",
    "[python3, -m, vllm.entrypoints.cli.main, serve, org/m]",
    "[/opt/bin/entrypoint.sh, vllm, serve, org/m]",
    "[sh, -c, 'python -m vllm_neuron.entrypoints.openai.api_server --model org/m']",
]


@pytest.mark.parametrize("command", STARTS)
def test_starts_of_a_server(command, tmp_path):
    text = pod(f"command: {command}\n").replace("vllm/vllm-openai:v1", "own:1")
    assert Moved(tmp_path, text).args.startswith("serve org/m ")


def test_a_batch_job_of_vllm_is_no_server(tmp_path):
    file = tmp_path / "in.yaml"
    command = "[python3, -m, vllm.entrypoints.openai.run_batch, --model, org/m]"
    file.write_text(pod(f"command: {command}\n"))
    result = run("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65 and "no container that runs" in result.stderr


def group(leader):
    return f"""\
    apiVersion: leaderworkerset.x-k8s.io/v1
    kind: LeaderWorkerSet
    metadata: {{name: g}}
    spec:
      leaderWorkerTemplate:
        size: 2
        restartPolicy: None
        {leader}
        workerTemplate:
          spec: {{containers: [{{name: w, image: vllm/vllm-openai, args: [org/m]}}]}}
    """


LEADER = """leaderTemplate:
          metadata: {labels: {role: leader}}
          spec: {containers: [{name: s, image: vllm/vllm-openai, args: [org/m]}]}
"""
FRONT = """\
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  selector: {leaderworkerset.sigs.k8s.io/name: g, ROLE}
  ports: [{port: 8080}]
"""


def test_a_group_answers_through_its_leader(tmp_path):
    moved = Moved(tmp_path, group(LEADER), FRONT.replace("ROLE", "role: leader"))
    assert moved.objects["service.yaml"]["metadata"]["name"] == "front"
    template = moved.objects["leaderworkerset.yaml"]["spec"]["leaderWorkerTemplate"]
    assert template["leaderTemplate"]["metadata"]["labels"]["role"] == "leader"
    assert "role" not in template["workerTemplate"]["metadata"]["labels"]
    assert "restartPolicy None -> RecreateGroupOnPodRestart" in moved.report


def test_a_group_of_one_becomes_a_deployment(tmp_path):
    text = (
        group(LEADER)
        .replace("size: 2", "size: 1")
        .replace(
            "      leaderWorkerTemplate:",
            "      startupPolicy: LeaderReady\n      leaderWorkerTemplate:",
        )
    )
    moved = Moved(tmp_path, text)
    assert moved.deployment["metadata"]["name"] == "g"
    assert "startupPolicy" not in moved.deployment["spec"]
    assert "spec.startupPolicy" in part(moved, "Of the manifest, left out")
    assert "kubectl delete LeaderWorkerSet g" in moved.report


def test_a_group_without_a_template_for_its_leader(tmp_path):
    """Its leader is then one of the workers."""
    index = "leaderworkerset.sigs.k8s.io/worker-index: '0'"
    moved = Moved(tmp_path, group(""), FRONT.replace("ROLE", index))
    assert moved.args.startswith("serve org/m ")
    assert moved.objects["service.yaml"]["metadata"]["name"] == "front"


@pytest.mark.parametrize("kind", ["Pod", "LeaderWorkerSet"])
def test_labels_of_kinds_without_a_selector_stay(kind, tmp_path):
    """A Service that finds the pods by one of the labels that ours are found by."""
    label = "app.kubernetes.io/name: theirs"
    container = "containers: [{name: s, image: vllm/vllm-openai, args: [org/m]}]"
    text = f"kind: Pod\nmetadata: {{name: g, labels: {{{label}}}}}\nspec: {{{container}}}\n"
    if kind == "LeaderWorkerSet":
        text = group(LEADER.replace("role: leader", label))
    service = SERVICE.replace("{app: x}", f"{{{label}}}")
    moved = Moved(tmp_path, text, service)
    assert moved.objects["service.yaml"]["spec"]["selector"] == yaml.safe_load(label)


def test_a_list_is_read_as_its_items(tmp_path):
    """As `kubectl get -o yaml` writes them, with what the cluster added."""
    items = [yaml.safe_load(text) for text in (pod(MODEL), SERVICE)]
    for item in items:
        item["metadata"].update(uid="1", resourceVersion="2", creationTimestamp="3")
        item["status"] = {"replicas": 1}
    moved = Moved(tmp_path, yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items}))
    assert moved.objects["service.yaml"]["metadata"]["name"] == "api"
    for body in moved.objects.values():
        assert not {"uid", "resourceVersion"} & set(body.get("metadata", {}))


TEMPLATES = [
    "metadata:\n  name: {{ .Release.Name }}\n",
    "{{- if .Values.enabled }}\nkind: Deployment\n{{- end }}\n",
    "kind: Deployment\nspec:\n  image: {{{IMAGE}}}\n",
    "kind: Deployment\n{% if x %}\nspec: {}\n{% endif %}\n",
]


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_template_is_named_as_one(text, tmp_path):
    file = tmp_path / "in.yaml"
    file.write_text(text)
    result = run("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65
    assert "template, so render it first" in result.stderr


def test_a_second_run_leaves_nothing_of_the_first(tmp_path):
    Moved(tmp_path, pod(MODEL), SERVICE, ROUTE, BUDGET)
    assert (tmp_path / "out/httproute.yaml").exists()
    Moved(tmp_path, pod(MODEL))
    assert "httproute.yaml" not in objects_in(tmp_path / "out")


def test_objects_without_a_name_belong_to_nobody(tmp_path):
    """The API server refuses them."""
    texts = (SERVICE.replace("name: api, ", ""), BUDGET.replace("name: old", ""))
    moved = Moved(tmp_path, pod(MODEL), *texts, autoscaler().replace("name: scaler", ""))
    for name in ("service.yaml", "disruptionbudget.yaml", "autoscaler.yaml"):
        assert name not in moved.objects
    assert "- Service - PodDisruptionBudget - HorizontalPodAutoscaler" in moved.report


def test_two_workloads_of_one_name_have_objects_apart(tmp_path):
    file = tmp_path / "in.yaml"
    one = pod(MODEL)
    file.write_text(one + "---\n" + one.replace("kind: Deployment", "kind: StatefulSet"))
    assert run("migrate", file, "-o", tmp_path / "out").returncode == 0
    names = [
        (body["kind"], body["metadata"]["name"])
        for folder in (tmp_path / "out").iterdir()
        for body in objects_in(folder).values()
        if body["kind"] != "Kustomization"
    ]
    assert len(set(names)) == len(names) >= 4
