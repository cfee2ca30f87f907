"""`migrate` of objects whose pods a controller makes: KServe's and Ray's."""

import pytest
import yaml
from manifests import run
from migrating import MODEL, Moved, pod

RUNTIME = """\
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata: {name: ours}
spec:
  supportedModelFormats: [{name: vLLM, autoSelect: true}]
  multiModel: false
  tolerations: [{key: gpu, operator: Exists}]
  containers:
  - name: kserve-container
    image: quay.io/org/vllm:1
    command: [python, -m, vllm.entrypoints.openai.api_server]
    args: [--port=8080, --model=/mnt/models, '--served-model-name={{.Name}}']
    env: [{name: HOME, value: /tmp}, {name: KEPT, value: '1'}]
    ports: [{containerPort: 8080}]
"""
SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: granite, namespace: ai}
spec:
  predictor:
    minReplicas: 2
    nodeSelector: {pool: gpu}
    model:
      modelFormat: {name: vLLM}
      runtime: ours
      storageUri: ADDRESS
      args: [--max-model-len=4096]
      env: [{name: KEPT, value: '2'}]
      resources: {limits: {cpu: 4, memory: 8Gi}}
"""


def test_an_inference_service_with_its_runtime(tmp_path):
    moved = Moved(tmp_path, RUNTIME, SERVICE.replace("ADDRESS", "hf://org/granite:main"))
    assert moved.args.startswith("serve org/granite ")
    assert "--max-model-len 4096" in moved.args and "--served-model-name=granite" in moved.args
    assert moved.server["ports"][0]["containerPort"] == 8080
    assert moved.env["KEPT"]["value"] == "2"
    assert moved.server["resources"] == {"limits": {"cpu": 4, "memory": "8Gi"}}
    assert moved.pod["nodeSelector"] == {"pool": "gpu"}
    assert moved.pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert moved.deployment["spec"]["replicas"] == 2
    # KServe's own Services have the name without a suffix.
    assert moved.objects["service.yaml"]["metadata"]["name"] == "granite-server"
    assert "kubectl delete InferenceService granite --namespace ai" in moved.report
    assert "Not touched" not in moved.report


def test_a_model_on_a_claim_is_mounted_from_it(tmp_path):
    moved = Moved(tmp_path, RUNTIME, SERVICE.replace("ADDRESS", "pvc://claim/a/granite"))
    assert moved.args.startswith("serve /mnt/models ")
    (mount,) = [m for m in moved.server["volumeMounts"] if m["mountPath"] == "/mnt/models"]
    assert mount["subPath"] == "a/granite"
    volumes = {volume["name"]: volume for volume in moved.pod["volumes"]}
    assert volumes[mount["name"]]["persistentVolumeClaim"]["claimName"] == "claim"


def test_a_model_that_kserve_fetched_is_a_reason(tmp_path):
    moved = Moved(tmp_path, RUNTIME, SERVICE.replace("ADDRESS", "s3://bucket/granite"))
    assert "s3://bucket/granite" in moved.report.split("It cannot start today:")[1]
    assert "kubectl apply" not in moved.report


def test_the_runtime_for_hugging_face_models(tmp_path):
    """It is KServe's own, seldom in the file, and starts vLLM with flags of its own beside."""
    text = """\
    kind: InferenceService
    metadata: {name: llama}
    spec:
      predictor:
        model:
          modelFormat: {name: huggingface}
          args:
          - --model_name=llama
          - --model_id=org/llama
          - --backend=vllm
          - --max_model_len=2048
    """
    moved = Moved(tmp_path, text)
    assert moved.args.startswith("serve org/llama ")
    assert "--served-model-name=llama" in moved.args and "--max-model-len 2048" in moved.args
    assert "--backend" not in moved.args


def test_a_predictor_of_containers(tmp_path):
    text = """\
    kind: InferenceService
    metadata: {name: own}
    spec:
      predictor:
        containers: [{name: kserve-container, image: vllm/vllm-openai, args: [org/m]}]
      transformer: {containers: []}
    """
    moved = Moved(tmp_path, text)
    assert moved.args.startswith("serve org/m ")
    assert "transformer" in moved.report.split("It cannot start today:")[1]


def test_an_llm_inference_service(tmp_path):
    text = """\
    apiVersion: serving.kserve.io/v1alpha1
    kind: LLMInferenceService
    metadata: {name: qwen}
    spec:
      model: {uri: hf://Qwen/Qwen3-30B-A3B, name: qwen}
      replicas: 3
      parallelism: {tensor: 4}
      router: {gateway: {}}
      template:
        containers:
        - name: main
          image: vllm/vllm-openai:v1
          env: [{name: VLLM_ADDITIONAL_ARGS, value: --max-num-seqs 7}]
    """
    moved = Moved(tmp_path, text)
    assert moved.args.startswith("serve Qwen/Qwen3-30B-A3B ")
    for words in ("--served-model-name=qwen", "--tensor-parallel-size 4", "--max-num-seqs 7"):
        assert words in moved.args
    assert moved.deployment["spec"]["replicas"] == 3
    assert "spec.router" in moved.report


def ray(application):
    config = yaml.safe_dump({"applications": [application]})
    body = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "ray"},
        "spec": {
            "serveConfigV2": config,
            "rayClusterConfig": {
                "headGroupSpec": {"template": {"spec": {"containers": [{"name": "head"}]}}},
                "workerGroupSpecs": [
                    {
                        "template": {
                            "spec": {
                                "nodeSelector": {"a": "b"},
                                "containers": [
                                    {
                                        "name": "worker",
                                        "image": "rayproject/ray-llm",
                                        "resources": {"limits": {"nvidia.com/gpu": 2}},
                                    }
                                ],
                            }
                        }
                    }
                ],
            },
        },
    }
    return yaml.safe_dump(body)


LLM = {
    "model_loading_config": {"model_id": "qwen", "model_source": "Qwen/Qwen3-30B-A3B"},
    "engine_kwargs": {
        "tensor_parallel_size": 2,
        "enable_prefix_caching": False,
        "trust_remote_code": True,
        "quantization": None,
    },
    "deployment_config": {"autoscaling_config": {"min_replicas": 2, "max_replicas": 4}},
    "runtime_env": {"env_vars": {"OTHER": "1"}},
}


def test_a_ray_service_of_declared_models(tmp_path):
    app = {"import_path": "ray.serve.llm:build_openai_app", "args": {"llm_configs": [LLM]}}
    moved = Moved(tmp_path, ray(app))
    assert moved.args.startswith("serve Qwen/Qwen3-30B-A3B ")
    assert "--tensor-parallel-size 2" in moved.args
    assert "--no-enable-prefix-caching" in moved.args
    assert "--served-model-name=qwen" in moved.args
    assert "--quantization" not in moved.args
    assert moved.server["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    assert moved.pod["nodeSelector"] == {"a": "b"}
    assert moved.env["OTHER"]["value"] == "1"
    assert moved.deployment["spec"]["replicas"] == 2
    assert moved.objects["service.yaml"]["metadata"]["name"] == "ray-qwen-server"
    assert "kubectl delete RayService ray" in moved.report


NAMED = {
    "a Ray program": (
        ray({"import_path": "vllm_serve:deployment", "runtime_env": {"env_vars": {"M": "x"}}}),
        "runs Python of its own (vllm_serve:deployment)",
    ),
    "a runtime alone": (RUNTIME, "put the InferenceService that uses it into the file"),
    "a runtime elsewhere": (
        SERVICE.replace("name: vLLM", "name: custom"),
        "put its ServingRuntime ours into the file",
    ),
    "another format": (
        SERVICE.replace("name: vLLM", "name: sklearn").replace("runtime: ours", "x: y"),
        "'sklearn' is none of vLLM's",
    ),
    "a Ray cluster": ("kind: RayCluster\nmetadata: {name: c}\n", "what Ray is to run there"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_cannot_be_read_is_named(name, tmp_path):
    text, reason = NAMED[name]
    file = tmp_path / "in.yaml"
    file.write_text(text)
    result = run("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65 and reason in result.stderr
    # Beside a server that is read it is named all the same.
    moved = Moved(tmp_path, pod(MODEL), text)
    assert reason in moved.report.split("Not touched")[1]


@pytest.mark.parametrize(
    "text",
    [
        "kind: InferenceService\nspec: {predictor: 3}\n",
        "kind: InferenceService\nspec: {predictor: {model: {args: {a: b}, modelFormat: vllm}}}\n",
        "kind: InferenceService\nspec: {predictor: {containers: [3]}}\n",
        "kind: RayService\nspec: {serveConfigV2: '[1'}\n",
        "kind: RayService\nspec: {serveConfigV2: 'applications: [3]'}\n",
        "kind: RayService\nspec: {serveConfigV2: {a: b}}\n",
        "kind: LLMInferenceService\nspec: {model: {uri: 'hf://a/b'}, template: {containers: 3}}\n",
        SERVICE.replace("ADDRESS", "hf://").replace("runtime: ours", "x: y"),
        SERVICE.replace("ADDRESS", "pvc://").replace("runtime: ours", "x: y"),
    ],
)
def test_wrong_types_end_with_65(text, tmp_path):
    file = tmp_path / "in.yaml"
    file.write_text(text)
    result = run("migrate", file, "-o", tmp_path / "out")
    assert result.returncode == 65, result.stdout
    assert f"{file}: " in result.stderr and "line " in result.stderr
