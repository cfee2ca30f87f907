"""A run of `migrate` on manifests made here, and what it says and writes."""

import re
import textwrap

from manifests import check, container, objects_in, references, run

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

    def __init__(self, folder, *documents, flags=()):
        file = folder / "in.yaml"
        file.write_text("---\n".join(textwrap.dedent(text) for text in documents))
        result = run("migrate", file, "-o", folder / "out", *flags)
        assert result.returncode == 0, result.stderr
        self.report = re.sub(r"\s+", " ", result.stdout)
        self.objects = objects_in(folder / "out")
        check(self.objects)
        references(self.objects)
        self.server = container(self.objects)
        self.args = " ".join(self.server["args"])
        self.env = {entry["name"]: entry for entry in self.server["env"]}
        if "deployment.yaml" in self.objects:
            self.deployment = self.objects["deployment.yaml"]
            self.pod = self.deployment["spec"]["template"]["spec"]


def pod(lines, pod_lines="", args=""):
    """POD with more lines in its container and in the pod's spec."""
    text = POD + textwrap.indent(args + textwrap.dedent(lines), " " * 8)
    return text + textwrap.indent(textwrap.dedent(pod_lines), " " * 6)


MODEL = "args: [Qwen/Qwen3-30B-A3B]\n"
