"""Runs of the binary, and what every folder of manifests must hold."""

import json
import os
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from conftest import BINARY

HERE = Path(__file__).parent
SCHEMAS = {file.stem: json.loads(file.read_text()) for file in (HERE / "schemas").glob("*.json")}
KUBERNETES = "1.30"


def run(*arguments, environment=None, **more):
    return subprocess.run(
        [str(BINARY), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )


def objects_in(folder):
    return {file.name: yaml.safe_load(file.read_text()) for file in folder.glob("*.yaml")}


def pod_templates(objects):
    for body in objects.values():
        if body["kind"] == "Deployment":
            yield body["spec"]["template"]
        if body["kind"] == "LeaderWorkerSet":
            group = body["spec"]["leaderWorkerTemplate"]
            yield group["leaderTemplate"]
            yield group["workerTemplate"]


def container(objects):
    return next(pod_templates(objects))["spec"]["containers"][0]


def check(objects):
    """Each object against its schema: Kubernetes' own, or ours for what is not in Kubernetes."""
    for name, body in objects.items():
        schema = SCHEMAS.get(body["kind"])
        if schema:
            jsonschema.Draft202012Validator(schema).validate(body)
        else:
            kubernetes_validate.validate(body, KUBERNETES, strict=True)
        assert name == "kustomization.yaml" or len(body["metadata"]["name"]) <= 63
    for template in pod_templates(objects):
        labels = template["metadata"]["labels"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": labels}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, KUBERNETES, strict=True)
        spec = template["spec"]
        first = spec["containers"][0]
        security = {**spec.get("securityContext", {}), **first["securityContext"]}
        assert security["runAsNonRoot"] is (security["runAsUser"] > 0)
        assert first["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        volumes = [volume["name"] for volume in spec["volumes"]]
        assert len(set(volumes)) == len(volumes)
        for entry in spec["containers"] + spec.get("initContainers", []):
            mounts = entry.get("volumeMounts", [])
            assert {mount["name"] for mount in mounts} <= set(volumes)
            # The API server refuses two volumes at one path.
            assert len({mount["mountPath"].rstrip("/") for mount in mounts}) == len(mounts)
    listed = objects["kustomization.yaml"]["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(objects)


def references(objects):
    """What points from one object to another leads somewhere."""
    template = next(pod_templates(objects))
    labels = dict(template["metadata"]["labels"])
    (workload,) = [b for b in objects.values() if b["kind"] in ("Deployment", "LeaderWorkerSet")]
    # The labels that LeaderWorkerSet's controller gives a leader.
    labels["leaderworkerset.sigs.k8s.io/name"] = workload["metadata"]["name"]
    labels["leaderworkerset.sigs.k8s.io/worker-index"] = "0"
    ports = [port["name"] for port in container(objects)["ports"]]
    for name in ("disruptionbudget.yaml", "networkpolicy.yaml"):
        if name in objects:
            spec = objects[name]["spec"]
            chosen = spec.get("selector", spec.get("podSelector"))["matchLabels"]
            assert chosen.items() <= labels.items()
    if "autoscaler.yaml" in objects:
        target = objects["autoscaler.yaml"]["spec"]["scaleTargetRef"]
        assert target["kind"] == workload["kind"]
        assert target["name"] == workload["metadata"]["name"]
    if "service.yaml" not in objects:
        assert "servicemonitor.yaml" not in objects
        return
    service = objects["service.yaml"]
    assert service["spec"]["selector"].items() <= labels.items()
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        everywhere = [
            wanted
            for entry in template["spec"]["containers"]
            for listening in entry.get("ports", [])
            for wanted in (listening.get("name"), listening["containerPort"])
        ]
        assert target in everywhere
    if "servicemonitor.yaml" in objects:
        monitored = objects["servicemonitor.yaml"]["spec"]["selector"]["matchLabels"]
        assert monitored.items() <= service["metadata"]["labels"].items()
    if "httproute.yaml" in objects:
        backend = objects["httproute.yaml"]["spec"]["rules"][0]["backendRefs"][0]
        if backend.get("kind", "Service") == "Service":
            assert backend["name"] == service["metadata"]["name"]
            assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
        else:
            assert objects["inferencepool.yaml"]["metadata"]["name"] == backend["name"]
    assert len(set(ports)) == len(ports)
