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
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0
        first = template["spec"]["containers"][0]
        assert first["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert first["resources"]["requests"] and first["resources"]["limits"]
        mounted = {mount["name"] for mount in first["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in template["spec"]["volumes"]}
    listed = objects["kustomization.yaml"]["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(objects)


def references(objects):
    """What points from one object to another leads somewhere."""
    template = next(pod_templates(objects))
    labels = template["metadata"]["labels"]
    (service,) = [body for body in objects.values() if body["kind"] == "Service"]
    selector = dict(service["spec"]["selector"])
    selector.pop("leaderworkerset.sigs.k8s.io/worker-index", None)
    assert selector.items() <= labels.items()
    for name in ("disruptionbudget.yaml", "networkpolicy.yaml"):
        spec = objects[name]["spec"]
        chosen = spec.get("selector", spec.get("podSelector"))["matchLabels"]
        assert chosen.items() <= labels.items()
    monitored = objects["servicemonitor.yaml"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= service["metadata"]["labels"].items()
    backend = objects["httproute.yaml"]["spec"]["rules"][0]["backendRefs"][0]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
    (target,) = [b["metadata"] for b in objects.values() if "replicas" in b.get("spec", {})]
    assert objects["autoscaler.yaml"]["spec"]["scaleTargetRef"]["name"] == target["name"]
    ports = [port["name"] for port in container(objects)["ports"]]
    assert "http" in ports
