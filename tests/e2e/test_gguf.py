"""The demo model as a GGUF file: served, inspected, planned."""

import json
import urllib.request

import as_gguf
import pytest
from conftest import DEMO
from gguf import GGMLQuantizationType
from gguf.constants import ExpertGatingFuncType
from test_life import run

PROMPTS = ("The capital of France is", "Once upon a time", "2 + 2 =\n", "Grüße, 世界 🙂")
F32 = ("--dtype", "float32", "--kv-cache-dtype", "float32")


def ask(served, path, body):
    request = urllib.request.Request(
        served.url + path,
        json.dumps({"model": "demo", "temperature": 0, "max_tokens": 24, **body}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def completions(served):
    """Text and log-probabilities of greedy answers."""
    answers = [
        ask(served, "/v1/completions", {"prompt": prompt, "logprobs": 1})["choices"][0]
        for prompt in PROMPTS
    ]
    return [answer["text"] for answer in answers], [
        answer["logprobs"]["token_logprobs"] for answer in answers
    ]


def chat(served):
    body = {"messages": [{"role": "user", "content": "What is the colour of the sky?"}]}
    answer = ask(served, "/v1/chat/completions", body)
    return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    return as_gguf.write(DEMO, tmp_path_factory.mktemp("gguf") / "demo-F32.gguf")


def test_a_gguf_file_answers_as_its_folder_does(serve, floats):
    folder = serve(DEMO, "--served-model-name", "demo", *F32)
    file = serve(floats, "--served-model-name", "demo", *F32)
    assert completions(file) == completions(folder)
    assert chat(file) == chat(folder)


def test_tokens_are_those_of_the_folder(serve, floats):
    folder = serve(DEMO, "--served-model-name", "demo", *F32)
    file = serve(floats, "--served-model-name", "demo", *F32)
    for text in (*PROMPTS, "tabs\tand  spaces\n\n  x1234 a.b,c", "<|im_start|>user\n<|im_end|>"):
        wanted = ask(folder, "/tokenize", {"prompt": text})["tokens"]
        assert ask(file, "/tokenize", {"prompt": text})["tokens"] == wanted, text


def blocks(name, values):
    """Q8_0 for what has whole blocks; routers and vectors stay as they are."""
    if values.ndim < 2 or "ffn_gate_inp" in name:
        return None
    return GGMLQuantizationType.Q8_0


def test_parts_of_a_quantised_file_are_served_and_come_near(serve, tmp_path):
    path = as_gguf.write(
        DEMO, tmp_path / "demo-Q8_0.gguf", blocks, split_max_tensors=20, small_first_shard=True
    )
    assert not path.exists()
    parts = sorted(tmp_path.glob("demo-Q8_0-*-of-*.gguf"))
    assert len(parts) > 2
    folder = serve(DEMO, "--served-model-name", "demo", *F32)
    _, wanted = completions(folder)
    folder.stop()
    for given in (tmp_path, parts[0], parts[-1]):
        served = serve(given, "--served-model-name", "demo", *F32)
        _, found = completions(served)
        served.stop()
        # The first token's log-probability: later ones may follow another choice.
        for near, exact in zip(found, wanted, strict=True):
            assert near[0] == pytest.approx(exact[0], abs=0.1)
    assert [near for near in found] != wanted


def test_inspect_and_plan_read_it(floats):
    from_folder = json.loads(run("inspect", DEMO, "--json").stdout)
    from_file = json.loads(run("inspect", floats, "--json", "--tensors").stdout)
    for key in ("total_params", "active_params", "layers", "experts", "family", "can_serve"):
        assert from_file[key] == from_folder[key]
    stack = next(t for t in from_file["tensors"] if t["name"] == "blk.0.ffn_gate_exps.weight")
    assert stack["shape"] == [8, 192, 256] and stack["dtype"] == "F32"
    plan = run("plan", floats)
    assert plan.returncode == 0, plan.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pre": "no-such"}, "'tokenizer.ggml.pre' is \"no-such\""),
        (
            {"change": lambda writer: writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)},
            "not softmax",
        ),
    ],
)
def test_what_is_not_known_is_named(tmp_path, change, says):
    path = as_gguf.write(DEMO, tmp_path / "m.gguf", **change)
    answer = run("serve", path)
    assert answer.returncode == 65 and says in answer.stderr, answer.stderr


def test_another_tokenizer_stands_in_for_one_that_is_not_known(serve, tmp_path):
    path = as_gguf.write(DEMO, tmp_path / "m.gguf", pre="no-such")
    served = serve(path, "--served-model-name", "demo", "--tokenizer", DEMO, *F32)
    assert ask(served, "/v1/completions", {"prompt": PROMPTS[0]})["choices"][0]["text"]


def test_truncated_and_damaged_files_end_with_65(tmp_path, floats):
    data = floats.read_bytes()
    path = tmp_path / "m.gguf"
    for damaged in (
        data[:-4096],
        data[:40000],
        data[:3],
        b"GGUF" + b"\xff" * 64,
        b"GGML" + data[4:],
    ):
        path.write_bytes(damaged)
        for command in ("serve", "inspect"):
            answer = run(command, path)
            assert answer.returncode == 65 and str(path) in answer.stderr, answer.stderr


def test_sampling_defaults_come_from_the_metadata(serve, tmp_path):
    def change(writer):
        writer.add_sampling_temp(0.0)

    path = as_gguf.write(DEMO, tmp_path / "m.gguf", change=change)
    served = serve(path, "--served-model-name", "demo", *F32)
    body = {"prompt": "Once upon", "temperature": None}
    texts = {
        ask(served, "/v1/completions", {**body, "seed": seed})["choices"][0]["text"]
        for seed in range(4)
    }
    assert len(texts) == 1
