"""What the memory needs give each term is what the server then allocates."""

import json
import re
import urllib.request

import pytest
from conftest import DEMO, ROOT

CONFIGS = ROOT / "tests/golden/configs"
# Requests and runtime are reserves, not allocated at the start: the first is filled as requests
# come, the second is for what is allocated in small pieces (text, HTTP, the sampler).
COMPARED = ("weights", "kv_cache", "activations")
RESERVES = ("requests", "runtime")
ROWS = ("memory", *COMPARED, *RESERVES, "compared", "total")

MODELS = {
    "demo": [DEMO, "--max-num-seqs", "16"],
    "mixtral": [CONFIGS / "mixtral-8x7b.json", "--load-format", "dummy", "--max-num-seqs", "2"]
    + ["--max-model-len", "512", "--hf-overrides"]
    + [
        '{"num_hidden_layers": 2, "num_local_experts": 4, "intermediate_size": 1792, '
        '"vocab_size": 4000}'
    ],
    "olmoe": [CONFIGS / "olmoe-1b-7b.json", "--load-format", "dummy", "--num-kv-blocks", "300"]
    + ["--max-num-batched-tokens", "300", "--max-model-len", "1k", "--dtype", "float32"]
    + ["--hf-overrides", '{"num_hidden_layers": 1}'],
}


def terms(served, name):
    text = served.get("/metrics")[1]
    found = re.findall(rf'^{name}{{.*term="(\w+)".*}} (\S+)$', text, re.M)
    return {term: float(value) for term, value in found}


@pytest.mark.parametrize("name", MODELS)
def test_terms_are_what_is_allocated(serve, name):
    served = serve(*MODELS[name], "--served-model-name", "m")
    planned = terms(served, "moesaic:memory_planned_bytes")
    actual = terms(served, "moesaic:memory_actual_bytes")
    assert set(planned) == {*COMPARED, *RESERVES}
    for term in COMPARED:
        assert actual[term] > 0
        assert abs(actual[term] / planned[term] - 1) < 0.02, (term, planned, actual)
    log = served.log()
    for term in COMPARED:
        assert re.search(rf" {term} +\S+ [MG]iB +\S+ [MG]iB +(none|[-+]\d\.\d\d%)$", log, re.M)
    for term in RESERVES:
        assert re.search(rf" {term} +\S+ [MG]iB +- +a reserve$", log, re.M)
    for line in log.splitlines():
        if re.search(rf"info  ({'|'.join(ROWS)})  ", line):
            assert len(line) <= 80, line
    # Nothing is allocated late: a full batch changes no term.
    body = {"model": "m", "prompt": [[5, 6, 7] * 60] * 8, "max_tokens": 4, "ignore_eos": True}
    request = urllib.request.Request(
        served.url + "/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=120).read()
    after = terms(served, "moesaic:memory_actual_bytes")
    assert {term: after[term] for term in COMPARED} == {term: actual[term] for term in COMPARED}
    # What the request held goes back.
    assert served.wait_for(lambda: terms(served, "moesaic:memory_actual_bytes")["requests"] == 0)
